"""What the deployment of a process is made of, and in what one that exists differs from it."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.flows import Flow

from pygeoapi_prefect.code_storage import PULL_STEP
from pygeoapi_prefect.config import DeploymentConfiguration
from pygeoapi_prefect.deployments.schedules import plan_jobs, schedules_of
from pygeoapi_prefect.deployments.work_pools import WorkPool
from pygeoapi_prefect.errors import ConfigurationError
from pygeoapi_prefect.execution import Plan
from pygeoapi_prefect.flows import DEFINITION_VARIABLE, ENTRYPOINT, ProcessDefinition
from pygeoapi_prefect.jobs import JOB_TAG, run_labels, run_tags
from pygeoapi_prefect.media_types import JSON_MEDIA_TYPE
from pygeoapi_prefect.processes import Process

SERVICE_LABEL: Final = "pygeoapi.service"
"""Of deployments, and thereby of their flow runs: which service has made them."""
OUR_LABELS: Final = "pygeoapi."


@dataclasses.dataclass(frozen=True)
class CodeVersion:
    """Where a version of the code of a process is stored.

    Attributes:
        folder: Folder in the block that has all versions.
        name: Name of the folder of this version.
        key: How the names of all versions of this process begin, and of no others.
    """

    block: str
    folder: str
    name: str
    key: str

    @classmethod
    def of(
        cls, process: Process, deployment: DeploymentConfiguration, service: str, digest: str
    ) -> "CodeVersion":
        """Return where the code of a process belongs that has this digest.

        Processes, and services, may share a folder.
        """
        owner = f"{service}\0{process.process_id}".encode()
        key = f"{hashlib.sha256(owner).hexdigest()[:8]}-"
        return cls(
            block=str(deployment.storage_block),
            folder=deployment.storage_sub_path or process.process_id,
            name=f"{key}{digest}",
            key=key,
        )

    @property
    def path(self) -> str:
        """The folder of this version in the block."""
        return f"{self.folder}/{self.name}"


def code_of(deployment: DeploymentResponse) -> CodeVersion | None:
    """Return where the code of a deployment of ours is stored, if it is in a block."""
    match deployment.pull_steps:
        case [{**step}] if PULL_STEP in step:
            folder, _, name = str(step[PULL_STEP]["folder"]).rpartition("/")
            key = name.partition("-")[0]
            return CodeVersion(str(step[PULL_STEP]["block"]), folder, name, f"{key}-")
    return None


def is_ours(deployment: DeploymentResponse) -> bool:
    """Tell whether this package has made a deployment, for whatever service."""
    return deployment.entrypoint == ENTRYPOINT


def settings_of(
    process: Process,
    flow: Flow[..., Any],
    definition: ProcessDefinition,
    *,
    service: str,
    pool: WorkPool,
    code: CodeVersion | None,
    existing_schedules: Sequence[DeploymentSchedule],
) -> dict[str, Any]:
    """Return what the deployment of a process is made of, as `DeploymentCreate` names it.

    Raises:
        ConfigurationError: The work pool cannot run it as configured, or a schedule is wrong.
    """
    deployment = process.configuration.deployment
    if reserved := [tag for tag in deployment.tags if tag.startswith(JOB_TAG)]:
        raise ConfigurationError(
            f"tag {reserved[0]!r}: those that begin with {JOB_TAG} tell jobs apart"
        )
    plans = plan_jobs(process)
    limit = deployment.concurrency_limit
    settings: dict[str, Any] = {
        "version": flow.version,
        "description": flow.description,
        "tags": [*run_tags(process.process_id), *dict.fromkeys(deployment.tags)],
        "labels": {
            **run_labels(
                process_id=process.process_id,
                result_media_type=_media_type(plans),
                result_storage=process.definition.result_storage,
            ),
            SERVICE_LABEL: service,
        },
        "work_pool_name": pool.name,
        "work_queue_name": deployment.queue,
        "job_variables": pool.job_variables(
            deployment.job_variables,
            {DEFINITION_VARIABLE: definition.model_dump_json(exclude_defaults=True)},
            # where the operator's own modules are, as they are for this command
            directory=None if code else Path.cwd(),
        ),
        "concurrency_limit": limit and limit.limit,
        "concurrency_options": limit
        and ConcurrencyOptions.model_validate(limit.model_dump(exclude={"limit"})),
        "entrypoint": ENTRYPOINT,
        "pull_steps": [{PULL_STEP: {"block": code.block, "folder": code.path}}] if code else None,
        "parameter_openapi_schema": flow.parameters.model_dump_for_openapi(),
        "enforce_parameter_schema": True,
        "schedules": schedules_of(process, plans, existing_schedules),
    }
    if deployment.paused is not None:
        settings["paused"] = deployment.paused
    return settings


def differences(
    before: DeploymentResponse, wanted: Mapping[str, Any], pool: WorkPool
) -> tuple[str, ...]:
    """Name the settings in which an existing deployment is not what it should be."""
    return tuple(_differences(before, wanted, pool))


def _differences(
    before: DeploymentResponse, wanted: Mapping[str, Any], pool: WorkPool
) -> Iterator[str]:
    limit = before.global_concurrency_limit
    current = {
        "labels": {
            name: value for name, value in before.labels.items() if name.startswith(OUR_LABELS)
        },
        "concurrency_limit": limit and limit.limit,
        "pull_steps": before.pull_steps or None,
        "schedules": _comparable(before.schedules),
    }
    if wanted["work_queue_name"] is None and before.work_queue_id == pool.default_queue_id:
        current["work_queue_name"] = None
    for name, value in wanted.items():
        found: Any = current[name] if name in current else getattr(before, name)
        if name == "job_variables":
            yield from _different_members(found, value, name)
        elif found != (_comparable(value) if name == "schedules" else value):
            yield name


def _different_members(
    before: Mapping[str, Any], wanted: Mapping[str, Any], name: str
) -> Iterator[str]:
    for member in sorted(before.keys() | wanted.keys()):
        found, value = before.get(member), wanted.get(member)
        if member == "env" and isinstance(found, Mapping) and isinstance(value, Mapping):
            yield from _different_members(found, value, f"{name}.{member}")
        elif found != value:
            yield f"{name}.{member}"


def _comparable(schedules: Sequence[DeploymentSchedule | DeploymentScheduleCreate]) -> list[Any]:
    compared = [
        (schedule.slug or "", schedule.active, schedule.schedule, schedule.parameters)
        for schedule in schedules
    ]
    return sorted(compared, key=itemgetter(0))


def _media_type(plans: Sequence[Plan]) -> str:
    """Return the media type of the results of scheduled jobs, as far as it is the same for all."""
    media_types = {plan.result_media_type for plan in plans}
    return media_types.pop() if len(media_types) == 1 else JSON_MEDIA_TYPE
