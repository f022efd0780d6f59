"""Flows that use what Prefect offers; each returns or leaves behind what shows it."""

import asyncio
import datetime as dt
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, tags, task
from prefect.cache_policies import INPUTS
from prefect.task_runners import ThreadPoolTaskRunner

from .declare import process_of


def note_attempt(inputs: dict[str, Any]) -> int:
    """Add the time to a file, and return how many there are in it."""
    path = Path(inputs["folder"], "attempts")
    with path.open("a") as file:
        file.write(f"{time.time()}\n")
    return len(path.read_text().splitlines())


@flow(retries=2, retry_delay_seconds=1)
def flaky_flow(inputs: dict[str, Any]) -> str:
    attempt = note_attempt(inputs)
    if attempt <= inputs["failures"]:
        raise RuntimeError(f"failure {attempt}")
    return f"success {attempt}"


@task(retries=2, retry_delay_seconds=[0.4, 0.8])
def flaky_step(inputs: dict[str, Any]) -> str:
    attempt = note_attempt(inputs)
    if attempt <= inputs["failures"]:
        raise RuntimeError(f"failure {attempt}")
    return f"success {attempt}"


@flow
def flaky_task(inputs: dict[str, Any]) -> str:
    return flaky_step(inputs)


def work_until_stopped(folder: str) -> None:
    """Touch a file for as long as nobody stops it, two minutes at most."""
    give_up_at = time.monotonic() + 120
    while time.monotonic() < give_up_at:
        Path(folder, "alive").touch()
        time.sleep(0.05)


@flow(timeout_seconds=1)
def slow_flow(inputs: dict[str, Any]) -> None:
    work_until_stopped(inputs["folder"])


@task(timeout_seconds=1)
def slow_step(folder: str) -> None:
    work_until_stopped(folder)


@flow
def slow_task(inputs: dict[str, Any]) -> None:
    slow_step(inputs["folder"])


@task(cache_policy=INPUTS, persist_result=True)
def draw(seed: str) -> str:
    return f"{seed}: {uuid.uuid4()}"


@flow
def cached(inputs: dict[str, Any]) -> str:
    expiration = dt.timedelta(seconds=inputs["seconds"])
    return draw.with_options(cache_expiration=expiration)(inputs["seed"])


THREADS = 3
_meeting = threading.Barrier(THREADS, timeout=120)


@task
def meet(number: int) -> int:
    _meeting.wait()  # nobody passes unless all are here at once
    return number * number


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


_threads: Any = ThreadPoolTaskRunner(max_workers=THREADS)


@flow(task_runner=_threads)
def threaded() -> int:
    squares: Any = meet.map(range(THREADS))
    return total.submit(squares).result()


@flow(flow_run_name="greet {inputs[name]} ({job_id})")
def named(job_id: str, inputs: dict[str, Any]) -> str:
    return f"Hello {inputs['name']}!"


@task(tags=["heavy"])
def tagged_step() -> None:
    pass


@flow
def tagged() -> None:
    with tags("blue"):
        tagged_step()


@flow(log_prints=True)
def printing(inputs: dict[str, Any]) -> None:
    print(f"printed {inputs['word']}")
    get_run_logger().warning("logged %s", inputs["word"])


def _hook(name: str) -> Any:
    def hook(flow: Any, flow_run: Any, state: Any) -> None:
        folder = Path("hooks")
        folder.mkdir(exist_ok=True)
        Path(folder, f"{flow_run.name} {name}").write_text(str(state.name))

    hook.__name__ = name
    return hook


@flow(
    on_completion=[_hook("completion")],
    on_failure=[_hook("failure")],
    on_cancellation=[_hook("cancellation")],
    on_crashed=[_hook("crashed")],
    on_running=[_hook("running")],
)
def hooked(inputs: dict[str, Any]) -> str:
    match inputs["end"]:
        case "failure":
            raise ValueError("as was asked for")
        case "crash":
            raise SystemExit(3)
        case "wait":
            work_until_stopped(inputs["folder"])
    return "done"


@flow(persist_result=True, result_serializer="json")
def persisting(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"squares": [number**2 for number in range(inputs["count"])]}


@task
def add_one(number: int) -> int:
    return number + 1


@flow
def inner(number: int) -> int:
    return add_one(number) * 2


@flow
def outer(inputs: dict[str, Any]) -> int:
    with tags("pygeoapi"):  # as where tags of the run are handed on
        return inner(inner(inputs["number"]))


@task
async def wait_and_square(number: int) -> int:
    await asyncio.sleep(0.05)
    return number * number


@flow(timeout_seconds=120)
async def asynchronous(inputs: dict[str, Any]) -> list[int]:
    return await asyncio.gather(*[wait_and_square(number) for number in inputs["numbers"]])


@flow(on_cancellation=[_hook("cancellation")], on_crashed=[_hook("crashed")])
async def waiting(inputs: dict[str, Any]) -> None:
    """Waits for nothing, in an event loop that has nothing else to do either."""
    Path(inputs["folder"], "alive").touch()
    try:
        await asyncio.sleep(120)
    finally:
        Path(inputs["folder"], "interrupted").touch()


@flow
def patient(inputs: dict[str, Any]) -> str:
    """Goes on when there is a file `go` in the folder; `alive` shows that it waits."""
    give_up_at = time.monotonic() + 120
    while not Path(inputs["folder"], "go").exists():
        if time.monotonic() > give_up_at:
            raise TimeoutError("nobody said go")
        Path(inputs["folder"], "alive").touch()
        time.sleep(0.05)
    return "went on"


FlakyFlow = process_of(flaky_flow, "folder", "failures")
FlakyTask = process_of(flaky_task, "folder", "failures")
SlowFlow = process_of(slow_flow, "folder")
SlowTask = process_of(slow_task, "folder")
Cached = process_of(cached, "seed", "seconds")
Threaded = process_of(threaded)
Named = process_of(named, "name")
Tagged = process_of(tagged)
Printing = process_of(printing, "word")
Hooked = process_of(hooked, "end", "folder")
Persisting = process_of(persisting, "count")
Outer = process_of(outer, "number")
Asynchronous = process_of(asynchronous, "numbers")
Waiting = process_of(waiting, "folder")
Patient = process_of(patient, "folder")
