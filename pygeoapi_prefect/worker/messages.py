"""What the worker and its processes say to each other over their pipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, State

from pygeoapi_prefect.prefect_private import Intent


@dataclass(frozen=True)
class FlowSource:
    """Where the flow of a deployment is found.

    Attributes:
        entrypoint: as in the deployment.
        environment: variables to set before it is loaded.
        directory: to load it in; None where it does not matter.
        from_storage: leave it to Prefect to fetch the code, as a stock worker does.
    """

    entrypoint: str
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: str | None = None
    from_storage: bool = False


@dataclass(frozen=True)
class Job:
    """One flow run, claimed and ready to start.

    Attributes:
        flow_run: with the state that the server gave it last.
        source: of its flow.
        working_directory: to run in; None for a temporary one.
        owner: its infrastructure id.
        show_output: whether its stdout and stderr go to those of the worker.
    """

    flow_run: FlowRun
    source: FlowSource
    working_directory: str | None
    owner: str
    show_output: bool


@dataclass(frozen=True)
class HookJob:
    """Run the hooks of a flow whose process was killed."""

    job: Job
    kind: Literal["cancellation", "crashed"]
    state: State[object]


@dataclass(frozen=True)
class Interrupt:
    """End the running job at once; `intent` tells what becomes of it."""

    intent: Intent


@dataclass(frozen=True)
class Suspended:
    """The flow run was suspended from outside: stop at the next task."""

    flow_run_id: UUID
    state: State[object]


@dataclass(frozen=True)
class Stop:
    """End after what runs now."""


@dataclass(frozen=True)
class Ready:
    """The process has started and can take jobs."""

    pid: int


@dataclass(frozen=True)
class Loaded:
    """The flow of the job is loaded; which hooks it has that need a living process."""

    cancellation_hooks: bool
    crashed_hooks: bool


@dataclass(frozen=True)
class Stale:
    """Code that the process has imported changed on disk: it did not take the job."""

    module: str


@dataclass(frozen=True)
class Done:
    """The job has ended in its process.

    Attributes:
        exit_code: 0 where the flow engine told Prefect how the run ended.
        explanation: without paths or values; empty with exit code 0.
        resident_mib: memory of the process now, in MiB.
    """

    exit_code: int
    explanation: str
    resident_mib: float


@dataclass(frozen=True)
class Died:
    """The process is gone. The worker says it to itself; no process sends it."""

    exit_code: int


ToProcess = Job | HookJob | Interrupt | Suspended | Stop
FromProcess = Ready | Loaded | Stale | Done
