"""The flow that is a job: what a process is handed, and what becomes of its answer."""

import asyncio
import base64
import json
import logging
import sys
import uuid
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.flows import Flow
from pygeoapi.process.base import BaseProcessor

from pygeoapi_prefect import flows
from pygeoapi_prefect.downloads import IN_MEMORY_MAX_BYTES, current_downloads
from pygeoapi_prefect.errors import (
    ConfigurationError,
    ExecutionError,
    InvalidRequest,
    RequestTooLarge,
    StorageError,
)
from pygeoapi_prefect.flows import (
    DEFINITION_VARIABLE,
    PARAMETERS_FOR_AUTHORS,
    ProcessDefinition,
    flow_name,
    in_default_language,
    job_flow,
    load_processor,
    read_request,
)
from pygeoapi_prefect.inputs import input_bytes, input_json
from pygeoapi_prefect.outputs import load_outputs
from pygeoapi_prefect.process.base import BasePrefectProcessor
from pygeoapi_prefect.references import ReferencePolicy, current_policy
from pygeoapi_prefect.schemas import (
    ExecuteRequest,
    ExecutionInputValueNoObject,
    JobStatus,
    JobStatusInfoInternal,
    ProcessDescription,
)
from pygeoapi_prefect.storage import FsspecStorage

from ..file_server import FileServer, serving_files

DESCRIPTION = ProcessDescription(version="1.0.0", title="A process")
STORAGE = f"memory://flows-{uuid.uuid4()}"
# what an author's function was called with last
calls: list[dict[str, Any]] = []


class _Process(BasePrefectProcessor):
    process_description = DESCRIPTION


@flow(name="all parameters", persist_result=True)
def all_parameters(
    job_id: str,
    result_storage_block: str,
    process_description: ProcessDescription,
    execution_request: ExecuteRequest,
    processor_id: str,
    pygeoapi_job_id: str,
    inputs: dict[str, Any],
    outputs: Any,
) -> int:
    calls.append(dict(locals()))
    return 1


@flow
def four_parameters(
    job_id: str,
    result_storage_block: str,
    process_description: ProcessDescription,
    execution_request: ExecuteRequest,
) -> None:
    calls.append(dict(locals()))


@flow
def other_managers_parameters(
    processor_id: str, pygeoapi_job_id: str, inputs: dict[str, Any], outputs: Any = None
) -> None:
    calls.append(dict(locals()))


@flow
def no_parameters() -> int:
    calls.append({})
    return 5


@flow
def parameters_of_its_own(inputs: dict[str, Any], zoom: int = 3, **rest: Any) -> None:
    calls.append(dict(locals()))


@flow
async def asynchronous(inputs: dict[str, Any]) -> Any:
    await asyncio.sleep(0)
    return inputs["a"]


@flow
def asking_for_more(job_id: str, bucket: str, region: str) -> None: ...


@flow
def reporting_failure(job_id: str) -> JobStatusInfoInternal:
    return JobStatusInfoInternal(job_id=job_id, status=JobStatus.failed, message="no zones")


class AllParameters(_Process):
    process_flow = all_parameters


class FourParameters(_Process):
    process_flow = four_parameters


class OtherManagersParameters(_Process):
    process_flow = other_managers_parameters


class NoParameters(_Process):
    process_flow = no_parameters


class ParametersOfItsOwn(_Process):
    process_flow = parameters_of_its_own


class Asynchronous(_Process):
    process_flow = asynchronous


class AskingForMore(_Process):
    process_flow = asking_for_more


class ReportingFailure(_Process):
    process_flow = reporting_failure


class WithAnotherId(_Process):
    process_flow = no_parameters
    process_description = ProcessDescription(id="another", version="1")


class WithoutFlow(_Process):
    pass


class WithoutDescription(BasePrefectProcessor):
    process_flow = no_parameters


class Ordinary(BaseProcessor):
    """An ordinary pygeoapi processor, which has seen neither this package nor Prefect."""

    METADATA: ClassVar[dict[str, Any]] = {
        "id": "ordinary",
        "version": "1.0.0",
        "title": {"fr": "Tampon", "en": "Buffer 50% / zones"},
        "description": "Says what it was given.",
        "inputs": {},
        "outputs": {"result": {"schema": {"type": "object"}}},
    }

    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, self.METADATA)
        self.definition = processor_def
        self.supports_outputs = bool(processor_def.get("with_outputs"))
        self.job_id: str | None = None

    def set_job_id(self, job_id: str) -> None:
        self.job_id = job_id

    def execute(self, data: dict[str, Any], *unnamed: Any, **arguments: Any) -> tuple[str, Any]:
        assert not unnamed
        calls.append(
            {
                "job_id": self.job_id,
                "data": data,
                "arguments": arguments,
                "allow_internal_requests": self.allow_internal_requests,
                "policy": current_policy.get(),
            }
        )
        return "application/json", {"a": 1}


