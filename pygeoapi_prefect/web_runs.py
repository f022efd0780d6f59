"""Jobs that run in the web process: synchronous ones of processes without a deployment.

Each has a thread of its own, so that a request can stop waiting while its job goes on.
Prefect's engine does the running; what a worker would do besides, namely stopping a
dismissed job and giving signs of life, is done here.
"""

import asyncio
import contextlib
import copy
import ctypes
import dataclasses
import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, cast

import prefect.flow_engine
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort
from prefect.flows import Flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY
from prefect.states import Cancelling

from pygeoapi_prefect.background import BackgroundLoop
from pygeoapi_prefect.errors import (
    BackendUnavailable,
    JobNotFound,
    PygeoapiPrefectError,
    ServerBusy,
)
from pygeoapi_prefect.gateway import PrefectGateway
from pygeoapi_prefect.jobs import WEB_PULSE_LABEL, Job, job_of_run
from pygeoapi_prefect.prefect_settings import SettingsOverride

logger = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
IDLE_SECONDS: Final = 3600.0
"""Between looks where no job is watched: whoever has one says so."""
PULSE_SECONDS: Final = 20.0
"""Between the signs of life that a web process leaves with each of its jobs."""
GRACE_SECONDS: Final = 30.0
"""How long a dismissed job may clean up until it is interrupted once more."""

UNTOLD: Final = "The Prefect server could not be told how the job ended"

