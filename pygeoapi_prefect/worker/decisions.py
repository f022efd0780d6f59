"""What the worker decides, without doing it: pure functions and values.

How a job starts, when a process is replaced, how many runs are claimed, and whether the
worker that claimed a run is gone.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, unquote

from prefect.client.schemas.objects import State

from pygeoapi_prefect.os_processes import is_same_process

# What an interpreter or a C library reads once, when it starts: a process that runs
# already cannot follow it. Prefect caches its settings likewise.
_READ_AT_START = re.compile(
    r"^(PYTHON|PREFECT_|LD_|DYLD_|MALLOC_|GLIBC_|OMP_|OPENBLAS_|MKL_|NUMEXPR_|NUMBA_|VIRTUAL_ENV$)"
)
# By which a job of `pygeoapi-prefect deploy` knows its process; that module imports pygeoapi
PROCESS_VARIABLE = "PYGEOAPI_PREFECT_PROCESS"
# What the worker or this package sets for each job, and reads when the job starts
_CHANGES_PER_JOB = re.compile(rf"^(PREFECT__|{PROCESS_VARIABLE}$)")
# A job that takes longer keeps runs from being claimed before there is a process for them
SHORT_JOB_SECONDS = 2.0
_STAY_IN_DIRECTORY = re.compile(r"^prefect\.deployments(\.steps)?\.(pull\.)?set_working_directory$")


class Start(StrEnum):
    """How the process of a job comes about, fastest first."""

    WARM = "warm"
    """A process that has run jobs of the same code and environment before."""
    FRESH = "fresh"
    """A new fork with Prefect and pygeoapi imported, for this job alone."""
    COLD = "cold"
    """A new interpreter."""


@dataclass(frozen=True)
class Profile:
    """What a warm process is bound to by the first job it runs.

    Modules may read the environment and the working directory when they are imported,
    and two directories may hold modules of the same name: jobs that differ in either do
    not share a process.
    """

    environment: frozenset[tuple[str, str]]
    directory: str | None


@dataclass(frozen=True)
class StartPlan:
    """How to start a job, and why not faster."""

    start: Start
    profile: Profile
    reason: str = ""


def plan_start(
    *,
    entrypoint: str,
    pull_steps: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str],
    worker_environment: Mapping[str, str],
    working_directory: str | None,
    command: str | None,
) -> StartPlan:
    """Decide how a job can start.

    Args:
        entrypoint: of the deployment, `package.module.flow` or `path/file.py:flow`.
        pull_steps: of the deployment.
        environment: the variables that the deployment sets, above those of the worker.
        worker_environment: the variables that every warm process has.
        working_directory: job variable; None for a temporary one.
        command: job variable; None unless the operator configured one.
    """
    own = {
        name: value
        for name, value in environment.items()
        if worker_environment.get(name) != value and not _CHANGES_PER_JOB.match(name)
    }
    profile = Profile(frozenset(own.items()), working_directory)
    if command is not None:
        return StartPlan(Start.COLD, profile, "the job variable `command` names a command")
    at_start = sorted(name for name in own if _READ_AT_START.match(name))
    if at_start:
        reason = f"a running interpreter cannot follow {', '.join(at_start)}"
        return StartPlan(Start.COLD, profile, reason)
    directory = _fixed_directory(pull_steps)
    if directory is not None:
        return StartPlan(Start.WARM, Profile(profile.environment, directory))
    if pull_steps:
        return StartPlan(Start.FRESH, profile, "its pull steps bring new code for each run")
    if ":" in entrypoint:
        return StartPlan(Start.FRESH, profile, "its code is copied from storage for each run")
    return StartPlan(Start.WARM, profile)


def _fixed_directory(pull_steps: Sequence[Mapping[str, Any]]) -> str | None:
    """The directory that the pull steps change to, where they do nothing else."""
    directory = None
    for step in pull_steps:
        for function, arguments in step.items():
            target = arguments.get("directory") if isinstance(arguments, Mapping) else None
            if not _STAY_IN_DIRECTORY.match(function) or not isinstance(target, str):
                return None
            if not target.startswith("/") or "{{" in target:
                return None
            directory = target
    return directory


def why_replace(
    *, jobs_done: int, resident_mib: float, jobs_per_process: int, memory_limit_mib: int
) -> str | None:
    """Why a process must not run another job, or None."""
    if jobs_done >= jobs_per_process:
        return f"it has run {jobs_done} jobs"
    if resident_mib > memory_limit_mib:
        return f"it holds {resident_mib:.0f} MiB, more than {memory_limit_mib} MiB"
    return None


def runs_to_claim_ahead(
    *,
    limits: Iterable[int | None],
    ended_seconds: Collection[float],
    running_seconds: Collection[float],
) -> int:
    """How many runs to claim beyond those that have a process.

    One waiting run keeps a process from idling while the next is claimed. It waits while
    another worker may be idle, so that it has to be sure of a process soon; and it holds a
    slot of the limits that Prefect counts, which another run could use.

    Args:
        limits: of the work pool and its queues.
        ended_seconds: how long the latest jobs took.
        running_seconds: how long those that run have taken so far.
    """
    if any(limit is not None for limit in limits):
        return 0
    took_short = ended_seconds and max(ended_seconds) < SHORT_JOB_SECONDS
    return 1 if took_short and min(running_seconds, default=0.0) < SHORT_JOB_SECONDS else 0


@dataclass(frozen=True)
class Owner:
    """The worker process that claimed a flow run, and the process that runs it.

    Attributes:
        worker: name of the worker.
        machine: within which the process ids mean these processes.
        pid: of the worker.
        started: when the worker's process started, in whole seconds since 1970.
        job: process id and start of the process that runs the flow; None until there
            is one. The process leads a session with all that the flow starts.
    """

    worker: str
    machine: str
    pid: int
    started: int
    job: tuple[int, int] | None = None

    def __str__(self) -> str:
        """One line without blanks, fit for a flow run's `infrastructure_pid`."""
        names = [quote(self.worker, safe=""), quote(self.machine, safe="")]
        numbers = [self.pid, self.started, *(self.job or ())]
        return ":".join(["pygeoapi", *names, *map(str, numbers)])

    def same_worker_process(self, other: "Owner") -> bool:
        """Whether both were claimed by one and the same worker process."""
        mine = (self.worker, self.machine, self.pid, self.started)
        return mine == (other.worker, other.machine, other.pid, other.started)


