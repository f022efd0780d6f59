"""The process manager, as pygeoapi's API layer uses it, without a Prefect server."""

import functools
import json
import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from flask.testing import FlaskClient
from prefect import flow
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Cancelling, Completed, Failed, Running
from pygeoapi.process.base import BaseProcessor
from pygeoapi.util import JobStatus, RequestedProcessExecutionMode, Subscriber

from pygeoapi_prefect.errors import (
    BackendUnavailable,
    ConfigurationError,
    DeploymentNotFound,
    ExecutionError,
    InvalidRequest,
    JobFailed,
    JobNotFound,
    JobRefused,
    OutputsNotProduced,
    ResultMissing,
    ResultNotReady,
    ResultUnavailable,
    StorageError,
    UnknownProcess,
)
from pygeoapi_prefect.jobs import RESULT_STORAGE_LABEL
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.process.base import BasePrefectProcessor
from pygeoapi_prefect.schemas import (
    ProcessDescription,
    ProcessInput,
    ProcessIOSchema,
    ProcessOutput,
)
from pygeoapi_prefect.storage import FsspecStorage, open_storage
from pygeoapi_prefect.testing import InMemoryGateway, run_job

from ..file_server import serving_files

ASYNC = RequestedProcessExecutionMode.respond_async
WAIT = RequestedProcessExecutionMode.wait
DEPLOYED = {"sync_through_deployments": True}
VERBATIM = "application/json; charset=utf-8"
JSON_ACCEPTED = {"Accept": "application/json"}
DEADLINE_SECONDS = 120
OWN_THREADS = {"callbacks", "orphaned-jobs", "retention", "job-states", "running-jobs"}


class Selecting(BaseProcessor):
    """Returns those of its values, of all kinds, that an input names."""

    VALUES: ClassVar[dict[str, Any]] = {
        "text": "5 < 6 ☃",
        "table": "a;b\r\n1;2\r\n",
        "map": b"\x89PNG\r\n\x00\xff",
        "zones": {"type": "FeatureCollection", "features": []},
        "count": 7,
    }
    METADATA: ClassVar[dict[str, Any]] = {
        "version": "1.0.0",
        "title": "Selecting",
        "inputs": {
            "names": {"schema": {"type": "string"}, "minOccurs": 0, "maxOccurs": 9},
            "fail": {"schema": {"type": "string"}, "minOccurs": 0},
            "anything": {"schema": {}, "minOccurs": 0},
        },
        "outputs": {
            "text": {"schema": {"type": "string"}},
            "table": {"schema": {"type": "string", "contentMediaType": "text/csv"}},
            "map": {"schema": {"type": "string", "contentMediaType": "image/png"}},
            "zones": {"schema": {"type": "object"}},
            "count": {"schema": {"type": "integer"}},
        },
    }

    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, self.METADATA)

    # pygeoapi hands over outputs only where `supports_outputs` is true
    def execute(self, data: dict[str, Any]) -> tuple[str, Any]:  # type: ignore[override]
        if "fail" in data:
            raise RuntimeError(data["fail"])
        return "application/json", self.VALUES


@flow(name="one flow for two")
def shared(inputs: dict[str, Any]) -> Any:
    return inputs.get("a")


class Shared(BasePrefectProcessor):
    process_flow = shared
    process_description = ProcessDescription(
        version="1",
        inputs={"a": ProcessInput(schema_=ProcessIOSchema(), min_occurs=0)},
        outputs={"a": ProcessOutput(schema_=ProcessIOSchema())},
    )


class Forgetful(BaseProcessor):
    """Makes one of its two outputs, and that in one of its two media types."""

    def __init__(self, processor_def: dict[str, Any]) -> None:
        media_types = [{"contentMediaType": "text/plain"}, {"contentMediaType": "text/html"}]
        outputs = {
            "text": {"schema": {"type": "string", "oneOf": media_types}},
            "count": {"schema": {"type": "integer"}},
        }
        metadata = {"version": "1", "title": "Forgetful", "inputs": {}, "outputs": outputs}
        super().__init__(processor_def, metadata)

    def execute(self, data: dict[str, Any]) -> tuple[str, Any]:  # type: ignore[override]
        assert data == {}
        return "application/json", {"text": "x"}


SELECTING = f"{__name__}.Selecting"
FORGETFUL = f"{__name__}.Forgetful"
SHARED = f"{__name__}.Shared"
EXISTING = {
    "prefect": {
        "deployment": {"name": "slope-flow/main"},
        "metadata": {
            "version": "1",
            "inputs": {"a": {"schema": {}, "minOccurs": 0}},
            "outputs": {"a": {"schema": {}}},
        },
    }
}


@pytest.fixture
def manager(make_manager: Callable[..., PrefectManager]) -> PrefectManager:
    """A manager whose jobs all go through deployments, at no worker yet."""
    return make_manager(
        {"selecting": SELECTING, "hello-world": "HelloWorld", "one": SHARED, "two": SHARED},
        sync_job_execution_timeout_seconds=0.01,
        **DEPLOYED,
    )


