"""Which processes are seen, and which end together."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from pygeoapi_prefect.worker.owner import JOB_PROCESS_VARIABLE
from pygeoapi_prefect.worker.process import kill_session

MARK = "of this test"

# starts one process in its session and one in a session of its own, and says their ids
FAMILY = """
import subprocess, sys, time
inside = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
outside = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(inside.pid, outside.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def family() -> Iterator[tuple["subprocess.Popen[str]", list[psutil.Process]]]:
    leader = subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert leader.stdout is not None
    others = [psutil.Process(int(pid)) for pid in leader.stdout.readline().split()]
    yield leader, others
    leader.kill()
    for process in filter(_runs, others):
        process.kill()
    leader.wait()
    leader.stdout.close()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_all_of_a_session_and_the_family_of_its_leader_end_together(
    family: tuple["subprocess.Popen[str]", list[psutil.Process]],
) -> None:
    leader, others = family

    kill_session(leader.pid, MARK)

    assert leader.wait(60) == -signal.SIGKILL
    assert not any(_runs(process) for process in others)


def test_the_rest_of_a_session_ends_when_its_leader_is_gone(
    family: tuple["subprocess.Popen[str]", list[psutil.Process]],
) -> None:
    leader, (inside, _) = family
    leader.kill()
    leader.wait()

    kill_session(leader.pid, MARK)

    assert not _runs(inside)


def test_what_left_session_and_family_ends_by_its_mark(
    family: tuple["subprocess.Popen[str]", list[psutil.Process]],
) -> None:
    leader, _ = family
    marked, other = (
        subprocess.Popen(["sleep", "600"], env={JOB_PROCESS_VARIABLE: mark}, start_new_session=True)
        for mark in (MARK, f"{MARK}, not")
    )
    with marked, other:
        kill_session(leader.pid, MARK)

        assert marked.wait(60) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_a_leader_can_be_spared(
    family: tuple["subprocess.Popen[str]", list[psutil.Process]],
) -> None:
    leader, others = family

    kill_session(leader.pid, MARK, spare_leader=True)

    assert leader.poll() is None
    assert not any(_runs(process) for process in others)


def test_a_process_that_may_not_be_ended_keeps_no_other_from_it(
    family: tuple["subprocess.Popen[str]", list[psutil.Process]], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, (inside, outside) = family
    kill = psutil.Process.kill

    def kill_but_one(process: psutil.Process) -> None:
        if process.pid == leader.pid:
            raise psutil.AccessDenied(process.pid)
        kill(process)

    monkeypatch.setattr(psutil.Process, "kill", kill_but_one)

    kill_session(leader.pid, MARK)

    monkeypatch.undo()
    assert leader.poll() is None
    assert not any(map(_runs, (inside, outside)))
