"""Web processes that run jobs: what tells one from all others, and which of them are gone.

The Prefect server would take a job for running as long as nobody says otherwise, so each
web process looks after the jobs of all of them.
"""

import contextlib
import dataclasses
import logging
import os
import time
import uuid
from typing import Final, Self

import psutil

from pygeoapi_prefect.background import BackgroundLoop
from pygeoapi_prefect.errors import JobNotFound
from pygeoapi_prefect.gateway import PrefectGateway
from pygeoapi_prefect.os_processes import is_same_process, started_at, this_machine
from pygeoapi_prefect.web_runs import PULSE_SECONDS

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class WebProcess:
    """A process, among those of all machines at all times.

    Attributes:
        machine: Within what the number means it.
        number: The operating system's number of it.
        started: When it started, in seconds since 1970.
    """

    machine: str
    number: int
    started: float

    @classmethod
    def own(cls) -> Self:
        """Return this process."""
        process = psutil.Process(os.getpid())
        return cls(this_machine(), process.pid, process.create_time())

    @classmethod
    def parse(cls, label: str) -> Self:
        """Read a label that `own` has."""
        machine, number, started = label.rsplit(":", 2)
        return cls(machine, int(number), float(started))

    @property
    def label(self) -> str:
        """What runs of its jobs are labelled with."""
        return f"{self.machine}:{self.number}:{self.started:.2f}"

    @property
    def is_alive(self) -> bool | None:
        """Whether it goes on; None where that cannot be seen from here."""
        if self.machine != this_machine():
            return None
        return is_same_process(self.started, started_at(self.number))


class OrphanWatch:
    """Marks jobs ended whose web process is gone: failed, or dismissed if they were to stop.

    One of this machine is gone when there is no such process. One elsewhere is when its jobs
    show no sign of life any more, while this process saw the Prefect API answer all the time:
    without that, no sign could have come. Nobody's clock matters.

    Args:
        gateway: The Prefect server.
    """

    LOOK_SECONDS: Final = 30.0
    SILENCE_SECONDS: Final = 6 * PULSE_SECONDS
    """For how long a process elsewhere shows no sign of life until it counts as gone."""

    def __init__(self, gateway: PrefectGateway) -> None:
        self._gateway = gateway
        self._heard: dict[uuid.UUID, tuple[str | None, float]] = {}

    def loop(self) -> BackgroundLoop:
        """Return a loop that looks from time to time."""

        def step() -> float:
            self.look(time.monotonic())
            return self.LOOK_SECONDS

        return BackgroundLoop(
            step,
            name="orphaned-jobs",
            first_seconds=self.LOOK_SECONDS,
            retry_seconds=self.LOOK_SECONDS,
        )

    def look(self, now: float) -> None:
        """Mark jobs ended whose process is known to be gone by now.

        Args:
            now: Seconds of a clock that is never set.

        Raises:
            BackendUnavailable: The Prefect server does not answer.
        """
        heard_before, self._heard = self._heard, {}
        heard = {}
        for job in self._gateway.web_jobs():
            before = heard_before.get(job.flow_run_id)
            since = now if before is None or before[0] != job.web_pulse else before[1]
            is_alive = WebProcess.parse(job.web_process or "::0").is_alive
            if is_alive is False or (is_alive is None and now - since >= self.SILENCE_SECONDS):
                logger.warning("job %s: its web process %s is gone", job.job_id, job.web_process)
                with contextlib.suppress(JobNotFound):  # removed meanwhile
                    self._gateway.crash(job, "The web server process that ran the job has ended")
            else:
                heard[job.flow_run_id] = (job.web_pulse, since)
        self._heard = heard