@pytest.fixture
def working(manager: PrefectManager, gateway: InMemoryGateway) -> PrefectManager:
    """The same, with a worker that runs each job that somebody waits for."""
    gateway.worker = functools.partial(run_job, manager)
    return manager


def submitted(manager: PrefectManager, process_id: str = "selecting", **request: Any) -> str:
    inputs = request.pop("inputs", {})
    job_id, _, body, status, headers = manager.execute_process(
        process_id, inputs, execution_mode=ASYNC, **request
    )
    assert (body, status) == (None, JobStatus.accepted)
    assert headers["Preference-Applied"] == "respond-async"
    return job_id


def finished(manager: PrefectManager, **request: Any) -> str:
    job_id = submitted(manager, **request)
    run_job(manager, manager.gateway.find(job_id))
    return job_id


# -- making managers


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError(f"a connection was opened: {arguments}")

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("_no_network")
def test_a_manager_is_made_as_often_as_wanted_without_any_input_or_output(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    definition = {
        "name": "pygeoapi_prefect.PrefectManager",
        "connection": "",
        "output_dir": "results",
        "result_storage": "s3-bucket/not-there",
        "processes": {
            "hello-world": {"type": "process", "processor": {"name": "HelloWorld"}},
            "shared": {"type": "process", "processor": {"name": SHARED}},
            "existing": {"type": "process", "processor": EXISTING},
        },
    }
    before = {*threading.enumerate()}

    made = [PrefectManager(definition) for _ in range(3)]

    assert all(list(one.processes) == ["hello-world", "shared", "existing"] for one in made)
    # of all threads that are new, none has a name that is one of ours
    assert {thread.name for thread in {*threading.enumerate()} - before} & OWN_THREADS == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_no_network")
def test_without_an_address_of_the_prefect_api_jobs_are_unavailable() -> None:
    manager = PrefectManager({"name": "PrefectManager", "processes": {}})

    with pytest.raises(BackendUnavailable, match="PREFECT_API_URL"):
        manager.get_jobs()


def test_a_mistake_in_the_configuration_of_the_manager_is_not_survived() -> None:
    with pytest.raises(ConfigurationError, match=r"server\.manager\.work_pol"):
        PrefectManager({"name": "PrefectManager", "work_pol": "x"})


@pytest.mark.parametrize("enabled", [True, False])
def test_pygeoapi_is_told_whether_there_is_asynchronous_execution(
    make_manager: Callable[..., PrefectManager], enabled: bool
) -> None:
    assert make_manager(enable_async_job_execution=enabled).is_async is enabled


def test_the_mapping_of_processes_can_be_replaced_and_changed(manager: PrefectManager) -> None:
    resource = {"type": "process", "processor": {"name": "HelloWorld"}}

    manager.processes["added"] = resource
    assert manager.get_processor("added").metadata["id"] == "added"

    manager.processes["added"] = {"type": "process", "processor": {"name": SELECTING}}
    assert manager.get_processor("added").metadata["title"] == "Selecting"

    del manager.processes["added"]
    with pytest.raises(UnknownProcess, match="there is no process added"):
        manager.get_processor("added")

    manager.processes = {"only": resource}
    assert manager.get_processor("only").metadata["id"] == "only"
    with pytest.raises(UnknownProcess):
        manager.get_processor("selecting")


def test_a_broken_process_that_is_added_later_is_unknown(
    manager: PrefectManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager.processes["gone"] = {"type": "process", "processor": {"name": "no_module.P"}}

    with (
        caplog.at_level(logging.ERROR, logger="pygeoapi_prefect"),
        pytest.raises(UnknownProcess, match="process gone cannot be loaded"),
    ):
        manager.get_processor("gone")

    assert "cannot load no_module.P" in caplog.text


# -- executing


def test_an_asynchronous_job_is_submitted_to_its_deployment(
    manager: PrefectManager, gateway: InMemoryGateway
) -> None:
    job_id = submitted(manager, "hello-world", inputs={"name": "x"})

    run = gateway.runs[job_id]
    assert run.deployment_id is not None
    assert run.state_type is StateType.SCHEDULED
    assert run.parameters["job_id"] == job_id
    assert json.loads(run.parameters["execution_request"])["inputs"] == {"name": "x"}
    assert run.labels["pygeoapi.process_id"] == "hello-world"


@pytest.mark.parametrize("mode", [None, WAIT])
def test_a_synchronous_job_is_answered_with_its_result(
    working: PrefectManager, mode: RequestedProcessExecutionMode | None
) -> None:
    job_id, media_type, body, status, headers = working.execute_process(
        "selecting", {}, execution_mode=mode, requested_outputs={"zones": {}}
    )

    assert (media_type, status) == (VERBATIM, JobStatus.successful)
    assert json.loads(body) == Selecting.VALUES["zones"]
    assert headers["Content-Type"] == VERBATIM
    assert ("Preference-Applied" in headers) is (mode is WAIT)
    assert working.get_job(job_id)["status"] == "successful"


@pytest.mark.parametrize(
    ("output_id", "media_type", "content"),
    [
        ("text", "text/plain", "5 < 6 ☃".encode()),
        ("table", "text/csv", b"a;b\r\n1;2\r\n"),
        ("map", "image/png", b"\x89PNG\r\n\x00\xff"),
        ("count", VERBATIM, b"7"),
    ],
)
def test_over_http_one_output_is_what_the_process_returned(
    working: PrefectManager,
    client_of: Callable[[PrefectManager], FlaskClient],
    output_id: str,
    media_type: str,
    content: bytes,
) -> None:
    answer = client_of(working).post(
        "/processes/selecting/execution", json={"inputs": {}, "outputs": {output_id: {}}}
    )

    assert (answer.status_code, answer.data) == (200, content)
    assert answer.headers["Content-Type"].startswith(media_type)


def test_a_wait_that_runs_out_is_answered_with_the_job_which_goes_on(
    manager: PrefectManager,
) -> None:
    job_id, media_type, body, status, headers = manager.execute_process("selecting", {})

    assert (media_type, body, status) == ("application/json", None, JobStatus.accepted)
    # pygeoapi sends a statusInfo where it sees this
    assert headers["Preference-Applied"] == "respond-async"
    assert manager.get_job(job_id)["status"] == "accepted"
    run_job(manager, manager.gateway.find(job_id))
    assert manager.get_job(job_id)["status"] == "successful"


def test_a_job_that_fails_while_the_client_waits_is_an_error_with_its_reason(
    working: PrefectManager,
) -> None:
    with pytest.raises(ExecutionError, match="failed: RuntimeError: no shore") as raised:
        working.execute_process("selecting", {"fail": "no shore"})

    assert raised.value.http_status_code == 500


def test_a_job_that_is_dismissed_while_the_client_waits_is_an_error(
    manager: PrefectManager, gateway: InMemoryGateway
) -> None:
    gateway.worker = lambda job: gateway.set_state(job.job_id, Cancelled())

    with pytest.raises(ExecutionError, match="dismissed"):
        manager.execute_process("selecting", {})


@pytest.mark.parametrize("mode", [None, ASYNC])
@pytest.mark.parametrize(
    ("inputs", "named"),
    [({"colour": 1}, "colour"), ({"fail": 5}, "fail"), ([1], "inputs"), ("x", "inputs")],
)
def test_inputs_that_do_not_fit_make_no_job(
    manager: PrefectManager,
    gateway: InMemoryGateway,
    inputs: Any,
    named: str,
    mode: RequestedProcessExecutionMode | None,
) -> None:
    with pytest.raises(InvalidRequest, match=named):
        manager.execute_process("selecting", inputs, execution_mode=mode)

    assert gateway.runs == {}


def test_a_link_to_an_address_that_nobody_may_reach_makes_no_job(
    manager: PrefectManager, gateway: InMemoryGateway
) -> None:
    inputs = {"anything": {"href": "http://169.254.169.254/latest/meta-data"}}

    with pytest.raises(InvalidRequest, match=r"'anything': .* not a public address"):
        manager.execute_process("selecting", inputs, execution_mode=ASYNC)

    assert gateway.runs == {}


def test_an_existing_deployment_may_reach_what_this_service_does_not(
    make_manager: Callable[..., PrefectManager], gateway: InMemoryGateway
) -> None:
    link = {"href": "http://127.0.0.1:9000/a.tif"}

    job_id = submitted(make_manager({"slope": EXISTING}), "slope", inputs={"a": link})

    assert gateway.runs[job_id].parameters["a"] == link


@pytest.mark.parametrize("value", [{"__prefect_kind": "json", "value": "1"}, "{{ x }}", "☃" * 9])
def test_inputs_travel_as_text_that_prefect_leaves_alone(
    manager: PrefectManager, gateway: InMemoryGateway, value: Any
) -> None:
    job_id = submitted(manager, inputs={"anything": value})

    text = gateway.runs[job_id].parameters["execution_request"]
    assert isinstance(text, str)
    assert json.loads(text)["inputs"] == {"anything": value}
    parameters = manager.get_job(job_id)["parameters"]
    assert json.loads(parameters) == {"anything": value}


def test_a_large_request_waits_in_the_result_storage(
    make_manager: Callable[..., PrefectManager], gateway: InMemoryGateway
) -> None:
    manager = make_manager({"selecting": SELECTING}, inline_request_max_bytes=200, **DEPLOYED)
    inputs = {"anything": "☃" * 100}

    job_id = submitted(manager, inputs=inputs)

    text = gateway.runs[job_id].parameters["execution_request"]
    assert text == f"stored:{job_id}/request.json"
    storage = storage_of(manager)
    assert json.loads(storage.read(f"{job_id}/request.json"))["inputs"] == inputs
    assert manager.get_job(job_id)["parameters"] is None
    run_job(manager, gateway.find(job_id))
    assert manager.get_job(job_id)["status"] == "successful"
    assert manager.get_job_result(job_id)[0].startswith("multipart/related")
    manager.delete_job(job_id)
    with pytest.raises(ResultMissing):
        storage.read(f"{job_id}/request.json")


@pytest.mark.parametrize("mode", [ASYNC, None])
def test_a_large_request_is_not_kept_for_a_job_that_could_not_be_made(
    make_manager: Callable[..., PrefectManager],
    gateway: InMemoryGateway,
    tmp_path: Path,
    mode: RequestedProcessExecutionMode | None,
) -> None:
    manager = make_manager(
        {"selecting": SELECTING}, inline_request_max_bytes=200, result_storage=str(tmp_path)
    )
    gateway.unavailable = True

    with pytest.raises(BackendUnavailable):
        manager.execute_process("selecting", {"anything": "☃" * 100}, execution_mode=mode)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mode", "call"), [(ASYNC, "submit"), (None, "create_run")])
def test_a_large_request_is_kept_for_a_job_that_may_have_been_made(
    make_manager: Callable[..., PrefectManager],
    gateway: InMemoryGateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: RequestedProcessExecutionMode | None,
    call: str,
) -> None:
    manager = make_manager(
        {"selecting": SELECTING}, inline_request_max_bytes=200, result_storage=str(tmp_path)
    )
    make = getattr(gateway, call)

    def make_and_break_off(*arguments: Any, **keywords: Any) -> Any:
        make(*arguments, **keywords)
        raise BackendUnavailable("no answer")

    monkeypatch.setattr(gateway, call, make_and_break_off)

    with pytest.raises(BackendUnavailable, match="no answer"):
        manager.execute_process("selecting", {"anything": "☃" * 100}, execution_mode=mode)

    (job_id,) = gateway.runs
    assert (tmp_path / job_id / "request.json").exists()
    if call == "create_run":  # nothing runs it here
        assert gateway.wait(gateway.find(job_id), DEADLINE_SECONDS).status == "failed"


@pytest.mark.parametrize("error", [DeploymentNotFound("no deployment"), KeyError("bug")])
@pytest.mark.parametrize("is_storage_away", [False, True])
def test_what_kept_a_job_from_being_made_is_what_its_client_learns(
    make_manager: Callable[..., PrefectManager],
    gateway: InMemoryGateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    is_storage_away: bool,
) -> None:
    manager = make_manager(
        {"selecting": SELECTING}, inline_request_max_bytes=200, result_storage=str(tmp_path)
    )

    def submit(**_: Any) -> Any:
        raise error

    def delete(*_: Any) -> None:
        raise StorageError("the storage is away")

    monkeypatch.setattr(gateway, "submit", submit)
    if is_storage_away:
        monkeypatch.setattr(FsspecStorage, "delete", delete)

    with pytest.raises(type(error)):
        submitted(manager, inputs={"anything": "☃" * 100})

    assert bool(list(tmp_path.iterdir())) is is_storage_away


def storage_of(manager: PrefectManager) -> FsspecStorage:
    storage = open_storage(manager.configuration.result_storage_address)
    assert isinstance(storage, FsspecStorage)
    return storage


@pytest.mark.parametrize(
    ("processor", "queue"),
    [
        ({"prefect": EXISTING["prefect"] | {"deployment": {"name": "a/b", "queue": "q"}}}, "q"),
        (EXISTING, None),
        # where `deploy` has put it into the deployment
        ({"name": SELECTING, "prefect": {"deployment": {"queue": "q"}}}, None),
    ],
)
def test_a_job_of_an_existing_deployment_goes_to_the_queue_that_is_configured(
    make_manager: Callable[..., PrefectManager],
    gateway: InMemoryGateway,
    processor: dict[str, Any],
    queue: str | None,
) -> None:
    job_id = submitted(make_manager({"p": processor}), "p")

    assert gateway.runs[job_id].work_queue_name == queue


# -- how many jobs run in the web process


class BlockedEngine:
    """Stands in for Prefect's engine, and ends no run before it is let go."""

    def __init__(self, gateway: InMemoryGateway) -> None:
        self._gateway = gateway
        self.let_go = threading.Event()

    def run_flow(self, _: Any, flow_run: Any, *__: Any, **___: Any) -> Any:
        self.let_go.wait(DEADLINE_SECONDS)
        state: State[Any] = Completed()
        self._gateway.set_state(flow_run.name.removeprefix("pygeoapi_job_"), state)
        return state


@pytest.fixture
def busy(
    make_manager: Callable[..., PrefectManager],
    gateway: InMemoryGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[PrefectManager]:
    """A manager whose web process runs as many jobs as it may."""
    engine = BlockedEngine(gateway)
    monkeypatch.setattr("prefect.flow_engine.run_flow", engine.run_flow)
    made = make_manager(
        {
            "selecting": SELECTING,
            "sync-only": {"name": SELECTING, "job_control_options": ["sync-execute"]},
        },
        max_jobs_in_web_process=1,
        sync_job_execution_timeout_seconds=0.01,
    )
    job = made.execute("selecting", {}, None)
    assert (job.has_ended, job.deployment_id) == (False, None)
    yield made
    engine.let_go.set()
    assert gateway.wait(job, DEADLINE_SECONDS).has_ended


def test_one_more_synchronous_job_runs_in_the_work_pool(
    busy: PrefectManager, gateway: InMemoryGateway
) -> None:
    gateway.worker = functools.partial(run_job, busy)

    job = busy.execute("selecting", {}, None)

    assert (job.status, job.deployment_id is None) == ("successful", False)


def test_one_more_synchronous_job_that_can_run_nowhere_else_is_refused(
    busy: PrefectManager,
    gateway: InMemoryGateway,
    client_of: Callable[[PrefectManager], FlaskClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway, "_deployments", {})

    for process_id in ("sync-only", "selecting"):  # which nobody has deployed
        answer = client_of(busy).post(f"/processes/{process_id}/execution", json={"inputs": {}})
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "as many jobs as it may" in answer.get_json()["detail"]
    assert len(gateway.runs) == 1


@pytest.mark.parametrize(("process_id", "is_deployed"), [("selecting", True), ("sync-only", False)])
def test_who_does_not_wait_needs_no_place_in_the_web_process(
    make_manager: Callable[..., PrefectManager],
    gateway: InMemoryGateway,
    monkeypatch: pytest.MonkeyPatch,
    process_id: str,
    is_deployed: bool,
) -> None:
    engine = BlockedEngine(gateway)
    monkeypatch.setattr("prefect.flow_engine.run_flow", engine.run_flow)
    manager = make_manager(
        {
            "selecting": SELECTING,
            "sync-only": {"name": SELECTING, "job_control_options": ["sync-execute"]},
        }
    )

    job = manager.execute(process_id, {}, None, wait_seconds=0)

    assert not job.has_ended
    assert (job.deployment_id is not None) is is_deployed
    engine.let_go.set()


def test_a_missing_deployment_is_an_error_that_says_who_creates_it(
    make_manager: Callable[..., PrefectManager],
) -> None:
    manager = make_manager({"selecting": SELECTING})
    manager.gateway = InMemoryGateway(deployments={})

    with pytest.raises(DeploymentNotFound, match="Selecting/selecting"):
        submitted(manager)


def test_an_existing_deployment_gets_the_inputs_themselves(
    make_manager: Callable[..., PrefectManager], gateway: InMemoryGateway
) -> None:
    manager = make_manager({"slope": EXISTING})

    job_id = submitted(manager, "slope", inputs={"a": {"b": [1]}})

    assert gateway.runs[job_id].parameters == {
        "processor_id": "slope",
        "pygeoapi_job_id": job_id,
        "inputs": {"a": {"b": [1]}},
        "outputs": None,
        "a": {"b": [1]},
    }
    assert json.loads(manager.get_job(job_id)["parameters"]) == {"a": {"b": [1]}}


def test_a_subscriber_travels_with_the_request(
    make_manager: Callable[..., PrefectManager], gateway: InMemoryGateway
) -> None:
    manager = make_manager({"selecting": SELECTING}, references={"allow_hosts": ["127.0.0.1"]})
    job_id = submitted(
        manager, subscriber=Subscriber("http://127.0.0.1/done", None, "http://127.0.0.1/no")
    )

    request = json.loads(gateway.runs[job_id].parameters["execution_request"])
    assert request["subscriber"] == {
        "successUri": "http://127.0.0.1/done",
        "inProgressUri": None,
        "failedUri": "http://127.0.0.1/no",
    }


def test_a_reference_that_nobody_could_follow_is_refused_before_there_is_a_job(
    make_manager: Callable[..., PrefectManager], gateway: InMemoryGateway
) -> None:
    Selecting.METADATA["outputTransmission"] = ["value", "reference"]
    try:
        manager = make_manager({"selecting": SELECTING})
    finally:
        del Selecting.METADATA["outputTransmission"]
    wanted = {"map": {"transmissionMode": "reference"}}

    with pytest.raises(InvalidRequest, match="by value only"):
        submitted(manager, requested_outputs=wanted)
    assert gateway.runs == {}

    manager.output_url = lambda job_id, output_id: f"https://example.org/{job_id}/{output_id}"
    job_id = finished(manager, requested_outputs=wanted)
    media_type, body = manager.get_job_result(job_id)
    assert media_type == VERBATIM
    assert json.loads(body)["href"] == f"https://example.org/{job_id}/map"


# -- results


def test_a_result_is_available_when_the_job_has_ended_well(manager: PrefectManager) -> None:
    job_id = submitted(manager, requested_outputs=["text"])

    with pytest.raises(ResultNotReady, match="accepted"):
        manager.get_job_result(job_id)

    run_job(manager, manager.gateway.find(job_id))
    assert manager.get_job_result(job_id) == ("text/plain", "5 < 6 ☃".encode())


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (Running(), "it has no results yet"),
        (Failed(message="Flow run encountered an exception: ValueError: no shore"), "no shore"),
        (Cancelled(), "dismissed"),
        (Cancelling(), "dismissed"),
        # the flow ended, but its files were removed
        (Completed(), "not in the result storage"),
    ],
)
def test_a_job_without_a_result_says_why(
    manager: PrefectManager, gateway: InMemoryGateway, state: Any, reason: str
) -> None:
    job_id = submitted(manager)
    gateway.set_state(job_id, state)

    with pytest.raises(ResultUnavailable, match=reason):
        manager.get_job_result(job_id)


def test_a_document_has_every_output_under_its_id(manager: PrefectManager) -> None:
    job_id = finished(manager, requested_response="document")

    media_type, body = manager.get_job_result(job_id)

    document = json.loads(body)
    assert media_type == VERBATIM
    assert document.keys() == Selecting.VALUES.keys()
    assert document["text"] == Selecting.VALUES["text"]
    assert document["count"] == 7
    assert document["zones"]["value"] == Selecting.VALUES["zones"]


def test_one_output_can_be_read_whatever_was_asked_for(manager: PrefectManager) -> None:
    job_id = finished(manager, requested_outputs=["text"])
    job = manager.gateway.find(job_id)

    output = manager.output(job, "map")

    assert (output.media_type, output.read()) == ("image/png", Selecting.VALUES["map"])
    with pytest.raises(ResultMissing, match="has no output 'colour'"):
        manager.output(job, "colour")


def test_an_output_that_was_asked_for_and_not_produced_fails_the_job(
    make_manager: Callable[..., PrefectManager],
) -> None:
    manager = make_manager({"forgetful": FORGETFUL}, **DEPLOYED)
    job_id = finished(manager, process_id="forgetful", requested_outputs={"text": {}, "count": {}})

    status = manager.get_job(job_id)
    assert status["status"] == "failed"
    reason = "the process made no output 'count', which was asked for"
    assert reason in status["message"]
    with pytest.raises(JobFailed, match=reason):
        manager.get_job_result(job_id)
    # who names none gets what there is, in the form for several
    job_id = finished(manager, process_id="forgetful")
    assert manager.get_job(job_id)["status"] == "successful"
    assert manager.get_job_result(job_id)[0].startswith("multipart/related")


def test_a_media_type_that_was_asked_for_and_not_made_fails_the_job(
    make_manager: Callable[..., PrefectManager],
) -> None:
    manager = make_manager({"forgetful": FORGETFUL}, **DEPLOYED)
    wanted = {"text": {"format": {"mediaType": "text/html"}}}

    job_id = finished(manager, process_id="forgetful", requested_outputs=wanted)

    message = manager.get_job(job_id)["message"]
    assert "output 'text' is text/plain; text/html was asked for" in message


def test_a_flow_of_others_that_made_not_what_was_asked_for_has_no_results(
    make_manager: Callable[..., PrefectManager], gateway: InMemoryGateway, tmp_path: Path
) -> None:
    deployment = {"name": "slope-flow/main", "result_storage_key_template": "{flow_run.id}.json"}
    outputs = {"text": {"schema": {"type": "string"}}, "count": {"schema": {}}}
    processor = {
        "prefect": {
            "result_storage": str(tmp_path),
            "deployment": deployment,
            "metadata": {"version": "1", "inputs": {}, "outputs": outputs},
        }
    }
    manager = make_manager({"slope": processor}, sync_job_execution_timeout_seconds=0.01)
    job_id = submitted(manager, "slope", requested_outputs=["text", "count"])
    job = gateway.set_state(job_id, Completed())
    FsspecStorage(str(tmp_path)).write(f"{job.flow_run_id}.json", b'{"text": "x"}')

    for use in (manager.result, manager.outputs, manager._results_document):
        with pytest.raises(
            OutputsNotProduced, match=r"made no output 'count', which was asked for; .* 'text'"
        ):
            use(job)
    assert manager.output(job, "text").read() == b"x"


def test_a_link_to_what_does_not_fit_refuses_the_job(
    make_manager: Callable[..., PrefectManager],
) -> None:
    with serving_files() as server:
        server.files["/text"] = (b"{}", "application/json")
        manager = make_manager(
            {"hello": "HelloWorld"},
            references={"allow_hosts": list(server.policy.allow_hosts)},
            **DEPLOYED,
        )
        inputs = {"name": "Ada", "message": {"href": server.url("/nothing")}}
        job_id = finished(manager, process_id="hello", inputs=inputs)
        with pytest.raises(JobRefused, match=r"input 'message': .* status 404") as refusal:
            manager.get_job_result(job_id)
        assert refusal.value.http_status_code == 400

        server.files["/nothing"] = (b"How are you?", "text/plain")
        inputs["name"] = {"value": "Ada"}
        job_id = finished(manager, process_id="hello", inputs=inputs)
        assert b"Hello Ada! How are you?" in manager.get_job_result(job_id)[1]


def test_a_process_that_offers_references_alone_gives_them(
    make_manager: Callable[..., PrefectManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Selecting.METADATA, "outputTransmission", ["reference"])
    manager = make_manager({"selecting": SELECTING}, **DEPLOYED)
    manager.output_url = "https://example.org/{}/{}".format

    for outputs in (None, ["map", "count"]):
        job_id = finished(manager, requested_outputs=outputs)

        media_type, body = manager.get_job_result(job_id)
        assert media_type == VERBATIM
        links = json.loads(body)
        assert links.keys() == set(outputs or Selecting.VALUES)
        assert links["map"]["href"] == f"https://example.org/{job_id}/map"


def test_a_result_outlives_its_process_in_the_configuration(manager: PrefectManager) -> None:
    job_id = finished(manager, requested_outputs=["count"])
    del manager.processes["selecting"]

    assert manager.get_job_result(job_id) == (VERBATIM, b"7")
    assert manager.get_job(job_id)["process_id"] == "selecting"
    assert manager.get_jobs()["numberMatched"] == 1


# -- the list of jobs


@pytest.mark.parametrize(
    ("limit", "offset", "positions"),
    [
        (None, None, range(5)),
        (2, None, range(2)),
        (2, 2, range(2, 4)),
        (2, 4, range(4, 5)),
        (2, 5, range(0)),
        (10_000, 0, range(5)),
        (0, 0, range(0)),
    ],
)
def test_a_page_has_the_newest_jobs_first(
    manager: PrefectManager, limit: int | None, offset: int | None, positions: range
) -> None:
    newest_first = [submitted(manager) for _ in range(5)][::-1]

    page = manager.get_jobs(limit=limit, offset=offset)

    assert [job["identifier"] for job in page["jobs"]] == [
        newest_first[position] for position in positions
    ]
    assert page["numberMatched"] == 5


STATES: dict[str, Any] = {
    "accepted": None,
    "running": Running(),
    "successful": Completed(),
    "failed": Failed(message="no shore"),
    "dismissed": Cancelled(),
}


@pytest.fixture
def one_of_each(manager: PrefectManager, gateway: InMemoryGateway) -> dict[str, str]:
    """A job of each status, by status, oldest first."""
    jobs = {status: submitted(manager) for status in STATES}
    for status, state in STATES.items():
        if state is not None:
            gateway.set_state(jobs[status], state)
    return jobs


@pytest.mark.parametrize("status", STATES)
def test_the_list_can_be_limited_to_a_status(
    manager: PrefectManager, one_of_each: dict[str, str], status: str
) -> None:
    for wanted in (status, [status], JobStatus[status], [JobStatus[status]]):
        page = manager.get_jobs(status=wanted)

        assert [job["identifier"] for job in page["jobs"]] == [one_of_each[status]]
        assert page["numberMatched"] == 1


def test_a_job_of_each_status_is_listed_over_http(
    manager: PrefectManager,
    one_of_each: dict[str, str],
    client_of: Callable[[PrefectManager], FlaskClient],
) -> None:
    answer = client_of(manager).get("/jobs", headers=JSON_ACCEPTED)

    assert answer.status_code == 200
    listed = answer.get_json()["jobs"]
    assert [job["status"] for job in listed] == [*reversed(STATES)]
    assert [job["jobID"] for job in listed] == [*reversed(one_of_each.values())]


@pytest.mark.parametrize("status", STATES)
def test_nothing_that_pygeoapi_sorts_by_or_parses_is_null(
    manager: PrefectManager, one_of_each: dict[str, str], status: str
) -> None:
    job = manager.get_job(one_of_each[status])

    assert {name for name, value in job.items() if value is None} <= {"finished"}
    assert job["status"] == status
    assert 0 <= job["progress"] <= 100
    assert (job["finished"] is None) is (status in ("accepted", "running"))
    for name in ("created", "started", "updated"):
        assert job[name].endswith("Z")


def test_two_processes_with_one_flow_keep_their_ids(manager: PrefectManager) -> None:
    one, two = submitted(manager, "one"), submitted(manager, "two")

    assert manager.get_job(one)["process_id"] == "one"
    assert manager.get_job(two)["process_id"] == "two"
    assert [job["process_id"] for job in manager.get_jobs()["jobs"]] == ["two", "one"]


# -- dismissing


@pytest.mark.parametrize(
    ("state", "becomes"),
    [
        (None, StateType.CANCELLED),
        (Running(), StateType.CANCELLING),
        # somebody has dismissed it already
        (Cancelling(), StateType.CANCELLING),
    ],
)
def test_a_job_that_goes_on_is_dismissed_and_stays_in_the_list(
    manager: PrefectManager, gateway: InMemoryGateway, state: Any, becomes: StateType
) -> None:
    job_id = submitted(manager)
    if state is not None:
        gateway.set_state(job_id, state)

    assert manager.delete_job(job_id)

    assert gateway.runs[job_id].state_type is becomes
    assert manager.get_job(job_id)["status"] == "dismissed"


@pytest.mark.parametrize("state", [None, Failed(), Cancelled()])
def test_a_job_that_has_ended_is_removed_with_its_files(
    manager: PrefectManager, gateway: InMemoryGateway, state: Any
) -> None:
    other_id = finished(manager, requested_outputs=["count"])
    job_id = finished(manager)
    if state is not None:
        gateway.set_state(job_id, state)
    storage = storage_of(manager)
    assert storage.read(f"{job_id}/outputs.json")

    assert manager.delete_job(job_id)

    with pytest.raises(ResultMissing):
        storage.read(f"{job_id}/outputs.json")
    with pytest.raises(JobNotFound):
        manager.get_job(job_id)
    assert manager.get_job_result(other_id) == (VERBATIM, b"7")


def test_files_that_a_run_says_to_be_elsewhere_are_neither_read_nor_removed(
    make_manager: Callable[..., PrefectManager], gateway: InMemoryGateway, tmp_path: Path
) -> None:
    elsewhere = FsspecStorage(str(tmp_path))
    manager = make_manager({"selecting": SELECTING}, **DEPLOYED)
    job_id = finished(manager)
    elsewhere.write(f"{job_id}/outputs.json", b"{}")
    gateway.label(gateway.find(job_id), {RESULT_STORAGE_LABEL: str(tmp_path)})

    for use in (manager.get_job_result, manager.delete_job):
        with pytest.raises(StorageError, match="a storage that this server does not use") as error:
            use(job_id)
        assert str(tmp_path) not in error.value.detail

    assert elsewhere.read(f"{job_id}/outputs.json") == b"{}"
    assert job_id in gateway.runs


@pytest.mark.parametrize("by", ["former", "process"])
def test_files_are_where_the_configuration_names_a_storage(
    make_manager: Callable[..., PrefectManager], gateway: InMemoryGateway, tmp_path: Path, by: str
) -> None:
    processor = {"name": SELECTING, "prefect": {"result_storage": str(tmp_path)}}
    earlier = make_manager({"selecting": processor}, **DEPLOYED)
    job_id = finished(earlier, requested_outputs=["count"])
    assert (tmp_path / job_id).is_dir()

    if by == "process":
        # its own process is gone; another one has the storage
        later = make_manager({"another": processor}, **DEPLOYED)
    else:
        later = make_manager({}, former_result_storages=[str(tmp_path)], **DEPLOYED)

    assert later.get_job_result(job_id) == (VERBATIM, b"7")
    assert later.delete_job(job_id)
    assert not (tmp_path / job_id).exists()


def test_a_dismissed_job_can_then_be_removed(
    manager: PrefectManager, gateway: InMemoryGateway
) -> None:
    job_id = submitted(manager)

    manager.delete_job(job_id)
    manager.delete_job(job_id)

    assert gateway.runs == {}


@pytest.mark.parametrize(
    "use",
    [
        lambda manager, job_id: manager.get_job(job_id),
        lambda manager, job_id: manager.get_job_result(job_id),
        lambda manager, job_id: manager.delete_job(job_id),
    ],
)
@pytest.mark.parametrize("job_id", ["nobody", str(uuid.UUID(int=1)), "../x", "%"])
def test_an_unknown_job_is_not_found(
    manager: PrefectManager, use: Callable[[PrefectManager, str], Any], job_id: str
) -> None:
    submitted(manager)

    with pytest.raises(JobNotFound):
        use(manager, job_id)


# -- a Prefect server that is down


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/processes/selecting/execution"),
        ("GET", "/jobs"),
        ("GET", "/jobs/a"),
        ("GET", "/jobs/a/results"),
        ("GET", "/jobs/a/results/text"),
        ("DELETE", "/jobs/a"),
    ],
)
def test_while_the_prefect_server_is_down_the_answer_says_so(
    manager: PrefectManager,
    gateway: InMemoryGateway,
    client_of: Callable[[PrefectManager], FlaskClient],
    method: str,
    path: str,
) -> None:
    client = client_of(manager)
    gateway.unavailable = True

    answer = client.open(
        path,
        method=method,
        headers=JSON_ACCEPTED,
        json={"inputs": {}} if method == "POST" else None,
    )

    assert answer.status_code == 503
    assert "Prefect server cannot be reached" in answer.get_json()["description"]


def test_processes_are_described_while_the_prefect_server_is_down(
    manager: PrefectManager,
    gateway: InMemoryGateway,
    client_of: Callable[[PrefectManager], FlaskClient],
) -> None:
    gateway.unavailable = True

    answer = client_of(manager).get("/processes", headers=JSON_ACCEPTED)

    assert answer.status_code == 200
    assert len(answer.get_json()["processes"]) == 4


# -- many requests at once


def test_one_manager_serves_many_threads(working: PrefectManager, gateway: InMemoryGateway) -> None:
    def request(number: int) -> tuple[str, Any]:
        process_id = ("one", "two")[number % 2]
        job_id, _, body, status, _ = working.execute_process(process_id, {"a": number})
        assert status is JobStatus.successful
        assert working.get_job(job_id)["process_id"] == process_id
        return job_id, json.loads(body)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(request, range(60)))

    assert [body for _, body in answers] == list(range(60))
    assert len({job_id for job_id, _ in answers}) == 60
    assert working.get_jobs(limit=7)["numberMatched"] == 60