_OWNER = re.compile(
    r"pygeoapi:(?P<worker>[^:\s]+):(?P<machine>[^:\s]+):(?P<pid>\d+):(?P<started>\d+)"
    r"(?::(?P<job_pid>\d+):(?P<job_started>\d+))?"
)


def find_owner(text: str | None) -> Owner | None:
    """The owner written in an `infrastructure_pid` or in the message of a state."""
    found = _OWNER.search(text or "")
    if found is None:
        return None
    return Owner(
        worker=unquote(found["worker"]),
        machine=unquote(found["machine"]),
        pid=int(found["pid"]),
        started=int(found["started"]),
        job=(int(found["job_pid"]), int(found["job_started"])) if found["job_pid"] else None,
    )


def find_replaced(state: State[Any], others: Sequence[State[Any]]) -> State[Any] | None:
    """The state of a flow run that `state` took the place of.

    The newest one need not be it: a state has the time at which it was asked for, and may
    have waited for the database while the run went on. A pending one tells by its time,
    which is that of the scheduled state, and missing after an end.

    Args:
        state: of a flow run.
        others: its other states.
    """
    if state.is_pending():
        scheduled_for = state.state_details.scheduled_time
        others = [
            other
            for other in others
            if (
                other.is_final()
                if scheduled_for is None
                else other.is_scheduled() and other.state_details.scheduled_time == scheduled_for
            )
        ]
    return max(others, key=lambda other: other.timestamp, default=None)


@dataclass(frozen=True)
class Surroundings:
    """What a worker knows about itself and the other workers of its pool.

    Attributes:
        me: this worker.
        started_by_pid: when the process of that id on this machine started, in seconds
            since 1970; without those that do not run.
        online_workers: names of the pool's workers that Prefect hears from.
    """

    me: Owner
    started_by_pid: Mapping[int, float]
    online_workers: frozenset[str]


def is_gone(owner: Owner, surroundings: Surroundings) -> bool:
    """Whether the worker process that claimed a run can no longer end it."""
    if owner.same_worker_process(surroundings.me):
        return False
    if owner.machine == surroundings.me.machine:
        return not is_same_process(owner.started, surroundings.started_by_pid.get(owner.pid))
    # Prefect knows workers by their name: one that has ours was replaced by us
    return owner.worker == surroundings.me.worker or owner.worker not in (
        surroundings.online_workers
    )


class Verdict(StrEnum):
    """What becomes of a run whose worker is gone."""

    RUN_AGAIN = "run again"
    CRASH = "crash"
    CANCEL = "cancel"


def judge_orphan(*, state: str, has_started: bool, run_count: int, retries: int | None) -> Verdict:
    """Decide about a run whose worker is gone.

    Args:
        state: type of its Prefect state.
        has_started: whether its flow has begun.
        run_count: how often its flow has begun.
        retries: how often it may begin again; None where nobody said so.
    """
    if state == "CANCELLING":
        return Verdict.CANCEL
    if not has_started or state == "SCHEDULED":
        return Verdict.RUN_AGAIN
    return Verdict.RUN_AGAIN if run_count <= (retries or 0) else Verdict.CRASH
