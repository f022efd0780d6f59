"""Processes of the stack start, say what they have to say, and end."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from pygeoapi_prefect.children import (
    MARK_VARIABLE,
    Child,
    Guard,
    end_processes,
    marked_processes,
)

DEADLINE_SECONDS = 120.0
WAITING = "import signal; print('ready', flush=True); signal.pause()"
DEAF = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('ready', flush=True); signal.pause()"
)


class Starter(Protocol):
    def __call__(self, program: str, mark: str = "", *, new_session: bool = False) -> psutil.Popen:
        """Start a Python program, and return its process when it has printed a line."""


@pytest.fixture
def start() -> Iterator[Starter]:
    started: list[psutil.Popen] = []

    def start_one(program: str, mark: str = "", *, new_session: bool = False) -> psutil.Popen:
        process = psutil.Popen(
            [sys.executable, "-c", program],
            env=os.environ | {MARK_VARIABLE: mark},
            stdout=subprocess.PIPE,
            start_new_session=new_session,
        )
        started.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start_one
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


def test_a_child_gets_its_environment_and_writes_to_its_log(tmp_path: Path) -> None:
    program = "import os; print(os.environ['GREETING'])"
    log_path = tmp_path / "logs" / "child.log"
    child = Child("Child", [sys.executable, "-c", program], {"GREETING": "hello"}, log_path)
    assert child.process.wait(DEADLINE_SECONDS) == 0
    assert child.has_ended
    assert child.log_tail == "hello"


def test_the_log_of_the_previous_child_is_kept(tmp_path: Path) -> None:
    log_path = tmp_path / "child.log"
    for text in ("first", "second", "third"):
        child = Child("Child", [sys.executable, "-c", f"print('{text}')"], {}, log_path)
        child.process.wait(DEADLINE_SECONDS)
    assert log_path.read_text() == "third\n"
    assert (tmp_path / "child.previous.log").read_text() == "second\n"


def test_a_child_is_out_of_reach_of_the_terminals_signals(tmp_path: Path) -> None:
    child = Child("Child", [sys.executable, "-c", WAITING], os.environ, tmp_path / "child.log")
    assert os.getsid(child.process.pid) == child.process.pid
    end_processes([child.process], DEADLINE_SECONDS)


def test_the_tail_of_a_long_log_is_its_end(tmp_path: Path) -> None:
    program = "print(*range(1000), sep='\\n')"
    child = Child("Child", [sys.executable, "-c", program], {}, tmp_path / "child.log")
    child.process.wait(DEADLINE_SECONDS)
    assert child.log_tail.splitlines() == [str(number) for number in range(985, 1000)]


def test_marked_processes_are_found_whatever_their_session_and_parent(
    start: Starter, mark: str
) -> None:
    marked = start(WAITING, mark, new_session=True)
    other = start(WAITING, "another mark")
    assert [process.pid for process in marked_processes(mark)] == [marked.pid]
    end_processes([marked, other], DEADLINE_SECONDS)
    assert marked_processes(mark) == []


def test_processes_are_asked_to_end_first(start: Starter) -> None:
    polite = start(WAITING)
    end_processes([polite], DEADLINE_SECONDS)
    assert polite.wait() == -signal.SIGTERM


def test_processes_that_do_not_listen_are_forced(start: Starter) -> None:
    deaf = start(DEAF)
    end_processes([deaf], grace_seconds=0.1)
    assert deaf.wait() == -signal.SIGKILL


def test_a_hurry_ends_the_wait_for_those_that_do_not_listen(start: Starter) -> None:
    deaf = start(DEAF)
    end_processes([deaf], grace_seconds=3600, is_hurried=lambda: True)
    assert deaf.wait() == -signal.SIGKILL


def test_ending_what_has_ended_does_nothing(start: Starter) -> None:
    gone = start("print('ready')")
    gone.wait()
    end_processes([gone], DEADLINE_SECONDS)
    assert gone.wait() == 0


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_marked_processes_end_with_a_parent_that_is_killed(
    start: Starter, mark: str, ending: signal.Signals
) -> None:
    marked = start(WAITING, mark, new_session=True)
    parent = start(
        "import signal; from pygeoapi_prefect.children import Guard; "
        f"guard = Guard({mark!r}); print('ready', flush=True); signal.pause()"
    )
    parent.send_signal(ending)
    assert marked.wait(DEADLINE_SECONDS) == -signal.SIGTERM
    parent.wait(DEADLINE_SECONDS)


def test_a_guard_that_is_released_ends_what_is_left(start: Starter, mark: str) -> None:
    guard = Guard(mark)
    marked = start(WAITING, mark)
    assert marked.is_running()
    guard.release()
    assert marked.wait(DEADLINE_SECONDS) == -signal.SIGTERM