_WITHOUT_HEARTBEAT: Final = SettingsOverride({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


class JobDismissed(Abort):
    """Raised inside the thread of a job that was dismissed.

    Of all that can be raised there, Prefect's engine takes this alone for no crash, and
    leaves the state of the run as the dismissal has set it.
    """


@dataclasses.dataclass
class _Run:
    flow: Flow[..., Any]
    flow_run: FlowRun
    parameters: dict[str, Any]
    thread: threading.Thread = dataclasses.field(init=False)
    ended: threading.Event = dataclasses.field(default_factory=threading.Event)
    final_state: State[Any] | None = None
    interrupted_at: float | None = None
    last_pulse: float = dataclasses.field(default_factory=time.monotonic)
    cancel_async: Callable[[], object] | None = None

    @property
    def job(self) -> Job:
        """The job, as far as it is known here."""
        return job_of_run(self.flow_run)

    def interrupt(self) -> None:
        """Make the flow stop, at its next Python instruction or where it awaits something.

        It may have to clean up, and is left alone while it does, for as long as is reasonable.
        """
        now = time.monotonic()
        if self.interrupted_at is not None and now - self.interrupted_at < GRACE_SECONDS:
            return
        self.interrupted_at = now
        if self.cancel_async is None:
            _raise_in(self.thread, JobDismissed)
        else:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: it has ended
                self.cancel_async()


class WebRuns:
    """The jobs that run in this process.

    Args:
        gateway: The Prefect server.
        max_runs: How many run at once.
    """

    def __init__(self, gateway: PrefectGateway, max_runs: int) -> None:
        self._gateway = gateway
        self._places = threading.Semaphore(max_runs)
        self._lock = threading.Lock()
        self._runs: dict[uuid.UUID, _Run] = {}
        self._unreported: set[str] = set()
        self._watch = BackgroundLoop(
            self._accompany, name="running-jobs", retry_seconds=WATCH_SECONDS
        )

    def run(
        self,
        flow: Flow[..., Any],
        create: Callable[[], tuple[FlowRun, Mapping[str, Any]]],
        timeout_seconds: float,
    ) -> Job:
        """Run a job, and return it when it has ended, or as it is when the time is up.

        Args:
            flow: The flow.
            create: Makes the flow run, and returns it with the parameters of the flow.
            timeout_seconds: How long to wait.

        Raises:
            ServerBusy: As many jobs run here as may. No flow run was made.
        """
        run = self._started(flow, create)
        if not run.ended.wait(min(WATCH_SECONDS, timeout_seconds)):
            # others may dismiss it, or take it for an orphan
            self._watch.wake()
            run.ended.wait(max(0.0, timeout_seconds - WATCH_SECONDS))
        if run.final_state is None or not run.final_state.is_final():
            try:
                return self._gateway.find(run.job.job_id)
            except BackendUnavailable:
                return run.job  # its client finds out later
        return job_of_run(
            run.flow_run.model_copy(
                update={
                    "state": run.final_state,
                    "state_type": run.final_state.type,
                    "state_name": run.final_state.name,
                }
            )
        )

    def stop(self, job: Job) -> None:
        """Make a dismissed job stop, if it runs here."""
        self._interrupt(job.flow_run_id)
        self._watch.wake()

    def disown(self, job_id: str) -> None:
        """See to it that a job ends that nothing runs, if it was made at all."""
        with self._lock:
            self._unreported.add(job_id)
        self._watch.wake()

    def close(self) -> None:
        """End the watch over jobs, if there are none; the next one is watched again."""
        with self._lock:
            has_jobs = bool(self._runs or self._unreported)
        if not has_jobs:
            self._watch.stop()

    def _started(
        self, flow: Flow[..., Any], create: Callable[[], tuple[FlowRun, Mapping[str, Any]]]
    ) -> _Run:
        if not self._places.acquire(blocking=False):
            raise ServerBusy("this server runs as many jobs as it may; try again later")
        try:
            flow_run, parameters = create()
            run = _Run(flow, flow_run, dict(parameters))
        except BaseException:
            self._places.release()
            raise
        run.thread = threading.Thread(
            target=self._execute, args=(run,), name=run.flow_run.name, daemon=True
        )
        with self._lock:
            self._runs[run.flow_run.id] = run
        run.thread.start()
        return run

    def _execute(self, run: _Run) -> None:
        is_dismissed = False
        try:
            try:
                self._run_engine(run)
                self._leave_alone(run)
            except JobDismissed:
                is_dismissed = run.final_state is None
                self._leave_alone(run)  # it may have arrived when the engine was done
            if is_dismissed:
                logger.info("%s was dismissed", run.flow_run.name)
                _call_cancellation_hooks(run)
        finally:
            try:
                self._report(run)
            finally:
                self._places.release()
                run.ended.set()

    def _run_engine(self, run: _Run) -> None:
        # Prefect's heartbeat makes every run wait up to a second for its thread to end; what
        # it is for, noticing a dead process, `OrphanWatch` does for runs of web processes
        try:
            with _WITHOUT_HEARTBEAT():
                state = prefect.flow_engine.run_flow(
                    _stoppable(run), run.flow_run, run.parameters, return_type="state"
                )
                if isinstance(state, Coroutine):
                    state = asyncio.run(state)
                run.final_state = cast(State[Any], state)
        except JobDismissed:
            raise
        except Abort:
            logger.info("%s was dismissed before it began", run.flow_run.name)
        except BaseException:
            # the engine has recorded what it could; nobody else listens to this thread
            logger.exception("%s broke off", run.flow_run.name)

    def _interrupt(self, run_id: uuid.UUID) -> None:
        with self._lock:
            run = self._runs.get(run_id)
            if run is not None:
                run.interrupt()

    def _leave_alone(self, run: _Run) -> None:
        """Interrupt a run no more, whose flow has ended."""
        with self._lock:
            self._runs.pop(run.flow_run.id, None)
            _raise_in(run.thread, None)

    def _report(self, run: _Run) -> None:
        """See to it that the job ends on the Prefect server too, now or later.

        The engine has told how it ended, unless it broke off; or the job was dismissed, and is to
        be `Cancelled` now that its work has stopped.
        """
        if run.final_state is not None and run.final_state.is_final():
            return
        job_id = run.job.job_id
        with self._lock:
            self._unreported.add(job_id)
        try:
            self._end(job_id)
        except PygeoapiPrefectError as error:
            logger.warning("job %s has ended, which is told later: %s", job_id, error)
            self._watch.wake()

    def _end(self, job_id: str) -> None:
        with contextlib.suppress(JobNotFound):  # removed meanwhile, or never made
            self._gateway.crash(self._gateway.find(job_id), UNTOLD)
        with self._lock:
            self._unreported.discard(job_id)

    def _accompany(self) -> float:
        """Do for the jobs here what a worker does for its own, and return when to do so again."""
        with self._lock:
            runs = dict(self._runs)
            unreported = [*self._unreported]
        if runs:
            for run_id in self._gateway.dismissed(runs):
                self._interrupt(run_id)
            self._give_signs_of_life(runs.values())
        for job_id in unreported:
            self._end(job_id)
        return WATCH_SECONDS if runs or unreported else IDLE_SECONDS

    def _give_signs_of_life(self, runs: Iterable[_Run]) -> None:
        now = time.monotonic()
        for run in runs:
            if now - run.last_pulse >= PULSE_SECONDS:
                run.last_pulse = now
                with contextlib.suppress(JobNotFound):  # removed: it is about to be stopped
                    self._gateway.label(run.job, {WEB_PULSE_LABEL: f"{now:.0f}"})


def _stoppable(run: _Run) -> Flow[..., Any]:
    """Return the flow of a run, of which one that is async can be cancelled.

    An exception raised in its thread would have to wait until the event loop wakes up, and
    a cancellation that reached Prefect's engine would be a crash to it.
    """
    if not run.flow.isasync:
        return run.flow
    function = run.flow.fn

    @functools.wraps(function)
    async def cancellable(*arguments: Any, **keywords: Any) -> Any:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101  what runs a coroutine is a task
        run.cancel_async = functools.partial(loop.call_soon_threadsafe, task.cancel)
        try:
            return await function(*arguments, **keywords)
        except asyncio.CancelledError as error:
            if run.interrupted_at is not None:
                raise JobDismissed from error
            raise
        finally:
            run.cancel_async = None

    flow = copy.copy(run.flow)
    flow.fn = cancellable
    return flow


def _call_cancellation_hooks(run: _Run) -> None:
    """Call the hooks that a worker would call for a run that it has stopped."""
    if run.flow.on_cancellation_hooks:
        # with it come parts of Prefect that are for workers
        from pygeoapi_prefect.prefect_private import run_hooks

        asyncio.run(
            run_hooks("cancellation", flow=run.flow, flow_run=run.flow_run, state=Cancelling())
        )


def _raise_in(thread: threading.Thread, exception: type[BaseException] | None) -> None:
    """Raise an exception in a thread; None takes back one that has not arrived."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), exception and ctypes.py_object(exception)
        )
