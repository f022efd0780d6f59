"""A process that runs jobs, seen from the worker: start it, hand it a job, end it.

Starting and watching is the standard library's (`multiprocessing`, `subprocess`).
"""

import asyncio
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from socket import socketpair
from uuid import uuid4

import psutil

from pygeoapi_prefect.os_processes import started_at, still_runs, this_machine
from pygeoapi_prefect.worker.messages import (
    Died,
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
    ToProcess,
)
from pygeoapi_prefect.worker.owner import JOB_PROCESS_VARIABLE, mark_of
from pygeoapi_prefect.worker.start import Profile

logger = logging.getLogger(__name__)

# Imported once by the server from which warm processes are forked. `prefect.cli` is what
# `__main__` is in most workers, and multiprocessing imports that in each child.
PRELOADED_MODULES = (
    "prefect.cli",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.events.worker",
    "prefect.logging.handlers",
    "pygeoapi.process.base",
    "pygeoapi.plugin",
    "pygeoapi_prefect.flows",
    "pygeoapi_prefect.worker.child",
    "pygeoapi_prefect.worker.preload",
)
START_TIMEOUT_SECONDS = 120.0
# for a process that imports flows too; one of them may hang
PRELOAD_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 10.0
_EXIT_POLL_SECONDS = 0.02
# a killed process may have started another one in the meantime
KILL_ROUNDS = 5
KILL_ROUND_SECONDS = 1.0
KILL_POLL_SECONDS = 0.005


class JobProcess:
    """A process that runs `child.main`.

    Attributes:
        profile: what it is bound to; None until its first job.
        jobs_done: how many jobs it has run.
    """

    def __init__(
        self, pid: int | None, exit_code: Callable[[], int | None], connection: Connection
    ) -> None:
        if pid is None:
            raise RuntimeError("the process has not started")
        self._pid = pid
        self._mark = mark_of(this_machine(), pid)
        self._exit_code = exit_code
        self._connection = connection
        self._inbox: asyncio.Queue[FromProcess | Died] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection.fileno(), self._receive)
        self._closed = False
        self._ended = False
        self._started = 0
        self.profile: Profile | None = None
        self.jobs_done = 0
        self.loaded: Loaded | None = None

    @classmethod
    async def fork(cls, preload: tuple[FlowSource, ...]) -> "JobProcess":
        """Fork a process in which Prefect and pygeoapi are imported."""
        context = get_context("forkserver")
        mine, theirs = context.Pipe()
        process = context.Process(
            target=_run_child, args=(theirs, preload), name="pygeoapi-job", daemon=False
        )
        starting = asyncio.create_task(asyncio.to_thread(process.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # a thread cannot be cancelled, and nobody would end what it starts
            await starting
            await cls(process.pid, lambda: process.exitcode, mine).kill()
            raise
        finally:
            theirs.close()
        timeout = PRELOAD_TIMEOUT_SECONDS if preload else START_TIMEOUT_SECONDS
        started = cls(process.pid, lambda: process.exitcode, mine)
        return await started.wait_until_ready(timeout)

    @classmethod
    async def spawn(cls, environment: Mapping[str, str]) -> "JobProcess":
        """Start a new interpreter with `environment` above that of the worker."""
        mine, theirs = socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "pygeoapi_prefect.worker.child", str(theirs.fileno())],
                env={**os.environ, **environment},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        started = cls(process.pid, process.poll, Connection(mine.detach()))
        return await started.wait_until_ready(START_TIMEOUT_SECONDS)

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its session and process group."""
        return self._pid

    @property
    def started(self) -> int:
        """When it started, in whole seconds since 1970."""
        return self._started

    @property
    def is_alive(self) -> bool:
        """Whether it can take a job."""
        return not self._closed and self._exit_code() is None

    async def run(self, message: Job | HookJob) -> Done | Stale | Died:
        """Hand over a job and wait until it has ended, one way or the other."""
        self.loaded = None
        self.tell(message)
        while True:
            answer = await self._inbox.get()
            if isinstance(answer, Loaded):
                self.loaded = answer
            elif isinstance(answer, Done | Stale | Died):
                return answer

    def tell(self, message: ToProcess) -> None:
        """Send a message; a process that is gone has answered with `Died` already."""
        if not self._closed:
            with suppress(OSError):
                self._connection.send(message)

    def interrupt(self, message: Interrupt) -> None:
        """Ask the running job to end; `kill` is for when it does not."""
        self.tell(message)

    async def stop(self) -> None:
        """Let the process send its logs and end; kill it where it does not."""
        self.tell(Stop())
        give_up_at = self._loop.time() + STOP_TIMEOUT_SECONDS
        while self._exit_code() is None and self._loop.time() < give_up_at:
            await asyncio.sleep(_EXIT_POLL_SECONDS)
        await self.kill()

    async def kill(self) -> None:
        """End the process and all that it started, at once."""
        await asyncio.to_thread(kill_session, self._pid, self._mark)
        if self._exit_code() is None:
            # it did not get as far as a session of its own
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        while (exit_code := self._exit_code()) is None:
            await asyncio.sleep(_EXIT_POLL_SECONDS)
        self._close()
        self._announce_end(exit_code)

    async def kill_offspring(self) -> None:
        """End all that the process started, but not the process."""
        await asyncio.to_thread(kill_session, self._pid, self._mark, spare_leader=True)

    async def wait_until_ready(self, timeout_seconds: float) -> "JobProcess":
        """Wait until it can take jobs.

        Raises:
            ChildProcessError: it ended instead.
            TimeoutError: it did neither.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                message = await self._inbox.get()
        except BaseException:
            await asyncio.shield(self.kill())
            raise
        if not isinstance(message, Ready):
            await self.kill()
            raise ChildProcessError(f"a process for jobs did not start: {message}")
        self._started = int(started_at(message.pid) or 0)
        return self

    def _receive(self) -> None:
        try:
            while self._connection.poll():
                self._inbox.put_nowait(self._connection.recv())
        except (EOFError, OSError):
            self._close()
            self._loop.create_task(self._tell_exit_code())

    async def _tell_exit_code(self) -> None:
        give_up_at = self._loop.time() + STOP_TIMEOUT_SECONDS
        while (exit_code := self._exit_code()) is None:
            if self._loop.time() > give_up_at:
                # it closed its pipe and lives on: useless, and nobody's any more
                await self.kill()
            await asyncio.sleep(_EXIT_POLL_SECONDS)
        self._announce_end(exit_code)

    def _announce_end(self, exit_code: int) -> None:
        if not self._ended:
            self._ended = True
            self._inbox.put_nowait(Died(exit_code))

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._connection.fileno())
            self._connection.close()