SCHEMAS: dict[str, dict[str, Any]] = {
    "number": {"type": "integer"},
    "name": {"type": "string"},
    "raster": {"type": "string", "contentEncoding": "binary", "contentMediaType": "image/tiff"},
}


@flow
def reading(execution_request: ExecuteRequest, inputs: dict[str, Any]) -> None:
    calls.append(
        {
            "inputs": inputs,
            "number": input_json(execution_request.inputs["number"]),
            "raster": input_bytes(inputs["raster"]),
        }
    )


class Reading(BasePrefectProcessor):
    process_flow = reading
    process_description = ProcessDescription.model_validate(
        {"version": "1", "inputs": {name: {"schema": one} for name, one in SCHEMAS.items()}}
    )


class OrdinaryReading(Ordinary):
    METADATA: ClassVar[dict[str, Any]] = {
        **Ordinary.METADATA,
        "inputs": {name: {"schema": schema} for name, schema in SCHEMAS.items()},
    }


class Raising(BaseProcessor):
    def __init__(self, processor_def: dict[str, Any]) -> None:
        raise RuntimeError(f"no licence for {processor_def['name']}")


class WithoutMetadata(BaseProcessor):
    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, None)  # type: ignore[arg-type]


def definition_of(processor: type, **members: Any) -> ProcessDefinition:
    options = members.pop("options", {})
    return ProcessDefinition(
        process_id="p",
        processor={"name": f"{__name__}.{processor.__name__}", **options},
        result_storage=STORAGE,
        **members,
    )


def run(made: Flow[..., Any], job_id: str = "job", **request: Any) -> Any:
    """Call the flow's function, as its engine would."""
    returned = made.fn(job_id=job_id, execution_request=json.dumps(request))
    return asyncio.run(returned) if asyncio.iscoroutine(returned) else returned


@pytest.fixture(autouse=True)
def _fresh_start(monkeypatch: pytest.MonkeyPatch) -> None:
    calls.clear()
    # making the block is a matter of the Prefect server
    monkeypatch.setattr(flows, "block_for", lambda address: f"block-of/{address}")
    # load_processor() adds the working directory
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_a_flow_is_handed_all_that_it_declares() -> None:
    run(job_flow(definition_of(AllParameters)), inputs={"a": 1}, outputs=["result"])

    (call,) = calls
    assert call.keys() == set(PARAMETERS_FOR_AUTHORS)
    assert call["job_id"] == call["pygeoapi_job_id"] == "job"
    assert call["processor_id"] == "p"
    assert call["result_storage_block"] == f"block-of/{STORAGE}"
    assert call["process_description"].id == "p"
    assert call["inputs"] == {"a": 1}
    assert call["outputs"] == ["result"]


@pytest.mark.parametrize(
    ("processor", "names"),
    [
        (
            FourParameters,
            {"job_id", "result_storage_block", "process_description", "execution_request"},
        ),
        (OtherManagersParameters, {"processor_id", "pygeoapi_job_id", "inputs", "outputs"}),
        (NoParameters, set()),
    ],
)
def test_a_flow_is_handed_only_what_it_declares(processor: type, names: set[str]) -> None:
    run(job_flow(definition_of(processor)), inputs={"a": 1})

    assert calls[0].keys() == names


def test_a_parameter_of_the_authors_own_keeps_its_default() -> None:
    run(job_flow(definition_of(ParametersOfItsOwn)), inputs={"a": 1})

    assert calls == [{"inputs": {"a": 1}, "zoom": 3, "rest": {}}]


@pytest.mark.parametrize(
    "value",
    [
        {"$ref": {"block_document_id": str(uuid.UUID(int=1))}},
        {"$ref": "local-file-system/secret"},
        {"__prefect_kind": "workspace_variable", "variable_name": "secret"},
        {"__prefect_kind": "json", "value": "[1]"},
        {"__prefect_kind": "jinja", "template": "{{ secret }}"},
        "{{ prefect.variables.secret }}",
        "${HOME}",
        [{"a": {"$ref": "x"}}],
        "☃ <&>",
        None,
    ],
)
@pytest.mark.parametrize("processor", [AllParameters, Ordinary])
def test_inputs_arrive_verbatim(processor: type, value: Any) -> None:
    run(job_flow(definition_of(processor)), inputs={"a": value})

    (call,) = calls
    assert call["inputs" if processor is AllParameters else "data"] == {"a": value}
    if processor is AllParameters:
        found = call["execution_request"].inputs["a"]
        assert found.model_dump(mode="json", by_alias=True, exclude_none=True) == value


