"""The Prefect worker of work pools of type `pygeoapi`.

It claims flow runs as soon as Prefect has them and hands each to a process that has
Prefect, pygeoapi and the flow imported already. What it decides is in `decisions.py`,
how processes are kept in `pool.py`, what they do in `child.py`.
"""

import asyncio
import contextvars
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import anyio.abc
import httpx
from prefect.client.schemas.filters import WorkQueueFilter
from prefect.client.schemas.objects import FlowRun, WorkPool, WorkQueue
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings
from prefect.workers.base import BaseWorker

from pygeoapi_prefect.os_processes import started_at, this_machine
from pygeoapi_prefect.worker.api import PAGE_SIZE, RunsApi, is_missing, is_outage
from pygeoapi_prefect.worker.candidates import Candidates, Rivals
from pygeoapi_prefect.worker.claims import Claim, Prepared, RunExecutor, WaitedInVain, prepare
from pygeoapi_prefect.worker.configuration import (
    PygeoapiJobConfiguration,
    PygeoapiVariables,
    PygeoapiWorkerResult,
)
from pygeoapi_prefect.worker.decisions import (
    SHORT_JOB_SECONDS,
    Owner,
    Start,
    find_owner,
    runs_to_claim_ahead,
)
from pygeoapi_prefect.worker.events import (
    END_EVENTS,
    SUSPEND_EVENTS,
    TAKEN_EVENTS,
    WORK_EVENTS,
    PoolChange,
    PoolEvents,
    RunEvent,
)
from pygeoapi_prefect.worker.outlook import Outlook
from pygeoapi_prefect.worker.pool import WarmPool
from pygeoapi_prefect.worker.reaper import Reaper
from pygeoapi_prefect.worker.settings import PygeoapiWorkerSettings

# How long a run is left to another worker that is to claim it first
HEAD_START_SECONDS = 0.1
# How long a claimed run waits for a process, while another worker may be idle
PATIENCE_SECONDS = SHORT_JOB_SECONDS
# How many due runs are asked for: they last for a moment, and each costs the server 1 ms
LISTED_PER_PLACE = 8
# How long the answer to "what is due" may be acted upon where no limit is in force
CANDIDATES_FRESH_SECONDS = 1.0
# Between looks where runs are due, but limits or pauses keep them back
KEPT_BACK_SECONDS = 5.0
# Prefect takes a queue for one that nobody serves where nobody asks for its runs for 60 s
LISTED_AT_LEAST_EVERY_SECONDS = 30.0
# Prefect announces changes of deployments, queues and pools before it has stored them
SETTLED_AFTER_SECONDS = 10.0
# Prefect drops events for those who are slow to read them, without a word
DEPLOYMENT_KNOWN_SECONDS = 30.0
OUTAGE_RETRY_SECONDS = 1.0
# For what a worker that stops still has to tell Prefect
HAND_BACK_SECONDS = 15.0


