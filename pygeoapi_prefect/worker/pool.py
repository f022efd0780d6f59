"""Keeps warm processes and gives each job the one that suits it."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping

from pygeoapi_prefect.worker.messages import FlowSource
from pygeoapi_prefect.worker.process import JobProcess, start_fork_server
from pygeoapi_prefect.worker.start import Profile, Start, StartPlan

# Flows of one profile that a new process imports before its first job
PRELOADED_FLOWS_AT_MOST = 50
START_ERRORS = (ChildProcessError, TimeoutError, OSError)


class PoolClosed(Exception):
    """No process is given out any more: the worker stops."""


class WarmPool:
    """A fixed number of places for jobs, and processes that wait for them.

    Args:
        size: how many jobs may have a process at the same time.
        environment: variables that every process starts with.
        logger: of the worker.

    Attributes:
        environment: as given.
    """

    def __init__(
        self,
        *,
        size: int,
        environment: Mapping[str, str],
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._size = size
        self.environment = environment
        self._logger = logger
        self._places = asyncio.Semaphore(size)
        self._idle: list[JobProcess] = []
        self._busy: set[JobProcess] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._known_flows: dict[Profile, OrderedDict[str, FlowSource]] = {}
        self._closed = False

    def remember(self, profile: Profile, source: FlowSource) -> None:
        """Import the flow in new processes of that profile, before they get jobs."""
        flows = self._known_flows.setdefault(profile, OrderedDict())
        key = repr((source.entrypoint, sorted(source.environment.items())))
        flows[key] = source
        flows.move_to_end(key)
        while len(flows) > PRELOADED_FLOWS_AT_MOST:
            flows.popitem(last=False)

    async def start(self) -> None:
        """Start the processes; returns when the first one can take a job.

        Raises:
            ChildProcessError: none could be started.
        """
        await asyncio.to_thread(start_fork_server, self.environment)
        profile = max(
            self._known_flows, key=lambda known: len(self._known_flows[known]), default=None
        )
        for _ in range(self._size):
            self._begin_start(profile)
        done, _ = await asyncio.wait(self._starting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def wait_for_place(self) -> None:
        """Take one of the places for jobs.

        Raises:
            PoolClosed: the worker stops.
        """
        await self._places.acquire()
        if self._closed:
            self._places.release()
            raise PoolClosed

    def free_place(self) -> None:
        """Leave a place taken with `wait_for_place`."""
        self._places.release()

    async def take(self, plan: StartPlan, environment: Mapping[str, str]) -> JobProcess:
        """Return a process for a place that was taken; it leaves the place with `give_back`.

        Raises:
            ChildProcessError: no process could be started; the place is left.
        """
        try:
            if plan.start is Start.COLD:
                process = await JobProcess.spawn({**self.environment, **environment})
            else:
                process = await self._choose(None if plan.start is Start.FRESH else plan.profile)
        except BaseException:
            self._places.release()
            raise
        self._busy.add(process)
        return process

    def give_back(self, process: JobProcess, *, replace_because: str | None) -> None:
        """Return a process after its job; give a reason to have it replaced."""
        self._busy.discard(process)
        self._places.release()
        if replace_because is None and process.is_alive and not self._closed:
            self._idle.append(process)
            return
        self._logger.debug("Process %s ends: %s", process.pid, replace_because or "it is gone")
        self._end(process)
        if not self._closed and self._count_warm() < self._size:
            self._begin_start(process.profile)

    async def close(self) -> None:
        """End all processes. Jobs that still run are killed."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for process in self._idle:
            self._end(process)
        self._idle.clear()
        await asyncio.gather(*(process.kill() for process in self._busy))
        await asyncio.gather(*self._ending)

    async def _choose(self, profile: Profile | None) -> JobProcess:
        while True:
            process = self._pick_idle(profile)
            if process is not None:
                process.profile = profile
                return process
            if not self._starting:
                if self._idle:
                    self._end(self._idle.pop(0))
                self._begin_start(None)
            done, _ = await asyncio.wait(self._starting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                # where none starts, the job has to hear it; where one does, it is idle now
                task.result()

    def _pick_idle(self, profile: Profile | None) -> JobProcess | None:
        self._idle = [process for process in self._idle if process.is_alive]
        for wanted in dict.fromkeys((profile, None)):
            for process in reversed(self._idle):
                if process.profile == wanted:
                    self._idle.remove(process)
                    return process
        return None

    def _count_warm(self) -> int:
        return len(self._idle) + len(self._busy) + len(self._starting)

    def _begin_start(self, profile: Profile | None) -> None:
        task = asyncio.create_task(self._start_one(profile))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        # the failure is logged where it happens, and raised where a job waits for it
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    async def _start_one(self, profile: Profile | None) -> None:
        process = None
        if profile is not None and profile in self._known_flows:
            process = await self._fork_with_flows(profile)
        try:
            process = process or await JobProcess.fork(())
        except START_ERRORS as error:
            self._logger.error("A process for jobs could not be started: %s", error)
            raise ChildProcessError("a process for jobs could not be started") from error
        self._idle.append(process)

    async def _fork_with_flows(self, profile: Profile) -> JobProcess | None:
        """Start a process that has imported flows; None where one of them keeps it from that."""
        flows = self._known_flows[profile]
        try:
            process = await JobProcess.fork(tuple(flows.values()))
        except START_ERRORS as error:
            # which of them it was, its own job will tell; those that run well are remembered anew
            self._known_flows.pop(profile, None)
            self._logger.warning(
                "A process ended while it imported flows (%s); none of these is imported "
                "ahead of its jobs any more: %s",
                error,
                ", ".join(sorted({flow.entrypoint for flow in flows.values()})),
            )
            return None
        process.profile = profile
        return process

    def _end(self, process: JobProcess) -> None:
        task = asyncio.create_task(process.stop() if process.is_alive else process.kill())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def why_replace(
    *, jobs_done: int, resident_mib: float, jobs_per_process: int, memory_limit_mib: int
) -> str | None:
    """Why a process must not run another job, or None."""
    if jobs_done >= jobs_per_process:
        return f"it has run {jobs_done} jobs"
    if resident_mib > memory_limit_mib:
        return f"it holds {resident_mib:.0f} MiB, more than {memory_limit_mib} MiB"
    return None