def test_an_asynchronous_flow_stays_one() -> None:
    made = job_flow(definition_of(Asynchronous))

    assert made.isasync
    assert run(made, "async-job", inputs={"a": [1]}) == [1]
    assert stored("async-job") == b"[1]"


def stored(job_id: str) -> bytes:
    storage = FsspecStorage(STORAGE)
    return storage.read(load_outputs(storage, job_id)["result"].key)


@pytest.mark.parametrize(("processor", "content"), [(NoParameters, b"5"), (Ordinary, b'{"a": 1}')])
def test_what_a_process_returns_is_stored(processor: type, content: bytes) -> None:
    job_id = str(uuid.uuid4())

    run(job_flow(definition_of(processor)), job_id)

    assert stored(job_id) == content


def test_a_flow_that_reports_a_failure_fails() -> None:
    with pytest.raises(ExecutionError, match="no zones"):
        run(job_flow(definition_of(ReportingFailure)))


def test_a_run_that_somebody_else_made_is_a_job_by_its_own_id() -> None:
    flow_run = FlowRun(flow_id=uuid.uuid4())

    with FlowRunContext.model_construct(flow_run=flow_run):
        job_flow(definition_of(AllParameters)).fn()

    assert calls[0]["job_id"] == str(flow_run.id)
    assert calls[0]["inputs"] == {}


def test_the_options_of_the_authors_flow_are_kept() -> None:
    def noticed(flow: Any, flow_run: Any, state: Any) -> None: ...

    author = all_parameters.with_options(
        name="mine",
        description="Mine.",
        retries=2,
        retry_delay_seconds=3,
        timeout_seconds=60,
        log_prints=True,
        on_completion=[noticed],
        on_failure=[noticed],
        on_cancellation=[noticed],
        on_crashed=[noticed],
        on_running=[noticed],
    )
    author.version = "7"
    AllParameters.process_flow = author
    try:
        made = job_flow(definition_of(AllParameters))
    finally:
        AllParameters.process_flow = all_parameters

    assert set(made.parameters.properties) == {"job_id", "execution_request"}
    for option in (
        "name",
        "version",
        "description",
        "retries",
        "retry_delay_seconds",
        "timeout_seconds",
        "log_prints",
        "persist_result",
        "result_storage",
        "result_serializer",
        "cache_result_in_memory",
        "task_runner",
        "on_completion_hooks",
        "on_failure_hooks",
        "on_cancellation_hooks",
        "on_crashed_hooks",
        "on_running_hooks",
    ):
        assert getattr(made, option) == getattr(author, option), option


@pytest.mark.parametrize(
    "template", ["buffer-{job_id}", "{processor_id} {inputs[a]}", "{execution_request.response}"]
)
def test_a_run_name_template_sees_the_parameters_of_the_author(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        AllParameters, "process_flow", all_parameters.with_options(flow_run_name=template)
    )
    made = job_flow(definition_of(AllParameters))
    parameters = {"job_id": "job", "execution_request": '{"inputs": {"a": 7}}'}

    assert callable(made.flow_run_name)
    with FlowRunContext.model_construct(
        flow_run=FlowRun(flow_id=uuid.uuid4()), parameters=parameters
    ):
        name = made.flow_run_name()

    assert name == template.format(
        job_id="job",
        processor_id="p",
        inputs={"a": 7},
        execution_request=ExecuteRequest(),
    )


def named(made: Flow[..., Any], parameters: dict[str, Any]) -> str:
    """The name that Prefect gives to a run of the flow."""
    flow_run = FlowRun(flow_id=uuid.uuid4(), name="pygeoapi_job_x")
    with FlowRunContext.model_construct(flow_run=flow_run, parameters=parameters):
        assert callable(made.flow_run_name)
        return made.flow_run_name()


def test_a_run_name_template_sees_defaults_of_the_author(monkeypatch: pytest.MonkeyPatch) -> None:
    author = parameters_of_its_own.with_options(flow_run_name="zones-{zoom}-{inputs[a]}")
    monkeypatch.setattr(ParametersOfItsOwn, "process_flow", author)

    made = job_flow(definition_of(ParametersOfItsOwn))

    assert named(made, {"job_id": "x", "execution_request": '{"inputs": {"a": 7}}'}) == "zones-3-7"


def _no_name() -> str:
    raise ZeroDivisionError


