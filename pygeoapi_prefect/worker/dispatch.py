"""Claims due runs for as long as there are places for them."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from uuid import UUID

import httpx
from prefect.client.schemas.objects import FlowRun

from pygeoapi_prefect.worker.api import PAGE_SIZE, RunsApi, is_outage
from pygeoapi_prefect.worker.candidates import Candidates, Rivals
from pygeoapi_prefect.worker.claims import Claim
from pygeoapi_prefect.worker.events import TAKEN_EVENTS, WORK_EVENTS, RunEvent
from pygeoapi_prefect.worker.outlook import Outlook
from pygeoapi_prefect.worker.owner import Owner, find_owner
from pygeoapi_prefect.worker.served import ServedPool
from pygeoapi_prefect.worker.settings import PygeoapiWorkerSettings

# How long a run is left to another worker that is to claim it first
HEAD_START_SECONDS = 0.1
# How many due runs are asked for: they last for a moment, and each costs the server 1 ms
LISTED_PER_PLACE = 8
# How long the answer to "what is due" may be acted upon where no limit is in force
CANDIDATES_FRESH_SECONDS = 1.0
# Prefect takes a queue for one that nobody serves where nobody asks for its runs for 60 s
LISTED_AT_LEAST_EVERY_SECONDS = 30.0
OUTAGE_RETRY_SECONDS = 1.0
# A job that takes longer keeps runs from being claimed before there is a process for them
SHORT_JOB_SECONDS = 2.0


class Dispatcher:
    """Decides when to ask for due runs, by which call, and which of them to claim.

    Args:
        api: of the work pool.
        served: what is known of it.
        me: this worker.
        places: how many jobs run at the same time.
        limit: the worker's own, which an operator has set; None where nobody has.
        settings: of the worker.
        claims: of the worker, by the id of their run.
        begin: claims a run, known as from that time, and runs it.
        on_answer: is called when Prefect has said what is due.
        logger: of the worker.
    """

    def __init__(
        self,
        *,
        api: RunsApi,
        served: ServedPool,
        me: Owner,
        places: int,
        limit: int | None,
        settings: PygeoapiWorkerSettings,
        claims: Mapping[UUID, Claim],
        begin: Callable[[FlowRun, float], None],
        on_answer: Callable[[], None],
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._api = api
        self._served = served
        self._places = places
        self._limit = limit
        self._settings = settings
        self._claims = claims
        self._begin = begin
        self._on_answer = on_answer
        self._logger = logger
        self._rivals = Rivals(me)
        self._candidates = Candidates(self._rivals)
        self._candidates_read_at = 0.0
        self._listed_at = 0.0
        self._outlook = Outlook()
        self._latest_seconds: deque[float] = deque(maxlen=places)
        self._wake = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Claim runs until `stop`.

        Raises:
            httpx.HTTPError: the Prefect API refuses something.
        """
        warned = False
        while not self._stopping:
            self._wake.clear()
            try:
                pause = await self.claim_due_runs()
                self._on_answer()
                warned = False
            except httpx.HTTPError as error:
                if not is_outage(error):
                    raise
                if not warned:
                    self._logger.warning(
                        "The Prefect API is away (%s): waiting for it", type(error).__name__
                    )
                warned = True
                self.look_for_anything()
                await asyncio.sleep(OUTAGE_RETRY_SECONDS)
                continue
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def stop(self) -> None:
        """Claim nothing any more."""
        self._stopping = True
        self._wake.set()

    async def claim_due_runs(self) -> float:
        """Claim as many due runs as there are places; returns seconds until the next look."""
        if self._served.work_pool is None or self._free_places + self._count_ahead() <= 0:
            return self._idle_seconds
        if not self._candidates_are_fresh:
            if self._knows_that_nothing_is_due:
                return self._outlook.certain_seconds
            await self._read_candidates()
        while self._candidates:
            flow_run = self._candidates.choose()
            if self._stopping or not self._may_claim(flow_run):
                return self._idle_seconds
            self._candidates.drop(flow_run.id)
            if flow_run.id not in self._claims:
                self._begin(flow_run, self._candidates_read_at)
        return self._outlook.pause(self._idle_seconds)

    # -- what happens ---------------------------------------------------------------------

    def look_for_anything(self) -> None:
        """Ask again: any run may be due."""
        self._outlook.doubt()
        self._look_for_work()

    def on_run_event(self, event: RunEvent) -> None:
        """Take note of what became of a run of the served queues."""
        run_id = event.flow_run_id
        if event.state not in WORK_EVENTS:
            self._candidates.drop(run_id)
            self._outlook.forget(run_id)
            if event.state in TAKEN_EVENTS and (owner := find_owner(event.message)) is not None:
                self._rivals.note(owner)
        elif run_id not in self._claims:
            self._expect(event)
        elif event.state != "Scheduled":
            # it was resumed before its process had ended: due when the claim ends
            self._outlook.doubt()

    def on_end(self, claim: Claim) -> None:
        """Take note that a run is not this worker's any more, and its place free."""
        if claim.running_since is not None:
            self._latest_seconds.append(time.monotonic() - claim.running_since)
        self._candidates.drop(claim.flow_run.id)
        if self._served.is_limited or self._served.events_since is None:
            self._outlook.expect_work()
        self._wake.set()

    def on_refusal(self, flow_run_id: UUID) -> None:
        """Leave a run alone for a while that Prefect did not give to this worker."""
        self._candidates.refuse(flow_run_id)
        self._outlook.doubt()

    def on_return(self) -> None:
        """Take note that a run which was claimed may wait again."""
        self._outlook.doubt()

    def _expect(self, event: RunEvent) -> None:
        run_id = event.flow_run_id
        if self._candidates or event.state != "Scheduled":
            self._outlook.doubt()
        self._outlook.announce(run_id)
        self._candidates.expect(run_id, event.work_queue_id)
        if self._rivals.leave_to_me(run_id):
            self._look_for_work()
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(HEAD_START_SECONDS, self._look_for_announced, run_id)

    def _look_for_announced(self, flow_run_id: UUID) -> None:
        if self._outlook.expects(flow_run_id):
            self._look_for_work()

    def _look_for_work(self) -> None:
        self._outlook.expect_work()
        self._wake.set()

    # -- places ---------------------------------------------------------------------------

    @property
    def _free_places(self) -> int:
        return self._places - len(self._claims)

    def _count_ahead(self) -> int:
        """How many runs may be claimed while all places are taken."""
        now = time.monotonic()
        since = [claim.running_since for claim in self._claims.values()]
        return runs_to_claim_ahead(
            limits=[*self._served.limits, self._limit],
            ended_seconds=self._latest_seconds,
            running_seconds=[now - began for began in since if began is not None],
        )

    def _may_claim(self, flow_run: FlowRun) -> bool:
        """Whether the run has a place, or will soon have one."""
        if self._free_places > 0:
            return True
        # while it waits, it must not keep another run of its deployment from a slot
        is_limited = flow_run.deployment_id is None or self._api.may_be_limited(
            flow_run.deployment_id
        )
        return not is_limited and self._free_places + self._count_ahead() > 0

    # -- asking ---------------------------------------------------------------------------

    @property
    def _idle_seconds(self) -> float:
        if self._served.events_since is None:
            return self._settings.poll_seconds
        return self._settings.poll_with_events_seconds

    @property
    def _candidates_are_fresh(self) -> bool:
        # a limit or a pause may have come into force since
        age = time.monotonic() - self._candidates_read_at
        is_fresh = age < CANDIDATES_FRESH_SECONDS and not self._served.is_limited
        return bool(self._candidates) and is_fresh

    @property
    def _list_is_overdue(self) -> bool:
        return time.monotonic() - self._listed_at > LISTED_AT_LEAST_EVERY_SECONDS

    @property
    def _knows_that_nothing_is_due(self) -> bool:
        return (
            self._served.events_since is not None
            and self._outlook.certain_seconds > 0
            and not (self._outlook.work_is_likely or self._candidates or self._list_is_overdue)
        )

    async def _read_candidates(self) -> None:
        asked_at = time.monotonic()
        at_most = min(LISTED_PER_PLACE * self._places + self._candidates.refused, PAGE_SIZE)
        with self._candidates.being_listed():
            runs = await self._read_due_runs(at_most, asked_at)
            self._candidates.renew(run for run in runs if run.id not in self._claims)
        if len(runs) >= at_most or len(self._candidates) < len(runs):
            # there may be more; and what is left out here may be due all the same
            self._outlook.doubt()
        self._candidates_read_at = asked_at
        for run in runs:
            self._outlook.forget(run.id)

    async def _read_due_runs(self, at_most: int, asked_at: float) -> list[FlowRun]:
        """Ask for runs by the cheapest call that tells which may start now."""
        is_likely = self._outlook.work_is_likely
        self._outlook.ask()
        nothing_is_kept_back = self._served.keeps_nothing_back
        if self._list_is_overdue or (is_likely and not nothing_is_kept_back):
            return await self._list_due_runs(at_most)
        waiting = await self._api.read_waiting_runs(at_most)
        self._outlook.note_next_start(asked_at + waiting.next_start_seconds)
        if waiting.is_all and (nothing_is_kept_back or not waiting.due):
            # Prefect drops events for those who are slow to read them: not for longer than that
            seconds = min(waiting.next_start_seconds, self._idle_seconds)
            self._outlook.be_certain(asked_at + seconds, asked_at=asked_at)
        if not waiting.due and waiting.is_all:
            return []
        if nothing_is_kept_back and (waiting.is_all or len(waiting.due) == at_most):
            return waiting.due
        due = [run.id for run in waiting.due]
        if waiting.is_all and self._outlook.are_kept_back(due):
            return []
        runs = await self._list_due_runs(at_most)
        if not runs:
            self._outlook.keep_back(due, asked_at=asked_at)
        return runs

    async def _list_due_runs(self, at_most: int) -> list[FlowRun]:
        asked_at = time.monotonic()
        runs = await self._api.read_due_runs(at_most)
        self._logger.debug("Prefect has listed %s due runs", len(runs))
        self._listed_at = asked_at
        return runs


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
