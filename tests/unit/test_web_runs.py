"""Jobs in the web process: waiting, stopping, and what a dead process leaves behind.

Prefect's engine, which asks a server, is replaced with one that calls the flow's function;
the integration tests have the real one.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import prefect.flow_engine
import pytest
from prefect import flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort
from prefect.flows import Flow
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Cancelling, Completed, Failed, Running

from pygeoapi_prefect import web_runs
from pygeoapi_prefect.errors import BackendUnreachable, DeploymentNotFound, ServerBusy
from pygeoapi_prefect.jobs import Job, run_labels, run_name
from pygeoapi_prefect.schemas import JobStatus
from pygeoapi_prefect.testing import InMemoryGateway
from pygeoapi_prefect.web_processes import WebProcess
from pygeoapi_prefect.web_runs import WebRuns

LONG_SECONDS = 60.0
MAX_RUNS = 2


@pytest.fixture
def gateway() -> InMemoryGateway:
    return InMemoryGateway()


@pytest.fixture
def runs(gateway: InMemoryGateway) -> Iterator[WebRuns]:
    made = WebRuns(gateway, MAX_RUNS)
    yield made
    made._watch.stop()


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch, gateway: InMemoryGateway) -> None:
    def run_flow(
        flow: Flow[..., Any], flow_run: FlowRun, parameters: dict[str, Any], return_type: str
    ) -> Any:
        assert return_type == "state"
        job_id = flow_run.name.removeprefix("pygeoapi_job_")
        gateway.set_state(job_id, Running())
        if flow.isasync:
            return _awaited(flow, parameters)
        try:
            state: State[Any] = Completed(data=flow.fn(**parameters))
        except Exception as error:
            state = Failed(message=f"Flow run encountered an exception: {error!r}")
        gateway.set_state(job_id, state)
        return state

    monkeypatch.setattr(prefect.flow_engine, "run_flow", run_flow)


async def _awaited(flow: Flow[..., Any], parameters: dict[str, Any]) -> State[Any]:
    return Completed(data=await flow.fn(**parameters))


@flow
def adding(a: int, b: int = 1) -> int:
    return a + b


@flow
def failing() -> None:
    raise RuntimeError("no shore")


class Blocking:
    """A flow's function that runs until it is let go, or made to stop."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.let_go = threading.Event()
        self.stopped = threading.Event()

    def run(self) -> str:
        try:
            self.started.set()
            # an asynchronous exception is raised between two instructions, and must not be
            # raised where a lock is held
            while not self.let_go.is_set():
                time.sleep(0.001)
        except web_runs.JobDismissed:
            self.stopped.set()
            raise
        return "done"


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    made = Blocking()
    yield made
    made.let_go.set()


def run(
    runs: WebRuns,
    gateway: InMemoryGateway,
    job_flow: Flow[..., Any],
    parameters: Mapping[str, Any],
    timeout_seconds: float,
    job_id: str = "a",
) -> Job:
    return runs.run(
        job_flow, lambda: (created(gateway, job_flow, job_id), parameters), timeout_seconds
    )


def created(gateway: InMemoryGateway, job_flow: Flow[..., Any], job_id: str = "a") -> FlowRun:
    return gateway.create_run(
        job_flow,
        job_id=job_id,
        process_id="p",
        parameters={},
        labels=run_labels(
            process_id="p",
            result_media_type="text/plain",
            result_storage="memory://x",
            web_process=WebProcess.own().label,
        ),
    )


@pytest.mark.parametrize(
    ("job_flow", "parameters", "status", "message"),
    [
        (adding, {"a": 1}, JobStatus.successful, "Job complete"),
        (failing, {}, JobStatus.failed, "RuntimeError('no shore')"),
    ],
)
def test_a_job_is_returned_when_it_has_ended(
    runs: WebRuns,
    gateway: InMemoryGateway,
    job_flow: Flow[..., Any],
    parameters: dict[str, Any],
    status: JobStatus,
    message: str,
) -> None:
    job = run(runs, gateway, job_flow, parameters, LONG_SECONDS)

    assert (job.job_id, job.status, job.message) == ("a", status, message)
    assert job.has_ended
    assert job.process_id == "p"
    assert job.result_media_type == "text/plain"


def test_an_asynchronous_flow_is_awaited(runs: WebRuns, gateway: InMemoryGateway) -> None:
    awaited = []

    @flow
    async def asynchronous(a: int) -> None:
        awaited.append(a)

    job = run(runs, gateway, asynchronous, {"a": 1}, LONG_SECONDS)

    assert job.status is JobStatus.successful
    assert awaited == [1]