@pytest.mark.parametrize("wanted", ["{inputs[b]}", "{colour}", "{", "{inputs.a.b}", _no_name])
def test_a_run_that_cannot_be_named_keeps_its_name_and_goes_on(
    wanted: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    author = parameters_of_its_own.with_options(flow_run_name=wanted)
    monkeypatch.setattr(ParametersOfItsOwn, "process_flow", author)
    made = job_flow(definition_of(ParametersOfItsOwn))

    for request in ('{"inputs": {"a": 7}}', "no JSON"):
        with caplog.at_level(logging.WARNING, flows.__name__):
            name = named(made, {"job_id": "x", "execution_request": request})
        assert name == "pygeoapi_job_x"
        assert "pygeoapi_job_x keeps its name" in caplog.text


def test_an_ordinary_processor_is_executed_as_pygeoapi_does() -> None:
    run(job_flow(definition_of(Ordinary, allow_internal_requests=True)), inputs={"a": 1})

    (call,) = calls
    assert (call["job_id"], call["data"], call["arguments"]) == ("job", {"a": 1}, {})
    assert call["allow_internal_requests"]


@pytest.mark.parametrize("inputs", [None, {}])
def test_a_processor_without_inputs_gets_an_empty_mapping(inputs: Any) -> None:
    run(job_flow(definition_of(Ordinary)), inputs=inputs)

    assert calls[0]["data"] == {}


def test_a_processor_gets_outputs_only_if_it_supports_them() -> None:
    made = job_flow(definition_of(Ordinary, options={"with_outputs": True}))

    run(made, inputs={}, outputs={"result": {}})

    assert calls[0]["arguments"] == {"outputs": {"result": {}}}


def test_the_flow_of_an_ordinary_processor_has_its_title_version_and_description() -> None:
    made = job_flow(definition_of(Ordinary))

    assert (made.name, made.version) == ("Buffer 50 zones", "1.0.0")
    assert made.description == "Says what it was given."


def test_a_job_follows_references_by_the_policy_of_the_server() -> None:
    policy = ReferencePolicy(allow_hosts=("data.example.org",))

    run(job_flow(definition_of(Ordinary, references=policy)))

    assert calls[0]["policy"] == policy
    assert current_policy.get() != policy


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving_files() as running:
        yield running


@pytest.fixture
def links(server: FileServer) -> dict[str, Any]:
    """Links to what fits the inputs of `Reading`."""
    server.files["/number"] = (b"5", "application/json")
    server.files["/name"] = ("Zürich".encode(), "text/plain; charset=utf-8")
    server.files["/raster"] = (b"II*\x00" * IN_MEMORY_MAX_BYTES, "image/tiff")
    return {name: {"href": server.url(f"/{name}")} for name in SCHEMAS}


def test_links_are_followed_once_before_a_flow_that_gets_them_as_they_are(
    server: FileServer, links: dict[str, Any]
) -> None:
    run(job_flow(definition_of(Reading, references=server.policy)), inputs=links)

    (call,) = calls
    assert call["inputs"] == links
    assert call["number"] == 5
    assert call["raster"] == server.files["/raster"][0]
    assert sorted(server.requested) == ["/name", "/number", "/raster"]
    assert current_downloads.get() is None


def test_an_ordinary_processor_gets_what_links_and_qualified_values_stand_for(
    server: FileServer, links: dict[str, Any]
) -> None:
    made = job_flow(definition_of(OrdinaryReading, references=server.policy))

    run(made, inputs=links)
    run(made, inputs={"name": {"value": "Ada"}, "number": {"value": 5}})

    raster = base64.b64encode(server.files["/raster"][0]).decode()
    assert calls[0]["data"] == {"number": 5, "name": "Zürich", "raster": raster}
    assert calls[1]["data"] == {"name": "Ada", "number": 5}


@pytest.mark.parametrize("processor", [Reading, OrdinaryReading])
@pytest.mark.parametrize(
    ("input_id", "file", "reason"),
    [
        ("number", (b'"x"', "application/json"), '"x" is not of type integer'),
        ("raster", (b"<html>", "text/html"), 'media type "text/html" is not one of image/tiff'),
        ("name", None, "the server answered with status 404"),
    ],
)
def test_a_link_to_what_does_not_fit_fails_the_job_before_the_authors_code(
    server: FileServer,
    links: dict[str, Any],
    processor: type,
    input_id: str,
    file: tuple[bytes, str] | None,
    reason: str,
) -> None:
    server.files.pop(f"/{input_id}")
    if file is not None:
        server.files[f"/{input_id}"] = file

    with pytest.raises(InvalidRequest, match=f"^input '{input_id}': href to 127.0.0.1: {reason}"):
        run(job_flow(definition_of(processor, references=server.policy)), inputs=links)

    assert calls == []


def test_more_behind_a_link_than_the_operator_allows_fails_the_job(
    server: FileServer, links: dict[str, Any]
) -> None:
    policy = server.policy.model_copy(update={"max_bytes": 1000})

    with pytest.raises(RequestTooLarge, match=r"^input 'raster': .* more than 1000 bytes"):
        run(job_flow(definition_of(Reading, references=policy)), inputs=links)


def test_placeholders_get_the_values_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    monkeypatch.delenv("COLOUR", raising=False)
    options = {"token": "${TOKEN}", "url": "https://${TOKEN}@x", "colour": "${COLOUR:-red}"}

    processor = load_processor("p", definition_of(Ordinary, options=options).processor)

    assert isinstance(processor, Ordinary)
    assert {name: processor.definition[name] for name in options} == {
        "token": "secret",
        "url": "https://secret@x",
        "colour": "red",
    }


@pytest.mark.parametrize(
    "value",
    ["007", "1e3", "yes", "null", "2020-08-10", "a: b", "# x", " x ", "", "ü", 7, 1.5, None, [1]],
)
def test_other_values_of_the_configuration_stay_what_they_are(value: Any) -> None:
    processor = load_processor("p", definition_of(Ordinary, options={"value": value}).processor)

    assert isinstance(processor, Ordinary)
    assert processor.definition["value"] == value


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (AskingForMore, "asks for bucket, region"),
        (WithAnotherId, "its description has the id 'another'"),
        (WithoutFlow, "process_flow is no Prefect flow"),
        (WithoutDescription, "process_description is no ProcessDescription"),
        (Raising, "cannot load .*Raising: RuntimeError: no licence for"),
        (WithoutMetadata, "its processor has no metadata"),
        (ProcessDefinition, "cannot load"),
    ],
)
def test_a_processor_that_cannot_work_is_refused_when_it_is_loaded(
    processor: type, reason: str
) -> None:
    definition = definition_of(processor)
    if processor is ProcessDefinition:
        definition = definition.model_copy(update={"processor": {"name": "nowhere.Nothing"}})

    with pytest.raises(ConfigurationError, match=reason) as raised:
        job_flow(definition)

    assert str(raised.value).startswith("process p: ")


