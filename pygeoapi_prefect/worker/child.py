"""What runs in a warm process: one job at a time, and nothing of the worker.

A process is forked from a server that has imported this module (see `process.py`), or
started as `python -m pygeoapi_prefect.worker.child <fd>`; the work is the same in both.
"""

import ctypes
import fcntl
import gc
import io
import multiprocessing
import os
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any
from uuid import UUID

import anyio
import httpx
import psutil
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import SyncClientContext
from prefect.exceptions import MissingFlowError
from prefect.flows import (
    Flow,
    load_flow_from_entrypoint,
    load_flow_from_flow_run,
    load_function_and_convert_to_flow,
)
from prefect.logging.loggers import flow_run_logger, get_logger
from prefect.settings import (
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)

from pygeoapi_prefect import prefect_private
from pygeoapi_prefect.os_processes import this_machine
from pygeoapi_prefect.worker.messages import (
    Done,
    FlowSource,
    FromProcess,
    HookJob,
    Interrupt,
    Job,
    Loaded,
    Ready,
    Stale,
    Stop,
    Suspended,
    ToProcess,
)
from pygeoapi_prefect.worker.owner import JOB_PROCESS_VARIABLE, mark_of
from pygeoapi_prefect.worker.patience import ask_every_few_seconds
from pygeoapi_prefect.worker.settings import PygeoapiWorkerSettings

MIB = 1024 * 1024
# Of what sends logs: Prefect doubles the pause from 2 s, together over four minutes of an API
# that is away
API_RETRIES = 8
DRAIN_TIMEOUT_SECONDS = 5.0
DEFAULT_STORAGE_SECONDS = 10.0
INTERRUPT_RETRY_SECONDS = 0.02
CONNECT_RETRY_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1

logger = get_logger("pygeoapi.process")


def main(connection: Connection, preload: tuple[FlowSource, ...]) -> None:
    """Serve jobs from `connection` until it says stop or closes.

    Args:
        connection: to the worker.
        preload: flows to import before the first job.
    """
    # what was imported before the fork stays shared with the other processes
    gc.freeze()
    _show_lines_at_once()
    _die_with_parent()
    if os.getsid(0) != os.getpid():
        # nearly everything that a job starts stays in this session, so that it can be ended
        os.setsid()
    _die_with_worker()
    os.environ[JOB_PROCESS_VARIABLE] = mark_of(this_machine(), os.getpid())
    prefect_private.observe_suspension_with(prefect_private.suspension_is_told_by_the_worker)
    inbox: queue.SimpleQueue[Job | HookJob | Stop] = queue.SimpleQueue()
    with ExitStack() as stack:
        stack.enter_context(settings_of_jobs())
        _Process(connection, inbox, stack).serve(preload)


def settings_of_jobs() -> AbstractContextManager[object]:
    """Prefect's settings as they are in processes for jobs."""
    return temporary_settings(
        {
            # The engine of a sync flow waits up to 1 s for its heartbeat thread.
            # The worker itself notices when a process of its own dies.
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            PREFECT_CLIENT_MAX_RETRIES: max(API_RETRIES, PREFECT_CLIENT_MAX_RETRIES.value()),
        }
    )


def _show_lines_at_once() -> None:
    # what a job prints must not wait for that of a hundred others, nor be lost with the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _die_with_worker() -> None:
    """Have the kernel end this process and what it started when the worker is gone.

    It is forked from a server that lives for as long as its processes do, and where a job is
    stuck in C, no thread of this process can take note of anything.
    """
    worker = multiprocessing.parent_process()
    if sys.platform == "linux" and worker is not None:
        # a pipe that becomes readable when the last holder of its other end, the worker, is gone
        lifeline = worker.sentinel
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgid(0))
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


