"""The programs that a stand is made of: started, waited for, and ended together."""

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pygeoapi_prefect.children import (
    MARK_VARIABLE,
    Child,
    Guard,
    end_processes,
    marked_processes,
)

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 180.0
GRACE_SECONDS = 15.0
_POLL_SECONDS = 0.1


class Programs:
    """Starts programs in one environment. A context manager that leaves none of them behind.

    Attributes:
        home: Where they keep their files, and their logs.
        environment: Variables that all of them have.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._mark = uuid.uuid4().hex
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "PYGEOAPI_"))
        }
        self.environment = kept | {
            MARK_VARIABLE: self._mark,
            "DO_NOT_TRACK": "1",
            # they do not run where the benchmarks' own modules are
            "PYTHONPATH": str(REPOSITORY),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Have programs run inside the block alone, even if this process is killed in it."""
        guard = Guard(self._mark)
        try:
            yield
        finally:
            end_processes(marked_processes(self._mark), GRACE_SECONDS)
            guard.release()

    @contextlib.contextmanager
    def run(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        is_ready: Callable[[], bool],
    ) -> Iterator[Child]:
        """Run a Python program inside the block, which begins when it is ready.

        Args:
            name: What its log is called.
            arguments: Of the interpreter.
            environment: Variables beside those that all programs have.
            is_ready: Asked until it says so.

        Raises:
            RuntimeError: It ended, or was not ready in time; the message has the end of its log.
        """
        with self.run_command(name, [sys.executable, *arguments], environment, is_ready) as child:
            yield child

    @contextlib.contextmanager
    def run_command(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        is_ready: Callable[[], bool],
    ) -> Iterator[Child]:
        """Run any program inside the block, as `run` does one of Python."""
        child = Child(name, command, {**self.environment, **environment}, self.home / f"{name}.log")
        try:
            _await(child, is_ready)
            yield child
        finally:
            end_processes([child.process], GRACE_SECONDS)
            # one with threads is a zombie for a moment before it can be waited for
            child.process.wait(GRACE_SECONDS)

    def call(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a Python program to its end. Raises `RuntimeError` if that is not a good one."""
        child = Child(
            name,
            [sys.executable, *arguments],
            {**self.environment, **environment},
            self.home / f"{name}.log",
        )
        if child.process.wait(START_SECONDS) != 0:
            raise RuntimeError(f"{name} ended with an error:\n{child.log_tail}")


def _await(child: Child, is_ready: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while not is_ready():
        if child.has_ended or time.monotonic() > give_up_at:
            raise RuntimeError(f"{child.name} does not answer; its log ends:\n{child.log_tail}")
        time.sleep(_POLL_SECONDS)
