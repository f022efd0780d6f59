"""Which process is meant by an id."""

import os
import subprocess
import sys
import time

import pytest

from pygeoapi_prefect.os_processes import is_same_process, started_at, this_machine


def test_a_process_that_runs_has_started_at_some_time() -> None:
    started = started_at(os.getpid())

    assert started is not None
    assert 0 < started <= time.time()


def test_a_process_that_nobody_has_buried_is_gone() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert started_at(process.pid) is None

    process.wait()
    assert started_at(process.pid) is None


@pytest.mark.parametrize(
    ("started", "now", "expected"), [(10, 10, True), (10, 12, True), (10, 13, False)]
)
def test_a_process_id_that_was_given_away_again_is_another_process(
    started: int, now: int, expected: bool
) -> None:
    assert is_same_process(started, now) is expected
    assert not is_same_process(started, None)


def test_processes_that_see_each_other_are_of_one_machine() -> None:
    program = "from pygeoapi_prefect.os_processes import this_machine; print(this_machine())"

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert said.stdout.strip() == this_machine()
