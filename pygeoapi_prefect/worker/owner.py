"""Who works on a flow run: written into Prefect at every moment, and read by other workers."""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote


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


JOB_PROCESS_VARIABLE = "PYGEOAPI_PREFECT_JOB_PROCESS"
"""Of the environment of all that a job starts: it leads back to the job's process when that
is gone, and nothing else does from what has left its session and lost its parent."""


def mark_of(machine: str, pid: int) -> str:
    """What `JOB_PROCESS_VARIABLE` is for a process that runs jobs."""
    return f"{machine}:{pid}"


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