def test_a_request_is_read_from_where_the_run_says() -> None:
    storage = FsspecStorage(STORAGE)
    storage.write("job/request.json", b'{"inputs": {"a": 1}}')

    assert read_request('{"inputs": {}}', storage) == {"inputs": {}}
    assert read_request("stored:job/request.json", storage) == {"inputs": {"a": 1}}
    with pytest.raises(StorageError):
        read_request("stored:../secret.json", storage)


def test_the_entrypoint_makes_the_flow_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    definition = definition_of(NoParameters)
    monkeypatch.setenv(DEFINITION_VARIABLE, definition.model_dump_json(exclude_defaults=True))

    made = flows.process_flow

    assert isinstance(made, Flow)
    assert made.name == no_parameters.name


def test_the_entrypoint_without_a_process_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEFINITION_VARIABLE, raising=False)

    with pytest.raises(ConfigurationError, match="pygeoapi-prefect deploy"):
        _ = flows.process_flow


def test_the_module_has_no_other_names() -> None:
    assert not hasattr(flows, "process_flows")


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"title": "Hello"}, "Hello"),
        ({"title": {"fr": "Tampon", "en": "Buffer"}}, "Buffer"),
        ({"title": {"fr": "Tampon"}}, "Tampon"),
        ({"title": "<b>50%</b> & more / less"}, "b 50 b more less"),
        ({}, "p"),
    ],
)
def test_a_title_becomes_the_name_of_a_flow(metadata: dict[str, Any], name: str) -> None:
    assert flow_name("p", metadata) == name
    assert Flow(lambda: None, name=name).name == name


@pytest.mark.parametrize(
    ("text", "expected"), [(None, None), ("x", "x"), ({"de": "y", "en": "x"}, "x"), ({}, None)]
)
def test_a_text_may_be_given_by_language(text: Any, expected: str | None) -> None:
    assert in_default_language(text) == expected


def test_qualified_inputs_of_an_execute_request_are_models() -> None:
    run(job_flow(definition_of(FourParameters)), inputs={"a": "x"}, response="document")

    request = calls[0]["execution_request"]
    assert isinstance(request.inputs["a"], ExecutionInputValueNoObject)
    assert request.response.value == "document"
