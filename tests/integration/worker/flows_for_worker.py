"""Flows that workers of these tests run; each says what it did in a directory.

The directory is the parameter `out`, and every line in `out/<name>` is one thing done.
"""

import asyncio
import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext


def say(out: str, name: str, line: object) -> None:
    with (Path(out) / name).open("a") as file:
        file.write(f"{line}\n")


@contextmanager
def counted(out: str) -> Iterator[None]:
    say(out, "began", f"{time.time()} {os.getpid()}")
    yield
    say(out, "ended", f"{time.time()} {os.getpid()}")


@flow
def look_around(out: str) -> None:
    say(out, "pid", os.getpid())
    say(out, "color", os.environ.get("COLOR"))
    say(out, "directory", os.getcwd())


@flow(log_prints=True)
def talk(out: str) -> None:
    print("something to read in the UI")  # noqa: T201 - that it is logged is the point
    say(out, "pid", os.getpid())


@flow(retries=1, flow_run_name="named by {name}")
def compare_with_server(out: str, name: str) -> None:
    """Says in which fields the run that the engine has differs from that of the server."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    mine = context.flow_run
    with get_client(sync_client=True) as client:
        theirs = client.read_flow_run(mine.id)
    # but for what the server estimates anew with each answer
    estimates = {"estimated_run_time", "estimated_start_time_delta", "total_run_time", "updated"}
    fields = set(type(mine).model_fields) - estimates
    differ = [field for field in fields if getattr(mine, field) != getattr(theirs, field)]
    say(out, "differ", sorted(differ))
    if mine.run_count == 1:
        raise ValueError("the first time it fails")


@flow
def print_plainly(out: str, text: str) -> None:
    print(text)  # noqa: T201 - where it goes is the point


_HELD: list[bytes] = []


@flow
def hold_memory(out: str, mib: int) -> None:
    _HELD.append(b"x" * (mib * 1024 * 1024))
    say(out, "pid", os.getpid())


def note_completion(flow: Any, flow_run: Any, state: Any) -> None:
    say(flow_run.parameters["out"], "completed", os.getpid())


@flow(on_completion=[note_completion])
def tell_of_its_end(out: str) -> None:
    say(out, "pid", os.getpid())


@flow
async def wait_asynchronously(out: str) -> None:
    with counted(out):
        await asyncio.sleep(0.01)


@flow
def work(out: str, seconds: float = 0.0) -> None:
    with counted(out):
        time.sleep(seconds)


@flow(retries=1)
def work_for_long_at_first(out: str) -> None:
    with counted(out):
        is_first = len((Path(out) / "began").read_text().splitlines()) == 1
        time.sleep(600 if is_first else 0)


@flow(retries=1)
def fail_once(out: str) -> None:
    say(out, "began", os.getpid())
    if len((Path(out) / "began").read_text().splitlines()) < 2:
        raise ValueError("the first time it fails")


@flow(retries=1, retry_delay_seconds=2)
def fail_once_and_wait(out: str) -> None:
    fail_once.fn(out)


@flow(timeout_seconds=0.5)
def take_too_long(out: str) -> None:
    time.sleep(600)
    say(out, "ended", os.getpid())


@flow
def vanish(out: str) -> None:
    say(out, "began", os.getpid())
    os._exit(0)


def note_cancellation(flow: Any, flow_run: Any, state: Any) -> None:
    say(flow_run.parameters["out"], "cancelled", state.name)


def note_crash(flow: Any, flow_run: Any, state: Any) -> None:
    say(flow_run.parameters["out"], "crashed", state.name)


@flow(on_cancellation=[note_cancellation], on_crashed=[note_crash])
def start_others_and_sleep(out: str) -> None:
    inside = subprocess.Popen(["sleep", "600"])
    outside = subprocess.Popen(["sleep", "600"], start_new_session=True)
    # its parent, the shell, ends
    command = "setsid sleep 600 > /dev/null & echo $!"
    orphan = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True, check=True)
    say(out, "children", f"{inside.pid} {outside.pid} {orphan.stdout}")
    with counted(out):
        time.sleep(600)


@flow
def stick_in_c(out: str) -> None:
    child = subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True
    )
    say(out, "children", f"{child.pid} {child.stdout.readline()}" if child.stdout else "")
    with counted(out):
        # holds the interpreter's lock: no other thread and no signal handler runs
        ctypes.PyDLL(None).sleep(600)


@task
def step(out: str, number: int) -> None:
    say(out, "steps", number)
    time.sleep(0.2)


@flow
def take_many_steps(out: str) -> None:
    with counted(out):
        for number in range(300):
            step(out, number)
