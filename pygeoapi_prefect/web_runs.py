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

from pygeoapi_prefect.errors import BackendUnavailable, JobNotFound
from pygeoapi_prefect.gateway import PrefectGateway
from pygeoapi_prefect.jobs import WEB_PULSE_LABEL, Job, job_of_run
from pygeoapi_prefect.prefect_settings import SettingsOverride
from pygeoapi_prefect.web_processes import PULSE_SECONDS

logger = logging.getLogger(__name__)

WATCH_SECONDS = 1.0

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
    is_dismissed: bool = False
    last_pulse: float = dataclasses.field(default_factory=time.monotonic)
    cancel_async: Callable[[], object] | None = None

    def interrupt(self) -> None:
        """Make the flow stop, at its next Python instruction or where it awaits something."""
        self.is_dismissed = True
        if self.cancel_async is None:
            _raise_in(self.thread, JobDismissed)
        else:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: it has ended
                self.cancel_async()


class WebRuns:
    """The jobs that run in this process."""

    def __init__(self, gateway: PrefectGateway) -> None:
        self._gateway = gateway
        self._lock = threading.Lock()
        self._runs: dict[uuid.UUID, _Run] = {}
        self._watcher: threading.Thread | None = None

    def run(
        self,
        flow: Flow[..., Any],
        flow_run: FlowRun,
        parameters: Mapping[str, Any],
        timeout_seconds: float,
    ) -> Job:
        """Run a job, and return it when it has ended, or as it is when the time is up."""
        run = _Run(flow, flow_run, dict(parameters))
        run.thread = threading.Thread(
            target=self._execute, args=(run,), name=flow_run.name, daemon=True
        )
        with self._lock:
            self._runs[flow_run.id] = run
        run.thread.start()
        if not run.ended.wait(min(WATCH_SECONDS, timeout_seconds)):
            self._watch()
            run.ended.wait(max(0.0, timeout_seconds - WATCH_SECONDS))
        if run.final_state is None:
            return self._gateway.find(job_of_run(flow_run).job_id)
        return job_of_run(
            flow_run.model_copy(
                update={
                    "state": run.final_state,
                    "state_type": run.final_state.type,
                    "state_name": run.final_state.name,
                }
            )
        )

    def stop(self, job: Job) -> None:
        """Make a dismissed job stop, if it runs here."""
        with self._lock:
            run = self._runs.get(job.flow_run_id)
        if run is not None:
            run.interrupt()
        self._watch()

    def _execute(self, run: _Run) -> None:
        try:
            try:
                self._run_engine(run)
            finally:
                self._forget(run)
        except JobDismissed:
            self._forget(run)  # it may have arrived when the engine was done
            if run.final_state is None:
                logger.info("%s was dismissed", run.flow_run.name)
                _call_cancellation_hooks(run)
        finally:
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

    def _forget(self, run: _Run) -> None:
        with self._lock:
            self._runs.pop(run.flow_run.id, None)

    def _watch(self) -> None:
        """Have runs watched that last longer than a moment.

        Other processes may dismiss them, or take them for orphans.
        """
        with self._lock:
            if self._watcher is not None and self._watcher.is_alive():
                return
            self._watcher = threading.Thread(
                target=self._accompany, name="running-jobs", daemon=True
            )
            self._watcher.start()

    def _accompany(self) -> None:
        pause = threading.Event()
        while not pause.wait(WATCH_SECONDS):
            with self._lock:
                runs = dict(self._runs)
            if not runs:
                return
            try:
                dismissed = self._gateway.dismissed(runs)
                self._give_signs_of_life(runs.values())
            except BackendUnavailable:
                continue  # logged where it happened; the next look may succeed
            for run_id in dismissed:
                runs[run_id].interrupt()

    def _give_signs_of_life(self, runs: Iterable[_Run]) -> None:
        now = time.monotonic()
        for run in runs:
            if now - run.last_pulse >= PULSE_SECONDS:
                with contextlib.suppress(JobNotFound):  # removed: it is about to be stopped
                    self._gateway.label(job_of_run(run.flow_run), {WEB_PULSE_LABEL: f"{now:.0f}"})
                run.last_pulse = now


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
            if run.is_dismissed:
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


def _raise_in(thread: threading.Thread, exception: type[BaseException]) -> None:
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(exception)
        )