class _Process:
    """One process: a thread that listens to the worker, and the main thread that works."""

    def __init__(
        self,
        connection: Connection,
        inbox: "queue.SimpleQueue[Job | HookJob | Stop]",
        stack: ExitStack,
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._stack = stack
        self._owners: dict[UUID, str] = {}
        self._runs: dict[UUID, FlowRun] = {}
        self._working = threading.Event()
        self._is_connected = False
        self._imported = _ImportedCode()
        self._settings = PygeoapiWorkerSettings()

    def serve(self, preload: tuple[FlowSource, ...]) -> None:
        threading.Thread(target=self._listen, name="worker-pipe", daemon=True).start()
        for source in preload:
            self._preload(source)
        self._imported.note()
        self._send(Ready(pid=os.getpid()))
        # a job that comes while the API is away waits here, and does not fail
        self._client = _connect(self._stack)
        self._is_connected = True
        self._prepare(self._client)
        prefect_private.answer_first_read(self._client, self._take_run)
        prefect_private.remember_default_storage(self._client, DEFAULT_STORAGE_SECONDS)
        while not isinstance(message := self._inbox.get(), Stop):
            self._working.set()
            ended = self._run_hooks(message) if isinstance(message, HookJob) else self._run(message)
            self._imported.note()
            self._send(ended)
        prefect_private.drain_background_services(DRAIN_TIMEOUT_SECONDS)

    def _send(self, message: FromProcess) -> None:
        self._working.clear()
        self._connection.send(message)

    def _listen(self) -> None:
        while True:
            try:
                message: ToProcess = self._connection.recv()
            except (EOFError, OSError):
                # the worker is gone: nobody will end what this job started
                os.killpg(os.getpgid(0), signal.SIGKILL)
                return
            if isinstance(message, Interrupt):
                self._interrupt(message)
            elif isinstance(message, Suspended):
                prefect_private.mark_flow_run_suspension_requested(
                    message.flow_run_id, message.state
                )
            elif isinstance(message, Stop) and not self._is_connected:
                # it waits for an API that is away, and has nothing to tell it
                os._exit(0)
            else:
                if isinstance(message, Job):
                    self._working.set()
                self._inbox.put(message)

    def _interrupt(self, message: Interrupt) -> None:
        # the engine may not have started yet; the worker loses patience by itself
        while self._working.is_set():
            if prefect_private.tell_engine_why_sigterm_comes(message.intent):
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(INTERRUPT_RETRY_SECONDS)

    def _preload(self, source: FlowSource) -> None:
        try:
            with _environment(source.environment), _directory(source.directory):
                _load(source)
        except (Exception, SystemExit):
            # the job itself will say it, in its own log
            logger.debug("Could not load %s ahead of its jobs", source.entrypoint, exc_info=True)

    def _run(self, job: Job) -> FromProcess:
        changed = self._imported.find_changed()
        if changed is not None:
            return Stale(module=changed)
        self._owners = {job.flow_run.id: job.owner}
        self._runs = {job.flow_run.id: job.flow_run}
        try:
            with _surroundings(job):
                exit_code, explanation = self._run_flow(job)
        except Exception as error:
            flow_run_logger(job.flow_run).error("The job could not start", exc_info=True)
            exit_code, explanation = 1, f"The job could not start: {type(error).__name__}"
        return Done(exit_code, explanation, _resident_mib())

    def _prepare(self, client: SyncPrefectClient | PrefectClient) -> None:
        ask_every_few_seconds(client, self._settings.api_outage_seconds)
        prefect_private.stamp_infrastructure(client, lambda run_id: self._owners.get(run_id))

    def _take_run(self, flow_run_id: UUID) -> FlowRun | None:
        return self._runs.pop(flow_run_id, None)

    def _run_flow(self, job: Job) -> tuple[int, str]:
        run_logger = flow_run_logger(job.flow_run)
        try:
            flow = _load(job.source, job)
        # a module may call `sys.exit` when it is imported
        except (Exception, SystemExit) as error:
            run_logger.error("The flow could not be loaded", exc_info=True)
            return 1, f"The flow could not be loaded: {type(error).__name__}"
        # its code may change while it runs
        self._imported.note()
        self._connection.send(
            Loaded(
                cancellation_hooks=bool(flow.on_cancellation_hooks),
                crashed_hooks=bool(flow.on_crashed_hooks),
            )
        )
        # as the engine is about to tell the server
        job.flow_run.flow_version = flow.version
        job.flow_run.infrastructure_pid = job.owner
        if flow.isasync and flow.isgenerator:
            # its engine makes its own client, without the stamp
            self._client.update_flow_run(job.flow_run.id)
        code = prefect_private.run_flow(flow, job.flow_run, run_logger, self._prepare)
        return code, "" if code == 0 else "The flow engine ended with an error"

    def _run_hooks(self, message: HookJob) -> Done:
        job = message.job

        async def run() -> None:
            await prefect_private.run_hooks(
                message.kind, flow=flow, flow_run=job.flow_run, state=message.state
            )

        try:
            with _surroundings(job):
                flow = _load(job.source, job)
                anyio.run(run)
        except (Exception, SystemExit):
            flow_run_logger(job.flow_run).error("Hooks could not run", exc_info=True)
            return Done(1, "The hooks could not run", _resident_mib())
        return Done(0, "", _resident_mib())


def _resident_mib() -> float:
    return float(psutil.Process().memory_info().rss / MIB)


def _connect(stack: ExitStack) -> SyncPrefectClient:
    """One client for all jobs; a new one for each costs 30 ms.

    It has had an answer: Prefect's clients are patient with an API only after that.
    """
    while True:
        try:
            client = stack.enter_context(SyncClientContext()).client
            client.hello()
            return client
        except (httpx.TransportError, RuntimeError) as error:
            if not isinstance(error.__cause__ or error, httpx.TransportError):
                raise
            logger.warning("The Prefect API is away; trying again in %s s", CONNECT_RETRY_SECONDS)
            time.sleep(CONNECT_RETRY_SECONDS)


def _load(source: FlowSource, job: Job | None = None) -> Flow[..., Any]:
    if source.from_storage:
        if job is None:
            raise ValueError("code in storage cannot be loaded ahead of a job")
        flow_run = job.flow_run

        async def fetch() -> Flow[..., Any]:
            return await load_flow_from_flow_run(flow_run, use_placeholder_flow=False)

        return anyio.run(fetch)
    try:
        return load_flow_from_entrypoint(source.entrypoint, use_placeholder_flow=False)
    except MissingFlowError:
        return load_function_and_convert_to_flow(source.entrypoint)


@contextmanager
def _surroundings(job: Job) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(_environment(job.source.environment))
        if not job.show_output:
            stack.enter_context(_silence())
        directory = job.source.directory or job.working_directory
        if directory is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(suffix="prefect"))
        stack.enter_context(_directory(directory))
        yield


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextmanager
def _directory(directory: str | None) -> Iterator[None]:
    if directory is None:
        yield
        return
    before = os.getcwd()
    path_before = list(sys.path)
    os.chdir(directory)
    # `python -m prefect.engine`, which a stock worker starts, has it there
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path[:] = path_before
        os.chdir(before)


@contextmanager
def _silence() -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, source in enumerate(kept, start=1):
            os.dup2(source, target)
            os.close(source)


class _ImportedCode:
    """The files of the modules that jobs made this process import."""

    def __init__(self) -> None:
        # Prefect, pygeoapi and what they need: a new version of those needs a new worker
        self._with_the_worker = frozenset(sys.modules)
        self._modified_ns: dict[str, tuple[str, int]] = {}

    def note(self) -> None:
        """Remember the modules that were imported since the last call."""
        for name, module in list(sys.modules.items()):
            if name in self._with_the_worker or name in self._modified_ns:
                continue
            path = _source_file(module)
            if path is not None:
                with suppress(OSError):
                    self._modified_ns[name] = path, os.stat(path).st_mtime_ns

    def find_changed(self) -> str | None:
        """Name of a module whose file is not the one that was imported."""
        for name, (path, modified_ns) in self._modified_ns.items():
            try:
                unchanged = os.stat(path).st_mtime_ns == modified_ns
            except OSError:
                unchanged = False
            if not unchanged:
                return name
        return None


def _source_file(module: ModuleType | None) -> str | None:
    path = getattr(module, "__file__", None)
    return path if isinstance(path, str) else None


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])), ())