def _run_child(connection: Connection, preload: tuple[FlowSource, ...]) -> None:
    # imported here: the module configures nothing in the worker, which imports this one
    from pygeoapi_prefect.worker.child import main

    main(connection, preload)


def start_fork_server(environment: Mapping[str, str]) -> None:
    """Start the server that warm processes are forked from, with `environment` set.

    It imports `PRELOADED_MODULES`, which takes seconds, in the background.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED_MODULES))
    from multiprocessing.forkserver import ensure_running

    with _own_environment(environment):
        ensure_running()


@contextmanager
def _own_environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class CommandProcess:
    """A command that the job variable `command` names; it runs the flow by its own means."""

    def __init__(self, process: asyncio.subprocess.Process, mark: str) -> None:
        self._process = process
        self._mark = mark

    @classmethod
    async def start(
        cls, command: str, *, environment: Mapping[str, str], directory: str, show_output: bool
    ) -> "CommandProcess":
        """Start `command` in a session of its own."""
        output = None if show_output else subprocess.DEVNULL
        mark = str(uuid4())
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            env={**os.environ, **environment, JOB_PROCESS_VARIABLE: mark},
            cwd=directory,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        return cls(process, mark)

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its session and process group."""
        return self._process.pid

    async def wait(self) -> Done | Died:
        """Wait until the command has ended."""
        exit_code = await self._process.wait()
        return Done(0, "", 0.0) if exit_code == 0 else Died(exit_code)

    def interrupt(self, message: Interrupt) -> None:
        """Ask the command to end; what it makes of SIGTERM is its own business."""
        del message
        with suppress(ProcessLookupError):
            self._process.terminate()

    async def kill(self) -> None:
        """End the command and all that it started, at once."""
        await asyncio.to_thread(kill_session, self.pid, self._mark)


def kill_session(leader: int, mark: str, *, spare_leader: bool = False) -> None:
    """Kill all of a session, and what left it: descendants of its leader, and what is marked.

    Args:
        leader: id of a process of this user that leads, or led, a session. A process id is
            not given away again while a session of that id has members.
        mark: what `JOB_PROCESS_VARIABLE` is for all that the leader starts.
        spare_leader: whether that process itself lives on.
    """
    spared = {leader} if spare_leader else set()
    for _ in range(KILL_ROUNDS):
        victims = [victim for victim in _members(leader, mark) if victim.pid not in spared]
        if not victims:
            return
        for victim in victims:
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                continue
            except psutil.AccessDenied:
                # it runs as somebody else by now (sudo, say); the others end all the same
                logger.warning("Process %s, which a job started, may not be ended", victim.pid)
                spared.add(victim.pid)
        victims = [victim for victim in victims if victim.pid not in spared]
        # not `psutil.wait_procs`: it takes the exit codes of our own children away
        give_up_at = time.monotonic() + KILL_ROUND_SECONDS
        while any(map(still_runs, victims)) and time.monotonic() < give_up_at:
            time.sleep(KILL_POLL_SECONDS)


def _members(leader: int, mark: str) -> list[psutil.Process]:
    members: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError, psutil.Error):
            if (
                os.getsid(process.pid) == leader
                or process.environ().get(JOB_PROCESS_VARIABLE) == mark
            ):
                members[process.pid] = process
    if leader in members:
        # what left the session, but has not left the family
        with suppress(psutil.NoSuchProcess):
            for descendant in members[leader].children(recursive=True):
                members.setdefault(descendant.pid, descendant)
    return [process for process in members.values() if still_runs(process)]
