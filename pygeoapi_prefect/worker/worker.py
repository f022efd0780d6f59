"""The Prefect worker of work pools of type `pygeoapi`.

It claims flow runs as soon as Prefect has them and hands each to a process that has
Prefect, pygeoapi and the flow imported already. Which runs it claims, and when, is in
`dispatch.py`, how processes are kept in `pool.py`, what they do in `child.py`.
"""

import asyncio
import contextvars
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import anyio.abc
import httpx
from prefect.client.schemas.filters import WorkQueueFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings
from prefect.workers.base import BaseWorker

from pygeoapi_prefect.os_processes import started_at, this_machine
from pygeoapi_prefect.worker.api import RunsApi, is_missing, is_outage
from pygeoapi_prefect.worker.claims import Claim, Prepared, RunExecutor, WaitedInVain, prepare
from pygeoapi_prefect.worker.configuration import (
    PygeoapiJobConfiguration,
    PygeoapiVariables,
    PygeoapiWorkerResult,
)
from pygeoapi_prefect.worker.dispatch import OUTAGE_RETRY_SECONDS, SHORT_JOB_SECONDS, Dispatcher
from pygeoapi_prefect.worker.events import (
    END_EVENTS,
    SUSPEND_EVENTS,
    PoolChange,
    PoolEvents,
    RunEvent,
)
from pygeoapi_prefect.worker.owner import Owner
from pygeoapi_prefect.worker.pool import WarmPool
from pygeoapi_prefect.worker.reaper import Reaper
from pygeoapi_prefect.worker.served import SETTLED_AFTER_SECONDS, ServedPool
from pygeoapi_prefect.worker.settings import PygeoapiWorkerSettings
from pygeoapi_prefect.worker.start import Start

