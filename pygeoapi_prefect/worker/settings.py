"""What an operator may tune; read from `PREFECT_INTEGRATIONS_PYGEOAPI_WORKER_...`."""

import os
from typing import ClassVar

from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import Field
from pydantic_settings import SettingsConfigDict

DEFAULT_PROCESSES_AT_MOST = 4


def _default_processes() -> int:
    return min(os.cpu_count() or 1, DEFAULT_PROCESSES_AT_MOST)


class PygeoapiWorkerSettings(PrefectBaseSettings):
    """Tuning of one worker.

    Each field is the environment variable `PREFECT_INTEGRATIONS_PYGEOAPI_WORKER_<FIELD>`,
    or a key of the table `integrations.pygeoapi.worker` in `prefect.toml`.
    """

    model_config: ClassVar[SettingsConfigDict] = build_settings_config(
        ("integrations", "pygeoapi", "worker")
    )

    processes: int = Field(
        default_factory=_default_processes,
        ge=1,
        description="Warm processes to keep, so jobs that run at the same time. The worker's "
        "`--limit` lowers it. Default: one per CPU, at most 4.",
    )
    jobs_per_process: int = Field(
        default=200,
        ge=1,
        description="Jobs after which a process is replaced by a new one.",
    )
    memory_limit_mib: int = Field(
        default=1024,
        ge=1,
        description="Resident memory in MiB above which a process is replaced after its job.",
    )
    # with what the worker asks besides, less than one call a second
    poll_seconds: float = Field(
        default=1.25,
        ge=0.05,
        description="Seconds between looks at the Prefect API while it sends no events.",
    )
    poll_with_events_seconds: float = Field(
        default=5.0,
        ge=0.05,
        description="Seconds between looks at the Prefect API while its events arrive.",
    )
    cancel_grace_seconds: float = Field(
        default=2.0,
        ge=0,
        description="Seconds that a dismissed job gets to end by itself before it is killed.",
    )
    shutdown_grace_seconds: float = Field(
        default=30.0,
        ge=0,
        description="Seconds that running jobs get when the worker is told to stop. What is "
        "not done by then is handed back and runs again.",
    )
    reap_seconds: float = Field(
        default=15.0,
        ge=0.1,
        description="Seconds between looks for jobs whose worker is gone.",
    )
    api_outage_seconds: float = Field(
        default=600.0,
        ge=0,
        description="Seconds that the end of a job is kept for a Prefect API that is away.",
    )