def test_the_heartbeat_that_prefect_joins_is_off(runs: WebRuns, gateway: InMemoryGateway) -> None:
    frequencies: list[Any] = []

    @flow
    def looking() -> None:
        frequencies.append(get_current_settings().flows.heartbeat_frequency)

    run(runs, gateway, looking, {}, LONG_SECONDS)

    assert frequencies == [None]


def test_a_wait_that_runs_out_leaves_the_job_going_on(
    runs: WebRuns, gateway: InMemoryGateway, blocking: Blocking
) -> None:
    job_flow = Flow(blocking.run, name="blocking")

    job = run(runs, gateway, job_flow, {}, timeout_seconds=0.05)

    assert not job.has_ended
    blocking.let_go.set()
    assert gateway.wait(gateway.find("a"), LONG_SECONDS).status is JobStatus.successful


def started(
    runs: WebRuns,
    gateway: InMemoryGateway,
    blocking: Blocking,
    timeout_seconds: float,
    job_id: str = "a",
) -> Job:
    job_flow = Flow(blocking.run, name="blocking")
    job = run(runs, gateway, job_flow, {}, timeout_seconds, job_id)
    assert blocking.started.wait(LONG_SECONDS)
    return job


def test_a_dismissed_job_is_made_to_stop(
    runs: WebRuns, gateway: InMemoryGateway, blocking: Blocking
) -> None:
    job = started(runs, gateway, blocking, 0.05)

    assert gateway.cancel(job).stopping
    runs.stop(job)

    assert blocking.stopped.wait(LONG_SECONDS)
    ended = gateway.wait(job, LONG_SECONDS)
    assert (ended.status, ended.has_ended) == (JobStatus.dismissed, True)


def test_a_job_that_another_process_dismisses_is_made_to_stop(
    runs: WebRuns,
    gateway: InMemoryGateway,
    blocking: Blocking,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_runs, "WATCH_SECONDS", 0.02)
    job = started(runs, gateway, blocking, 0.05)

    gateway.cancel(job)

    assert blocking.stopped.wait(LONG_SECONDS)


def test_a_prefect_server_that_is_down_does_not_end_the_watching(
    runs: WebRuns,
    gateway: InMemoryGateway,
    blocking: Blocking,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_runs, "WATCH_SECONDS", 0.02)
    asked_while_down = threading.Event()
    ask = gateway.dismissed

    def dismissed(flow_run_ids: Any) -> set[uuid.UUID]:
        if gateway.unavailable:
            asked_while_down.set()
        return ask(flow_run_ids)

    monkeypatch.setattr(gateway, "dismissed", dismissed)
    job = started(runs, gateway, blocking, 0.05)
    gateway.unavailable = True
    assert asked_while_down.wait(LONG_SECONDS)
    gateway.unavailable = False

    gateway.cancel(job)

    assert blocking.stopped.wait(LONG_SECONDS)


