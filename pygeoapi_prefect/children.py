"""Processes of the stack, and how none of them outlives it.

Every process started here, and each that one of those starts in turn, carries a mark in
its environment. A flow run's process has a session of its own and may lose its parent, so
that neither process group nor family leads to it: the mark does.

Nothing in here knows what the processes do.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

MARK_VARIABLE = "PYGEOAPI_PREFECT_STACK"
LOG_TAIL_LINES = 15
KILL_SECONDS = 10.0
_POLL_SECONDS = 0.1


class Child:
    """A running child process whose output goes to a log file.

    It has a session of its own: a Ctrl-C in the terminal reaches the parent alone, which
    then stops its children in the right order.

    Attributes:
        name: What messages call it.
        arguments: The command.
        log_path: Where its output goes.
        previous_log_path: Where the output of the one before is kept.
        process: The process itself.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], log_path: Path
    ) -> None:
        self.name = name
        self.arguments = tuple(arguments)
        self.log_path = log_path
        self.previous_log_path = log_path.with_suffix(".previous.log")
        log_path.parent.mkdir(parents=True, exist_ok=True)
        if log_path.exists():
            log_path.replace(self.previous_log_path)
        with log_path.open("wb") as log:
            self.process = psutil.Popen(
                list(arguments),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self.process.poll() is not None

    @property
    def log_tail(self) -> str:
        """The last lines of its output."""
        with self.log_path.open(encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-LOG_TAIL_LINES:]).rstrip()


def marked_processes(mark: str) -> list[psutil.Process]:
    """All processes of this machine that carry the mark, except the calling one."""
    found = []
    for process in psutil.process_iter():
        try:
            is_marked = process.environ().get(MARK_VARIABLE) == mark
        except psutil.Error:  # it ended meanwhile, or belongs to another user
            continue
        if is_marked and process.pid != os.getpid():
            found.append(process)
    return found


def end_processes(
    processes: Iterable[psutil.Process],
    grace_seconds: float,
    is_hurried: Callable[[], bool] = lambda: False,
) -> None:
    """End processes, children or not: ask all of them, wait, then force.

    Args:
        processes: They may have ended already.
        grace_seconds: How long to wait until force is used.
        is_hurried: Asked while waiting; True ends the wait.
    """
    remaining = list(processes)
    for process in remaining:
        _signal(process.terminate)
    remaining = _wait_for(remaining, grace_seconds, is_hurried)
    for process in remaining:
        _signal(process.kill)
    _wait_for(remaining, KILL_SECONDS, lambda: False)


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return


def _wait_for(
    processes: Sequence[psutil.Process], timeout_seconds: float, is_hurried: Callable[[], bool]
) -> list[psutil.Process]:
    """Wait for the end of all, and return those that still run."""
    give_up_at = time.monotonic() + timeout_seconds
    while running := [process for process in processes if _runs(process)]:
        if time.monotonic() >= give_up_at or is_hurried():
            break
        time.sleep(_POLL_SECONDS)
    return running


def _runs(process: psutil.Process) -> bool:
    try:
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
        process.wait(timeout=0)  # clears it away if it is a child
    except psutil.NoSuchProcess:
        return False
    except psutil.TimeoutExpired:
        # one that is not our child stays a zombie until its parent clears it away
        return not is_zombie
    return False


class Guard:
    """A process that ends all marked ones when its parent is gone, however that went.

    It waits for the end of a pipe which the parent holds open, and which the kernel closes
    even if the parent is killed by force.
    """

    def __init__(self, mark: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pygeoapi_prefect.guard", mark],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def release(self) -> None:
        """Let it do its work now, and wait until it has."""
        self._process.communicate()