class PygeoapiWorker(BaseWorker[PygeoapiJobConfiguration, PygeoapiVariables, PygeoapiWorkerResult]):
    """Runs flow runs in warm processes.

    Serves every deployment that a stock process worker serves. See
    `PygeoapiWorkerSettings` for what can be tuned.
    """

    type = "pygeoapi"
    job_configuration = PygeoapiJobConfiguration
    job_configuration_variables = PygeoapiVariables

    _display_name = "pygeoapi"
    _description = "Run flow runs in processes that are kept warm, for jobs that are short."

    def __init__(
        self,
        work_pool_name: str,
        *args: Any,
        settings: PygeoapiWorkerSettings | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(work_pool_name, *args, **kwargs)
        self._tuning = settings or PygeoapiWorkerSettings()
        self._owner = Owner(
            worker=self.name,
            machine=this_machine(),
            pid=os.getpid(),
            started=int(started_at(os.getpid()) or 0),
        )
        self._claims: dict[UUID, Claim] = {}
        self._rivals = Rivals(self._owner)
        self._candidates = Candidates(self._rivals)
        self._candidates_read_at = 0.0
        self._listed_at = 0.0
        self._kept_back_until = 0.0
        self._outlook = Outlook()
        self._latest_seconds: deque[float] = deque(maxlen=self._places)
        self._queues: list[WorkQueue] = []
        self._sync_trouble = ""
        self._watched_at_connection: float | None = None
        self._pool_known_at = -math.inf
        self._pool_changed_at = -math.inf
        self._deployments_changed_at: dict[UUID, float] = {}
        self._wake = asyncio.Event()
        self._work_is_likely = True
        self._stopping = False
        self._hurry = asyncio.Event()
        self._runs_once = False
        self._loops = anyio.CancelScope()
        self._background: set[asyncio.Task[Any]] = set()
        self._learn_pool_at = math.inf
        self._worker_environment: dict[str, str] = {}
        self._context = contextvars.copy_context()
        self._events: PoolEvents | None = None

    async def start(
        self,
        run_once: bool = False,
        with_healthcheck: bool = False,
        printer: Callable[..., None] = print,
    ) -> None:
        """Run until told to stop; with `run_once`, until what is due now has ended.

        SIGTERM and SIGINT stop it, a second one cuts the grace of running jobs short.
        """
        self._runs_once = run_once
        with _signals_call(self._stop_at_signal(asyncio.current_task())):
            await super().start(run_once, with_healthcheck, printer)

    def _stop_at_signal(
        self, running: asyncio.Task[Any] | None
    ) -> Callable[[signal.Signals], None]:
        def stop(number: signal.Signals) -> None:
            if self._stopping or running is None:
                self._logger.info("%s again: not waiting for running jobs any more", number.name)
                self._hurry.set()
            else:
                self._logger.info("%s: this worker stops", number.name)
                self._stopping = True
                running.cancel()

        return stop

    async def setup(self) -> None:
        """Connect to Prefect, start the processes, and begin to look for work."""
        await super().setup()
        self._worker_environment = {
            **os.environ,
            **get_current_settings().to_environment_variables(exclude_unset=True),
        }
        self._api = RunsApi(
            self.client,
            work_pool=self._work_pool_name,
            work_queues=self._work_queues,
            outage_seconds=self._tuning.api_outage_seconds,
            logger=self._logger,
        )
        self._pool = WarmPool(
            size=self._places, environment=self._worker_environment, logger=self._logger
        )
        self._executor = RunExecutor(
            api=self._api,
            pool=self._pool,
            settings=self._tuning,
            owner=self._owner,
            run_logger=self.get_flow_run_logger,
        )
        self._reaper = Reaper(
            api=self._api,
            me=self._owner,
            is_mine=self._claims.__contains__,
            on_cancelling=self._end_cancelled,
            logger=self._logger,
        )
        if self._runs_task_group is None:
            raise RuntimeError("Prefect set the worker up without a task group")
        self._runs_task_group.start_soon(self._run_loops)

    async def teardown(self, *exc_info: Any) -> None:
        """Claim nothing more, let running jobs end for a while, hand the others back."""
        self._stopping = True
        self._wake.set()
        await self._hand_back()
        self._loops.cancel()
        await self._pool.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await super().teardown(*exc_info)

    async def sync_with_backend(self) -> None:
        """Report to Prefect that this worker lives, and read what it has to know.

        Where Prefect cannot answer, or has no such work pool any more, that is said once and
        tried again: the jobs of this worker go on.
        """
        asked_at = time.monotonic()
        try:
            await self._sync(asked_at)
        except (httpx.HTTPError, ObjectNotFound) as error:
            if is_missing(error):
                trouble = f"There is no work pool {self._work_pool_name!r} any more: waiting for it"
            elif is_outage(error):
                trouble = f"The Prefect API is away ({type(error).__name__}): waiting for it"
            else:
                raise
        else:
            self._sync_trouble = ""
            return
        if trouble != self._sync_trouble:
            self._logger.warning(trouble)
        self._sync_trouble = trouble
        self._learn_pool_at = asked_at + OUTAGE_RETRY_SECONDS

    async def _sync(self, asked_at: float) -> None:
        await super().sync_with_backend()
        if self._work_pool is not None and self._client is not None:
            # the server refuses the call without a filter and a page, the client makes none up
            self._queues = await self._client.read_work_queues(
                self._work_pool_name, WorkQueueFilter(), limit=200, offset=0
            )
            # `super` does not read the pool where a websocket is to tell of its changes
            self._work_pool = await self._client.read_work_pool(self._work_pool_name)
            self._pool_known_at = asked_at

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Run what is due now, where that is all to be done; else the loops claim runs.

        Returns nothing, as Prefect would submit it.
        """
        if self._runs_once:
            await self._claim_due_runs()
            while self._claims:
                await asyncio.wait([c.task for c in self._claims.values() if c.task is not None])
                await self._claim_due_runs()
        return []

    async def run(
        self,
        flow_run: FlowRun,
        configuration: PygeoapiJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> PygeoapiWorkerResult:
        """Run a flow run that is pending already, as Prefect does for ad-hoc runs."""
        claim = Claim(flow_run, time.monotonic(), task=asyncio.current_task())
        self._claims[flow_run.id] = claim
        try:
            deployment = None
            if flow_run.deployment_id is not None:
                deployment = await self._api.read_deployment(
                    flow_run.deployment_id, not_before=claim.known_since
                )
            if task_status is not None:
                task_status.started(self._owner.pid)
            prepared = self._prepare(flow_run, deployment, configuration)
            exit_code = await self._executor.execute(claim, prepared)
        finally:
            del self._claims[flow_run.id]
        return PygeoapiWorkerResult(status_code=exit_code, identifier=str(self._owner))

    @property
    def _places(self) -> int:
        """How many jobs run at the same time."""
        return min(self._tuning.processes, self._limit or self._tuning.processes)

    @property
    def _served_queues(self) -> list[WorkQueue]:
        names = self._work_queues
        return [queue for queue in self._queues if not names or queue.name in names]

    @property
    def _pool_and_queues(self) -> list[WorkPool | WorkQueue]:
        return [self.work_pool, *self._served_queues]

    @property
    def _is_limited(self) -> bool:
        return any(one.concurrency_limit is not None for one in self._pool_and_queues)

    @property
    def _nothing_is_kept_back(self) -> bool:
        """Whether all that is due may start, in the order in which it is due.

        By what Prefect said of pool and queues, and has announced no change of since.
        """
        changed_at = self._pool_changed_at + SETTLED_AFTER_SECONDS
        return (
            self._events_since is not None
            and self._pool_known_at >= max(self._events_since, changed_at)
            and not self._is_limited
            and not any(one.is_paused for one in self._pool_and_queues)
            and len(self._served_queues) == 1
        )

    @property
    def _events_since(self) -> float | None:
        return None if self._events is None else self._events.connected_since

    @property
    def _hears_events(self) -> bool:
        return self._events_since is not None

    @property
    def _free_places(self) -> int:
        return self._places - len(self._claims)

    def _count_ahead(self) -> int:
        """How many runs may be claimed while all places are taken."""
        if self._limit is not None:
            return 0
        now = time.monotonic()
        since = [claim.running_since for claim in self._claims.values()]
        return runs_to_claim_ahead(
            limits=[one.concurrency_limit for one in self._pool_and_queues],
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

    # -- the loops ------------------------------------------------------------------------

    async def _run_loops(self) -> None:
        with self._loops:
            await self._wait_until_synced()
            await self._until_up(self._learn_flows)
            await self._pool.start()
            self._logger.info("Processes are warm; up to %s jobs run at a time", self._places)
            # a loop is its own way to try again, and must not sleep through a recovery
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                await self._loop_until_cancelled()

    async def _loop_until_cancelled(self) -> None:
        async with anyio.create_task_group() as loops:
            loops.start_soon(self._follow_events)
            loops.start_soon(partial(self._repeat, self._learn_pool, 1.0))
            loops.start_soon(partial(self._repeat, self._reap, self._tuning.reap_seconds))
            loops.start_soon(partial(self._repeat, self._watch_claims, 1.0))
            if not self._runs_once:
                loops.start_soon(self._dispatch)

    async def _follow_events(self) -> None:
        """Listen to the events of the pool, also of one that takes its place under its name."""
        while True:
            pool_id = self.work_pool.id
            self._events = PoolEvents(
                work_pool_id=pool_id,
                on_run=self._on_run_event,
                on_deployment=self._on_deployment_event,
                on_pool=self._on_pool_event,
                on_connection=self._on_connection,
                logger=self._logger,
            )
            async with anyio.create_task_group() as listening:
                listening.start_soon(self._events.listen)
                while self.work_pool.id == pool_id:
                    await asyncio.sleep(1.0)
                listening.cancel_scope.cancel()

    async def _learn_pool(self) -> None:
        """Read pool and queues again soon after they have changed."""
        due_at = self._learn_pool_at
        if time.monotonic() >= due_at:
            await self.sync_with_backend()
            if self._learn_pool_at == due_at:
                self._learn_pool_at = math.inf

    async def _wait_until_synced(self) -> None:
        while not self._has_successfully_synced:
            await asyncio.sleep(OUTAGE_RETRY_SECONDS / 10)

    async def _until_up(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                return await call()
            except httpx.HTTPError as error:
                if not is_outage(error):
                    raise
            await asyncio.sleep(OUTAGE_RETRY_SECONDS)

    async def _repeat(self, call: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
        while True:
            await self._until_up(call)
            await asyncio.sleep(seconds)

    async def _reap(self) -> None:
        if await self._reaper.reap():
            self._look_for_work()

    async def _watch_claims(self) -> None:
        """See cancellations while no events arrive, and those that were said meanwhile."""
        connection = self._events_since
        if connection is not None and connection == self._watched_at_connection:
            return
        if self._claims:
            for run in await self._api.read_ended_from_outside(list(self._claims)):
                self._end_cancelled(run.id)
        self._watched_at_connection = connection

    def _end_cancelled(self, flow_run_id: UUID) -> None:
        self._spawn(self._cancel(flow_run_id))

    async def _dispatch(self) -> None:
        warned = False
        while not self._stopping:
            self._wake.clear()
            pause = self._tuning.poll_seconds
            try:
                pause = await self._claim_due_runs()
                self._last_polled_time = datetime.now(UTC)  # for Prefect's health check
                warned = False
            except httpx.HTTPError as error:
                if not is_outage(error):
                    raise
                if not warned:
                    self._logger.warning(
                        "The Prefect API is away (%s): waiting for it", type(error).__name__
                    )
                warned = True
                self._look_for_anything()
                pause = OUTAGE_RETRY_SECONDS
                await asyncio.sleep(pause)
                continue
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _look_for_work(self) -> None:
        self._work_is_likely = True
        self._wake.set()

    def _look_for_anything(self) -> None:
        self._outlook.doubt()
        self._look_for_work()

    def _on_connection(self) -> None:
        self._look_for_anything()
        self._learn_pool_at = time.monotonic()

    def _on_deployment_event(self, deployment_id: UUID) -> None:
        self._deployments_changed_at[deployment_id] = time.monotonic()

    def _on_pool_event(self, change: PoolChange) -> None:
        if change is not PoolChange.served:
            self._pool_changed_at = time.monotonic()
            self._learn_pool_at = self._pool_changed_at + SETTLED_AFTER_SECONDS
        self._look_for_anything()

    def _is_of_others(self, event: RunEvent) -> bool:
        """Whether the run is in a queue of the pool that this worker does not serve."""
        not_served = {queue.id for queue in self._queues} - {q.id for q in self._served_queues}
        return event.work_queue_id in not_served

    def _on_run_event(self, event: RunEvent) -> None:
        run_id = event.flow_run_id
        if run_id not in self._claims and self._is_of_others(event):
            return
        if event.state in WORK_EVENTS - {"Scheduled"} and run_id in self._claims:
            # it was resumed before its process had ended: due when the claim ends
            self._outlook.doubt()
        if event.state in WORK_EVENTS and run_id not in self._claims:
            if self._candidates or event.state != "Scheduled":
                self._outlook.doubt()
            self._outlook.announce(run_id)
            self._candidates.expect(run_id, event.work_queue_id)
            if self._rivals.leave_to_me(run_id):
                self._look_for_work()
            else:
                asyncio.get_running_loop().call_later(
                    HEAD_START_SECONDS, self._look_for_announced, run_id
                )
        if event.state in TAKEN_EVENTS | END_EVENTS:
            self._candidates.drop(run_id)
            self._outlook.forget(run_id)
        if event.state in TAKEN_EVENTS and (owner := find_owner(event.message)) is not None:
            self._rivals.note(owner)
        if event.state in END_EVENTS and run_id in self._claims:
            self._end_cancelled(run_id)
        elif event.state in SUSPEND_EVENTS and run_id in self._claims:
            self._spawn(self._suspend(run_id))

    def _look_for_announced(self, flow_run_id: UUID) -> None:
        if self._outlook.expects(flow_run_id):
            self._look_for_work()

    # -- claiming -------------------------------------------------------------------------

    async def _claim_due_runs(self) -> float:
        """Claim as many due runs as there are places; returns seconds until the next look."""
        if self._work_pool is None or self._free_places + self._count_ahead() <= 0:
            return self._idle_seconds
        if not self._candidates_are_fresh:
            if not self._work_is_likely and not self._candidates and not self._list_is_overdue:
                quiet_seconds = await self._read_quiet_seconds()
                if quiet_seconds > 0:
                    return quiet_seconds
            await self._read_candidates()
        while self._candidates:
            flow_run = self._candidates.choose()
            if self._stopping or not self._may_claim(flow_run):
                return self._idle_seconds
            self._candidates.drop(flow_run.id)
            self._begin(flow_run)
        if self._work_is_likely:
            # it became so since the list was asked for
            return 0.0
        seconds = self._outlook.look_again_seconds()
        if seconds is None:
            return self._idle_seconds
        self._work_is_likely = len(self._outlook) > 0
        return seconds

    @property
    def _idle_seconds(self) -> float:
        if self._hears_events:
            return self._tuning.poll_with_events_seconds
        return self._tuning.poll_seconds

    @property
    def _candidates_are_fresh(self) -> bool:
        # a limit or a pause may have come into force since
        age = time.monotonic() - self._candidates_read_at
        return bool(self._candidates) and not self._is_limited and age < CANDIDATES_FRESH_SECONDS

    @property
    def _list_is_overdue(self) -> bool:
        return time.monotonic() - self._listed_at > LISTED_AT_LEAST_EVERY_SECONDS

    async def _read_quiet_seconds(self) -> float:
        """Seconds until it is worth to ask for due runs; 0 for now."""
        if self._hears_events and self._outlook.certain_seconds:
            return self._outlook.certain_seconds
        next_start = await self._api.read_next_start()
        if next_start is None:
            self._outlook.be_certain(self._idle_seconds)
            return self._idle_seconds
        seconds = (next_start - datetime.now(UTC)).total_seconds()
        if seconds > 0:
            seconds = min(seconds, self._idle_seconds)
            self._outlook.be_certain(seconds)
            return seconds
        # some are due, and were not given out: by a limit, or because they are paused
        kept_back = self._kept_back_until - time.monotonic()
        return min(max(kept_back, 0.0), self._idle_seconds)

    async def _read_candidates(self) -> None:
        self._work_is_likely = False
        asked_at = time.monotonic()
        at_most = min(LISTED_PER_PLACE * self._places + self._candidates.refused, PAGE_SIZE)
        with self._candidates.being_listed():
            runs = None
            if self._nothing_is_kept_back and not self._list_is_overdue:
                runs = await self._api.read_scheduled_runs(at_most)
            if runs is None:
                runs = await self._list_due_runs(at_most)
            self._candidates.renew(run for run in runs if run.id not in self._claims)
        if len(runs) >= at_most:
            self._outlook.doubt()
        self._candidates_read_at = asked_at
        for run in runs:
            self._outlook.forget(run.id)

    async def _list_due_runs(self, at_most: int) -> list[FlowRun]:
        asked_at = time.monotonic()
        runs = await self._api.read_due_runs(at_most)
        self._logger.debug("Prefect has listed %s due runs", len(runs))
        self._listed_at = asked_at
        if not runs:
            self._kept_back_until = asked_at + KEPT_BACK_SECONDS
        return runs

    def _begin(self, flow_run: FlowRun) -> None:
        if flow_run.id in self._claims:
            return
        claim = Claim(flow_run, self._candidates_read_at, patience_seconds=PATIENCE_SECONDS)
        self._claims[flow_run.id] = claim
        claim.task = self._spawn(self._serve(claim))

    async def _serve(self, claim: Claim) -> None:
        run_id = claim.flow_run.id
        try:
            await self._claim_and_execute(claim)
        except httpx.HTTPError:
            # its state on the server tells the reaper what has to be done
            self._logger.exception("Lost contact to Prefect about flow run %s", run_id)
            self._outlook.doubt()
        except Exception as error:
            self._logger.exception("Flow run %s could not be run", run_id)
            await self._api.crash(run_id, f"The job could not be started: {type(error).__name__}")
        finally:
            if claim.running_since is not None:
                self._latest_seconds.append(time.monotonic() - claim.running_since)
            del self._claims[run_id]
            self._candidates.drop(run_id)
            if self._is_limited or self._idle_seconds == self._tuning.poll_seconds:
                self._work_is_likely = True
            self._wake.set()

    async def _claim_and_execute(self, claim: Claim) -> None:
        flow_run = claim.flow_run
        deployment, state = await asyncio.gather(
            self._read_deployment(claim), self._api.claim(flow_run, self._owner)
        )
        if state is None:
            self._candidates.refuse(flow_run.id)
            self._outlook.doubt()
            return
        flow_run.state = state
        if deployment is None:
            await self._api.cancel(flow_run.id, "Its deployment no longer exists.")
            return
        prepared = await self._configure(flow_run, deployment)
        self.get_flow_run_logger(flow_run).info(
            "Worker %r starts flow run %s", self.name, flow_run.id
        )
        try:
            await self._executor.execute(claim, prepared)
        except WaitedInVain:
            await self._api.wait_again(flow_run, "No process was free for it.")
            self._outlook.doubt()

    async def _read_deployment(self, claim: Claim) -> DeploymentResponse | None:
        if claim.flow_run.deployment_id is None:
            return None
        return await self._api.read_deployment(
            claim.flow_run.deployment_id, not_before=self._deployment_not_before(claim)
        )

    def _deployment_not_before(self, claim: Claim) -> float:
        """Since when nobody has changed the deployment of a run, as from `time.monotonic`."""
        deployment_id = claim.flow_run.deployment_id
        if deployment_id is None or self._events_since is None:
            return claim.known_since
        changed_at = self._deployments_changed_at.get(deployment_id, -math.inf)
        unchanged_since = max(
            self._events_since,
            changed_at + SETTLED_AFTER_SECONDS,
            time.monotonic() - DEPLOYMENT_KNOWN_SECONDS,
        )
        return min(claim.known_since, unchanged_since)

    async def _configure(self, flow_run: FlowRun, deployment: DeploymentResponse) -> Prepared:
        """Resolve the job variables of a run, with as few calls as can be."""
        variables = dict(deployment.job_variables or {})
        for name, value in (flow_run.job_variables or {}).items():
            if name == "env" and isinstance(variables.get("env"), dict):
                variables["env"] = {**variables["env"], **value}
            else:
                variables[name] = value
        configuration: PygeoapiJobConfiguration = (
            await PygeoapiJobConfiguration.from_template_and_values(
                base_job_template=self.work_pool.base_job_template,
                values=variables,
                client=self.client,
            )
        )
        configuration.prepare_for_flow_run(
            flow_run,
            deployment,
            await self._api.read_flow(flow_run.flow_id),
            self.work_pool,
            self.name,
            worker_id=self.backend_id,
        )
        return self._prepare(flow_run, deployment, configuration)

    def _prepare(
        self,
        flow_run: FlowRun,
        deployment: DeploymentResponse | None,
        configuration: PygeoapiJobConfiguration,
    ) -> Prepared:
        return prepare(
            flow_run,
            deployment,
            configuration,
            worker_environment=self._worker_environment,
            owner=self._owner,
        )

    async def _learn_flows(self) -> None:
        """Have the flows of the pool's deployments imported before their first jobs."""
        deployments = await self._api.read_deployments()
        for deployment in deployments:
            probe = FlowRun(flow_id=deployment.flow_id, deployment_id=deployment.id)
            try:
                prepared = await self._configure(probe, deployment)
            except Exception as error:
                self._logger.debug("Cannot prepare deployment %s: %s", deployment.name, error)
                continue
            if prepared.plan.start is Start.WARM:
                self._pool.remember(prepared.plan.profile, prepared.job.source)

    # -- ending early ---------------------------------------------------------------------

    async def _cancel(self, flow_run_id: UUID) -> None:
        run = await self._api.read_run(flow_run_id)
        claim = self._claims.get(flow_run_id)
        if claim is None or run is None or run.state is None:
            return
        # after a reconnection Prefect repeats what it said before
        if run.state.is_cancelling() or run.state.is_cancelled():
            self.get_flow_run_logger(run).info("Flow run is cancelled: ending its process")
            await self._executor.interrupt(claim, "cancel")

    async def _suspend(self, flow_run_id: UUID) -> None:
        run = await self._api.read_run(flow_run_id)
        claim = self._claims.get(flow_run_id)
        if claim is None or run is None or run.state is None:
            return
        # after a reconnection Prefect repeats what it said before; it may have been resumed
        if run.state.name in SUSPEND_EVENTS:
            claim.suspend(run.state)

    async def _hand_back(self) -> None:
        """Let running jobs end, then give those that do not back to their queues."""
        for claim in list(self._claims.values()):
            if claim.process is None:
                self._spawn(self._executor.interrupt(claim, "reschedule"))
        if tasks := {claim.task for claim in self._claims.values() if claim.task is not None}:
            self._logger.info("Waiting for %s jobs to end", len(tasks))
            await self._wait_patiently(tasks, self._tuning.shutdown_grace_seconds)
        for claim in list(self._claims.values()):
            self._spawn(self._executor.interrupt(claim, "reschedule"))
        if tasks := {claim.task for claim in self._claims.values() if claim.task is not None}:
            await self._wait_patiently(tasks, HAND_BACK_SECONDS)
        for claim in list(self._claims.values()):
            # who of the pool's workers finds it without an owner does what has to be done
            self._logger.warning("Left flow run %s to others", claim.flow_run.id)
            if claim.task is not None:
                claim.task.cancel()

    async def _wait_patiently(self, tasks: set[asyncio.Task[None]], seconds: float) -> None:
        """Wait for tasks, until another signal comes at the latest."""
        self._hurry.clear()
        hurry = asyncio.create_task(self._hurry.wait())
        over = asyncio.create_task(_end_of(tasks))
        await asyncio.wait({hurry, over}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        over.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # with the settings of the worker, not those of the loop that found the work
        task = asyncio.create_task(work, context=self._context.copy())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(self._log_failure)
        return task

    def _log_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logger.error("Something in the worker failed", exc_info=error)


async def _end_of(tasks: set[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)


@contextmanager
def _signals_call(stop: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call `stop`.

    Prefect's own handlers turn SIGTERM into SIGINT, which is ignored in processes that a
    shell started in the background.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