def test_an_error_does_not_end_the_watching(
    runs: WebRuns,
    gateway: InMemoryGateway,
    blocking: Blocking,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_runs, "WATCH_SECONDS", 0.02)
    errors = [KeyError("bug"), DeploymentNotFound("refused")]
    ask = gateway.dismissed

    def dismissed(flow_run_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        if errors:
            raise errors.pop()
        return ask(flow_run_ids)

    monkeypatch.setattr(gateway, "dismissed", dismissed)
    job = started(runs, gateway, blocking, 0.05)

    gateway.cancel(job)

    assert blocking.stopped.wait(LONG_SECONDS)
    assert errors == []


def watched_times(
    gateway: InMemoryGateway, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], None]:
    """Returns a function that waits until jobs were looked at so many times more."""
    looks = threading.Semaphore(0)
    ask = gateway.dismissed

    def dismissed(flow_run_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        found = ask(flow_run_ids)
        looks.release()
        return found

    monkeypatch.setattr(gateway, "dismissed", dismissed)

    def wait(times: int) -> None:
        for _ in range(times):
            assert looks.acquire(timeout=LONG_SECONDS)

    return wait


class CleaningUp(Blocking):
    """It does not end before it is let go, though it is made to stop."""

    def run(self) -> str:
        try:
            return super().run()
        except web_runs.JobDismissed:
            while not self.let_go.is_set():
                time.sleep(0.001)
            raise


@pytest.fixture
def cleaning_up() -> Iterator[CleaningUp]:
    made = CleaningUp()
    yield made
    made.let_go.set()


def test_a_job_that_cleans_up_is_let_do_so_and_has_ended_when_it_has_done(
    runs: WebRuns,
    gateway: InMemoryGateway,
    cleaning_up: CleaningUp,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_runs, "WATCH_SECONDS", 0.01)
    interruptions: list[type[BaseException] | None] = []
    raise_in = web_runs._raise_in

    def noted(thread: threading.Thread, exception: type[BaseException] | None) -> None:
        interruptions.append(exception)
        raise_in(thread, exception)

    monkeypatch.setattr(web_runs, "_raise_in", noted)
    job = started(runs, gateway, cleaning_up, 0.05)
    gateway.cancel(job)
    assert cleaning_up.stopped.wait(LONG_SECONDS)
    look_times = watched_times(gateway, monkeypatch)

    look_times(5)

    assert interruptions == [web_runs.JobDismissed]
    assert gateway.find("a").stopping
    cleaning_up.let_go.set()
    ended = gateway.wait(job, LONG_SECONDS)
    assert (ended.status, ended.has_ended) == (JobStatus.dismissed, True)


def test_a_job_that_goes_on_after_its_time_to_clean_up_is_interrupted_again(
    runs: WebRuns,
    gateway: InMemoryGateway,
    blocking: Blocking,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_runs, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(web_runs, "GRACE_SECONDS", 0.0)
    interruptions = threading.Semaphore(0)
    monkeypatch.setattr(web_runs, "_raise_in", lambda *_: interruptions.release())
    job = started(runs, gateway, blocking, 0.05)

    gateway.cancel(job)

    for _ in range(3):
        assert interruptions.acquire(timeout=LONG_SECONDS)


def test_a_dismissal_that_the_engine_learns_of_first_has_an_end(
    runs: WebRuns, gateway: InMemoryGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_flow(*_: Any, **__: Any) -> State[Any]:
        # the server takes no other end then, and says what it has instead
        gateway.set_state("a", Cancelling())
        return Cancelling()

    monkeypatch.setattr(prefect.flow_engine, "run_flow", run_flow)

    job = run(runs, gateway, adding, {"a": 1}, LONG_SECONDS)

    assert (job.status, job.has_ended) == (JobStatus.dismissed, True)


def test_the_wait_for_a_job_ends_when_somebody_dismisses_it(
    runs: WebRuns, gateway: InMemoryGateway, blocking: Blocking
) -> None:
    def dismiss() -> None:
        assert blocking.started.wait(LONG_SECONDS)
        job = gateway.find("a")
        gateway.cancel(job)
        runs.stop(job)

    dismissing = threading.Thread(target=dismiss)
    dismissing.start()
    job = started(runs, gateway, blocking, LONG_SECONDS)
    dismissing.join()

    assert job.status is JobStatus.dismissed


def test_signs_of_life_are_given_for_a_job_as_long_as_it_lasts(
    runs: WebRuns, gateway: InMemoryGateway, blocking: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_runs, "WATCH_SECONDS", 0.001)
    monkeypatch.setattr(web_runs, "PULSE_SECONDS", 0.0)
    given = threading.Event()
    label = gateway.label

    def labelled(job: Job, labels: Mapping[str, str]) -> None:
        label(job, labels)
        given.set()

    monkeypatch.setattr(gateway, "label", labelled)
    started(runs, gateway, blocking, 0.05)
    assert given.wait(LONG_SECONDS)
    assert gateway.find("a").web_pulse is not None

    blocking.let_go.set()
    assert gateway.wait(gateway.find("a"), LONG_SECONDS).status is JobStatus.successful


@pytest.mark.parametrize("error", [Abort("the run was cancelled"), SystemExit(3), KeyError("x")])
def test_an_engine_that_breaks_off_ends_the_wait(
    runs: WebRuns,
    gateway: InMemoryGateway,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_flow(*_: Any, **__: Any) -> Any:
        gateway.set_state("a", Cancelled())
        raise error

    monkeypatch.setattr(prefect.flow_engine, "run_flow", run_flow)

    job = run(runs, gateway, adding, {"a": 1}, LONG_SECONDS)

    assert job.status is JobStatus.dismissed


def test_a_job_whose_engine_breaks_off_fails(
    runs: WebRuns, gateway: InMemoryGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_flow(*_: Any, **__: Any) -> Any:
        gateway.set_state("a", Running())
        raise RuntimeError("the state could not be set")

    monkeypatch.setattr(prefect.flow_engine, "run_flow", run_flow)

    job = run(runs, gateway, adding, {"a": 1}, LONG_SECONDS)

    assert (job.status, job.message) == (JobStatus.failed, web_runs.UNTOLD)


def test_a_job_whose_end_cannot_be_told_is_known_to_its_client_and_fails_later(
    runs: WebRuns, gateway: InMemoryGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_flow(*_: Any, **__: Any) -> Any:
        gateway.set_state("a", Running())
        gateway.unavailable = True
        raise RuntimeError("the state could not be set")

    monkeypatch.setattr(prefect.flow_engine, "run_flow", run_flow)

    job = run(runs, gateway, adding, {"a": 1}, LONG_SECONDS)

    assert (job.job_id, job.has_ended) == ("a", False)
    gateway.unavailable = False
    assert gateway.wait(job, LONG_SECONDS).status is JobStatus.failed


def test_a_wait_that_runs_out_while_the_prefect_server_is_down_returns_the_job(
    runs: WebRuns, gateway: InMemoryGateway, blocking: Blocking
) -> None:
    def cut_off() -> None:
        assert blocking.started.wait(LONG_SECONDS)
        gateway.unavailable = True

    cutting = threading.Thread(target=cut_off)
    cutting.start()
    job_flow = Flow(blocking.run, name="blocking")
    made = created(gateway, job_flow)

    def create() -> tuple[FlowRun, Mapping[str, Any]]:
        return made, {}

    job = runs.run(job_flow, create, 0.2)
    cutting.join()

    assert (job.job_id, job.has_ended) == ("a", False)
    gateway.unavailable = False


def test_a_job_that_nothing_runs_fails_if_there_is_one(
    runs: WebRuns, gateway: InMemoryGateway
) -> None:
    created(gateway, adding)

    runs.disown("never made")
    runs.disown("a")

    assert gateway.wait(gateway.find("a"), LONG_SECONDS).status is JobStatus.failed


# -- how many there are


def test_no_more_jobs_run_than_may(runs: WebRuns, gateway: InMemoryGateway) -> None:
    blocked = [Blocking() for _ in range(MAX_RUNS)]
    for number, one in enumerate(blocked):
        started(runs, gateway, one, 0.01, str(number))

    with pytest.raises(ServerBusy):
        run(runs, gateway, adding, {"a": 1}, LONG_SECONDS)

    assert "a" not in gateway.runs
    blocked[0].let_go.set()
    assert gateway.wait(gateway.find("0"), LONG_SECONDS).has_ended
    give_up_at = time.monotonic() + LONG_SECONDS
    job = None
    while job is None:  # its thread has still to end
        assert time.monotonic() < give_up_at
        try:
            job = run(runs, gateway, adding, {"a": 1}, LONG_SECONDS)
        except ServerBusy:
            blocked[1].let_go.wait(0.01)
    assert job.status is JobStatus.successful
    blocked[1].let_go.set()


def test_a_job_that_could_not_be_made_takes_no_place(
    runs: WebRuns, gateway: InMemoryGateway
) -> None:
    gateway.unavailable = True
    for _ in range(MAX_RUNS + 1):
        with pytest.raises(BackendUnreachable):
            run(runs, gateway, adding, {"a": 1}, LONG_SECONDS)
    gateway.unavailable = False

    assert run(runs, gateway, adding, {"a": 1}, LONG_SECONDS).status is JobStatus.successful


class LateDismissal:
    """A lock at which a dismissal arrives: the engine is done, the thread is not."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.has_arrived = False

    def __enter__(self) -> None:
        if threading.current_thread().name == run_name("a") and not self.has_arrived:
            self.has_arrived = True
            raise web_runs.JobDismissed
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_dismissal_that_arrives_too_late_keeps_nobody_waiting(
    runs: WebRuns, gateway: InMemoryGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = LateDismissal(runs._lock)
    monkeypatch.setattr(runs, "_lock", lock)

    job = run(runs, gateway, adding, {"a": 1}, LONG_SECONDS)

    assert lock.has_arrived
    assert job.status is JobStatus.successful
    assert runs._runs == {}


def test_stopping_a_job_of_another_process_leaves_ours_alone(
    runs: WebRuns, gateway: InMemoryGateway, blocking: Blocking
) -> None:
    started(runs, gateway, blocking, 0.05)
    created(gateway, adding, "b")

    runs.stop(gateway.find("b"))
    blocking.let_go.set()

    assert gateway.wait(gateway.find("a"), LONG_SECONDS).status is JobStatus.successful
    assert not blocking.stopped.is_set()