# How long a claimed run waits for a process, while another worker may be idle
PATIENCE_SECONDS = SHORT_JOB_SECONDS
# Prefect drops events for those who are slow to read them, without a word
DEPLOYMENT_KNOWN_SECONDS = 30.0
# Prefect logs each time that there is no such work pool
MISSING_POOL_RETRY_SECONDS = 10.0
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
        self._served = ServedPool(self._work_queues)
        self._sync_trouble = ""
        self._watched_at_connection: float | None = None
        self._deployments_changed_at: dict[UUID, float] = {}
        self._stopping = False
        self._hurry = asyncio.Event()
        self._runs_once = False
        self._loops = anyio.CancelScope()
        self._background: set[asyncio.Task[Any]] = set()
        self._learn_pool_at = math.inf
        self._worker_environment: dict[str, str] = {}
        self._context = contextvars.copy_context()

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
        self._dispatcher = Dispatcher(
            api=self._api,
            served=self._served,
            me=self._owner,
            places=self._places,
            limit=self._limit,
            settings=self._tuning,
            claims=self._claims,
            begin=self._begin,
            on_answer=self._note_poll,
            logger=self._logger,
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
        self._dispatcher.stop()
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
            pause = OUTAGE_RETRY_SECONDS
            if is_missing(error):
                pause = MISSING_POOL_RETRY_SECONDS
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
        self._learn_pool_at = asked_at + pause

    async def _sync(self, asked_at: float) -> None:
        known = self._work_pool
        await super().sync_with_backend()
        if self._work_pool is None or self._client is None:
            return
        # the server refuses the call without a filter and a page, the client makes none up
        queues = await self._client.read_work_queues(
            self._work_pool_name, WorkQueueFilter(), limit=200, offset=0
        )
        if self._work_pool is known:
            # `super` does not read the pool where a websocket is to tell of its changes
            self._work_pool = await self._client.read_work_pool(self._work_pool_name)
        self._served.renew(self._work_pool, queues, asked_at=asked_at)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Run what is due now, where that is all to be done; else the loops claim runs.

        Returns nothing, as Prefect would submit it.
        """
        if self._runs_once:
            await self._dispatcher.claim_due_runs()
            while self._claims:
                await asyncio.wait([c.task for c in self._claims.values() if c.task is not None])
                await self._dispatcher.claim_due_runs()
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
                loops.start_soon(self._dispatcher.run)

    async def _follow_events(self) -> None:
        """Listen to the events of the pool, also of one that takes its place under its name."""
        while True:
            pool_id = self.work_pool.id
            events = PoolEvents(
                work_pool_id=pool_id,
                on_run=self._on_run_event,
                on_deployment=self._on_deployment_event,
                on_pool=self._on_pool_event,
                on_connection=self._on_connection,
                logger=self._logger,
            )
            self._served.events = events
            async with anyio.create_task_group() as listening:
                listening.start_soon(events.listen)
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
            self._dispatcher.look_for_anything()

    async def _watch_claims(self) -> None:
        """See cancellations while no events arrive, and those that were said meanwhile."""
        connection = self._served.events_since
        if connection is not None and connection == self._watched_at_connection:
            return
        if self._claims:
            for run in await self._api.read_ended_from_outside(list(self._claims)):
                self._end_cancelled(run.id)
        self._watched_at_connection = connection

    def _end_cancelled(self, flow_run_id: UUID) -> None:
        self._spawn(self._cancel(flow_run_id))

    def _on_connection(self) -> None:
        self._dispatcher.look_for_anything()
        self._learn_pool_at = time.monotonic()

    def _on_deployment_event(self, deployment_id: UUID) -> None:
        self._deployments_changed_at[deployment_id] = time.monotonic()

    def _on_pool_event(self, change: PoolChange) -> None:
        if change is not PoolChange.served:
            self._learn_pool_at = self._served.change()
        self._dispatcher.look_for_anything()

    def _on_run_event(self, event: RunEvent) -> None:
        is_claimed = event.flow_run_id in self._claims
        if is_claimed or not self._served.has_queue_of_others(event.work_queue_id):
            self._dispatcher.on_run_event(event)
        if is_claimed and event.state in END_EVENTS | SUSPEND_EVENTS:
            self._spawn(self._obey(event))

    # -- running what was claimed ---------------------------------------------------------

    def _note_poll(self) -> None:
        # for Prefect's health check
        self._last_polled_time = datetime.now(UTC)

    def _begin(self, flow_run: FlowRun, known_since: float) -> None:
        claim = Claim(flow_run, known_since, patience_seconds=PATIENCE_SECONDS)
        self._claims[flow_run.id] = claim
        claim.task = self._spawn(self._serve(claim))

    async def _serve(self, claim: Claim) -> None:
        run_id = claim.flow_run.id
        try:
            await self._claim_and_execute(claim)
        except httpx.HTTPError:
            # its state on the server tells the reaper what has to be done
            self._logger.exception("Lost contact to Prefect about flow run %s", run_id)
            self._dispatcher.on_return()
        except Exception as error:
            self._logger.exception("Flow run %s could not be run", run_id)
            await self._api.crash(run_id, f"The job could not be started: {type(error).__name__}")
        finally:
            del self._claims[run_id]
            self._dispatcher.on_end(claim)

    async def _claim_and_execute(self, claim: Claim) -> None:
        flow_run = claim.flow_run
        deployment, state = await asyncio.gather(
            self._read_deployment(claim), self._api.claim(flow_run, self._owner)
        )
        if state is None:
            self._dispatcher.on_refusal(flow_run.id)
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
            self._dispatcher.on_return()

    async def _read_deployment(self, claim: Claim) -> DeploymentResponse | None:
        if claim.flow_run.deployment_id is None:
            return None
        return await self._api.read_deployment(
            claim.flow_run.deployment_id, not_before=self._deployment_not_before(claim)
        )

    def _deployment_not_before(self, claim: Claim) -> float:
        """Since when nobody has changed the deployment of a run, as from `time.monotonic`."""
        deployment_id, events_since = claim.flow_run.deployment_id, self._served.events_since
        if deployment_id is None or events_since is None:
            return claim.known_since
        changed_at = self._deployments_changed_at.get(deployment_id, -math.inf)
        unchanged_since = max(
            events_since,
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
        await self._carry_out(await self._api.read_run(flow_run_id))

    async def _obey(self, event: RunEvent) -> None:
        await self._carry_out(await self._api.read_run_after(event.flow_run_id, event.state_id))

    async def _carry_out(self, run: FlowRun | None) -> None:
        """Have a run of this worker end, now or at its next task, if its state says so.

        What was announced need not hold any more: it may have been resumed, and after a
        reconnection Prefect repeats what it said before.
        """
        claim = None if run is None else self._claims.get(run.id)
        if run is None or claim is None or run.state is None:
            return
        if run.state.is_cancelling() or run.state.is_cancelled():
            self.get_flow_run_logger(run).info("Flow run is cancelled: ending its process")
            await self._executor.interrupt(claim, "cancel")
        elif run.state.name in SUSPEND_EVENTS:
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
