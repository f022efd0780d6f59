"""Ends the runs of workers that are gone."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from uuid import UUID

import httpx
from prefect.client.schemas.objects import FlowRun, StateType, Worker, WorkerStatus
from prefect.settings import get_current_settings

from pygeoapi_prefect.os_processes import is_same_process, started_at
from pygeoapi_prefect.worker.api import RunsApi
from pygeoapi_prefect.worker.owner import Owner, find_owner, mark_of
from pygeoapi_prefect.worker.process import kill_session

GONE = "The worker that ran it is gone."
# After the API was away, a worker reports itself again within the time between two heartbeats
ABSENCE_HEARTBEATS = 1.5


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


class Absences:
    """Since when workers of other machines have been offline, as this one saw it.

    After the Prefect API was away all workers are offline to it, and yet none is gone:
    each gets the time to report itself while this one can see it.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def end(self, online: Collection[str]) -> None:
        """Forget the absence of workers that are online."""
        self._since = {name: at for name, at in self._since.items() if name not in online}

    def forget(self) -> None:
        """Begin anew: there was a time in which nothing could be seen."""
        self._since.clear()

    def lasts(self, worker: str, heartbeat_seconds: float, now: float) -> bool:
        """Whether a worker that is offline stays away.

        Args:
            worker: Its name.
            heartbeat_seconds: How often it reports itself while it is there.
            now: As from `time.monotonic`.
        """
        since = self._since.setdefault(worker, now)
        return now - since >= ABSENCE_HEARTBEATS * heartbeat_seconds


def heartbeat_seconds(worker: Worker | None) -> float:
    """How often a worker reports itself; as often as this one where Prefect does not know."""
    told = None if worker is None else worker.heartbeat_interval_seconds
    return float(told or get_current_settings().worker.heartbeat_seconds)


def online_workers(workers: Mapping[str, Worker]) -> frozenset[str]:
    """The names of workers that Prefect hears from."""
    return frozenset(
        name for name, worker in workers.items() if worker.status is WorkerStatus.ONLINE
    )


class Reaper:
    """Looks for claimed runs that nobody works on.

    Args:
        api: of the work pool.
        me: this worker.
        is_mine: whether this worker works on the run of that id.
        on_cancelling: gets the ids of those of this worker that somebody cancels; it may have
            missed the event.
        logger: of the worker.
    """

    def __init__(
        self,
        *,
        api: RunsApi,
        me: Owner,
        is_mine: Callable[[UUID], bool],
        on_cancelling: Callable[[UUID], None],
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._api = api
        self._me = me
        self._is_mine = is_mine
        self._on_cancelling = on_cancelling
        self._logger = logger
        self._absences = Absences()

    async def reap(self) -> int:
        """End or reschedule every run whose worker is gone; returns how many there were.

        Raises:
            httpx.HTTPError: the Prefect API is away, or refuses something.
        """
        try:
            return await self._reap_all()
        except httpx.HTTPError:
            self._absences.forget()
            raise

    async def _reap_all(self) -> int:
        unfinished = [run for run in await self._api.read_unfinished_runs() if run.state]
        suspects = []
        for run in unfinished:
            if not self._is_mine(run.id):
                suspects.append(run)
            elif run.state is not None and run.state.is_cancelling():
                self._on_cancelling(run.id)
        if not suspects:
            self._absences.forget()
            return 0
        workers = await self._api.read_workers()
        self._absences.end(online_workers(workers))
        reaped = 0
        for run in suspects:
            if not self._seems_well(run, workers):
                reaped += await self._reap_one(run.id, workers)
        return reaped

    def _seems_well(self, listed: FlowRun, workers: Mapping[str, Worker]) -> bool:
        """Whether the owner that the listed run names is there: most are, and cost no call."""
        if listed.state is None or listed.state.is_cancelling():
            # cancelled before it had a process, it still names that of the time before
            return False
        says_whose = (
            listed.state.message if listed.state.is_pending() else listed.infrastructure_pid
        )
        owner = find_owner(says_whose)
        return owner is not None and not self._is_gone(owner, workers)

    async def _reap_one(self, flow_run_id: UUID, workers: Mapping[str, Worker]) -> bool:
        # the run may have ended, and another worker may have claimed it, since it was listed
        run = await self._api.read_run(flow_run_id)
        if run is None or run.state is None or run.state.is_final() or self._is_mine(run.id):
            return False
        owner = await self._find_owner(run)
        if owner is None or not self._is_gone(owner, workers):
            return False
        # a run that ended meanwhile would be left alone, but a process must not be
        await self._end_processes(owner)
        verdict = judge_orphan(
            state=run.state.type.value,
            has_started=run.state.type in (StateType.RUNNING, StateType.CANCELLING),
            run_count=run.run_count,
            retries=run.empirical_policy.retries,
        )
        self._logger.warning(
            "Worker %r is gone: flow run %s will %s", owner.worker, run.id, verdict.value
        )
        await self._execute(verdict, run.id, run.state.id)
        return True

    async def _find_owner(self, run: FlowRun) -> Owner | None:
        """Who claimed the run, and which process ran it, as far as is known."""
        if run.state is not None and run.state.is_pending():
            # it has no process yet; the infrastructure id is that of the time before
            return find_owner(run.state.message)
        named = find_owner(run.infrastructure_pid)
        if named is not None and named.same_worker_process(self._me):
            # the newest that can be: nobody has it but this worker
            return named
        claimed = await self._api.read_last_claim(run.id)
        if claimed is None:
            return named
        if named is not None and named.same_worker_process(claimed):
            return named
        return claimed

    def _is_gone(self, owner: Owner, workers: Mapping[str, Worker]) -> bool:
        """Whether the worker process that claimed a run can no longer end it."""
        if owner.same_worker_process(self._me):
            # claimed in a call whose answer got lost, so that nobody started it
            return True
        if owner.machine == self._me.machine:
            return not is_same_process(owner.started, started_at(owner.pid))
        # Prefect knows workers by their name: one that has ours was replaced by us
        if owner.worker == self._me.worker:
            return True
        interval_seconds = heartbeat_seconds(workers.get(owner.worker))
        return owner.worker not in online_workers(workers) and self._absences.lasts(
            owner.worker, interval_seconds, time.monotonic()
        )

    async def _end_processes(self, owner: Owner) -> None:
        if owner.machine != self._me.machine or owner.job is None:
            return
        if owner.same_worker_process(self._me):
            # the pool ends its own; by now it may be busy with another run
            return
        pid, started = owner.job
        now_started = started_at(pid)
        if now_started is None or is_same_process(started, now_started):
            await asyncio.to_thread(kill_session, pid, mark_of(owner.machine, pid))

    async def _execute(self, verdict: Verdict, flow_run_id: UUID, state_id: UUID) -> None:
        # another worker may judge the same run at the same time
        if verdict is Verdict.RUN_AGAIN:
            await self._api.run_again(flow_run_id, GONE, only_in_state=state_id)
        elif verdict is Verdict.CANCEL:
            await self._api.cancel(flow_run_id, "Flow run was cancelled; its worker is gone.")
        else:
            await self._api.crash(flow_run_id, GONE, only_in_state=state_id)
