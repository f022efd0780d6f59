"""From an execute request to a plan, and from stored outputs to a response."""

import base64
import dataclasses
import email.policy
import json
import math
import re
import uuid
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any, cast

import pytest

from pygeoapi_prefect.errors import InvalidRequest, StorageError
from pygeoapi_prefect.execution import (
    Content,
    Output,
    Plan,
    Response,
    announced_media_type,
    by_reference,
    choose_mode,
    described_media_type,
    inputs_in_parameters,
    is_json,
    parameters_of_existing_deployment,
    parse_request,
    plan,
    requested_outputs,
    shape,
)
from pygeoapi_prefect.schemas import (
    ExecutionOutput,
    ProcessExecutionMode,
    ProcessOutputTransmissionMode,
    ProcessResponseType,
    RequestedProcessExecutionMode,
)

SYNC, ASYNC = ProcessExecutionMode.sync_execute, ProcessExecutionMode.async_execute
WAIT, RESPOND_ASYNC = (
    RequestedProcessExecutionMode.wait,
    RequestedProcessExecutionMode.respond_async,
)
RAW, DOCUMENT = ProcessResponseType.raw, ProcessResponseType.document
BY_VALUE = ExecutionOutput()
BY_REFERENCE = ExecutionOutput(transmission_mode=ProcessOutputTransmissionMode.REFERENCE)

DESCRIPTION = {
    "id": "buffer",
    "version": "1.0.0",
    "jobControlOptions": ["sync-execute", "async-execute"],
    "outputTransmission": ["value", "reference"],
    "inputs": {"name": {"schema": {"type": "string"}}, "zone": {"schema": {}, "minOccurs": 0}},
    "outputs": {
        "table": {"schema": {"type": "string", "contentMediaType": "text/csv"}},
        "text": {"schema": {"type": "string"}},
        "count": {"schema": {"type": "integer"}},
    },
}


@pytest.mark.parametrize(
    ("offered", "requested", "mode"),
    [
        (["sync-execute", "async-execute"], None, SYNC),
        (["sync-execute", "async-execute"], WAIT, SYNC),
        (["sync-execute", "async-execute"], RESPOND_ASYNC, ASYNC),
        (["sync-execute"], None, SYNC),
        (["sync-execute"], RESPOND_ASYNC, SYNC),
        (["async-execute", "dismiss"], None, ASYNC),
        (["async-execute"], WAIT, ASYNC),
    ],
)
def test_the_mode_is_what_both_sides_can_have(
    offered: list[str],
    requested: RequestedProcessExecutionMode | None,
    mode: ProcessExecutionMode,
) -> None:
    assert choose_mode(offered, requested) is mode


@pytest.mark.parametrize("offered", [[], ["dismiss"]])
def test_a_process_without_a_mode_is_not_executed(offered: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="in any mode"):
        choose_mode(offered, None)


def planned(**request: Any) -> Plan:
    return plan("buffer", DESCRIPTION, {"inputs": {"name": "x"}, **request}, None)


def test_a_plan_carries_the_inputs_verbatim() -> None:
    zone = {"__prefect_kind": "json", "value": "{{ 1 }}", "$ref": "x", "ü": [1, None, 2.5]}

    made = planned(inputs={"name": "<&>", "zone": zone})

    assert made.request["inputs"] == {"name": "<&>", "zone": zone}
    assert parse_request(made.request_text) == made.request
    assert uuid.UUID(made.job_id)
    assert (made.process_id, made.mode) == ("buffer", SYNC)


def test_each_plan_is_another_job() -> None:
    assert planned().job_id != planned().job_id


@pytest.mark.parametrize("outputs", [None, {}, []])
def test_who_names_no_outputs_gets_all(outputs: Any) -> None:
    made = planned(outputs=outputs)

    assert set(made.outputs) == {"table", "text", "count"}
    assert made.result_media_type == "multipart/related"


def test_a_selection_of_outputs_is_kept() -> None:
    made = planned(outputs={"table": {"transmissionMode": "reference"}}, response="document")

    assert set(made.outputs) == {"table"}
    assert made.outputs["table"].transmission_mode is ProcessOutputTransmissionMode.REFERENCE
    assert made.response is DOCUMENT
    assert made.request["outputs"] == {"table": {"transmissionMode": "reference"}}
    assert made.request["response"] == "document"


@pytest.mark.parametrize(
    ("request_members", "reason"),
    [
        ({"inputs": {}}, "name"),
        ({"inputs": {"name": "x", "colour": 1}}, "colour"),
        ({"inputs": {"name": 5}}, "name"),
        ({"outputs": {"colour": {}}}, "colour"),
        ({"response": "bogus"}, "response: must be raw or document"),
        ({"response": ["raw"]}, "response: must be raw or document"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_the_reason(
    request_members: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        planned(**request_members)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_do_not_get_into_a_job(number: float) -> None:
    with pytest.raises(InvalidRequest, match="zone"):
        planned(inputs={"name": "x", "zone": {"a": [number]}})


@pytest.mark.parametrize("text", ["", "no json", "[1]", '"text"', "null"])
def test_a_damaged_request_is_a_storage_error(text: str) -> None:
    with pytest.raises(StorageError, match="the job's execute request is no JSON"):
        parse_request(text)


@pytest.mark.parametrize(
    ("request_members", "outputs"),
    [
        ({}, {"a": BY_VALUE, "b": BY_VALUE}),
        ({"outputs": None}, {"a": BY_VALUE, "b": BY_VALUE}),
        ({"outputs": {}}, {"a": BY_VALUE, "b": BY_VALUE}),
        ({"outputs": ["b"]}, {"b": BY_VALUE}),
        ({"outputs": {"b": None}}, {"b": BY_VALUE}),
        ({"outputs": {"b": {"transmissionMode": "reference"}}}, {"b": BY_REFERENCE}),
        ({"outputs": {"not-stored": {}, "a": {}}}, {"a": BY_VALUE}),
    ],
)
def test_the_outputs_of_a_job_are_those_asked_for_and_stored(
    request_members: dict[str, Any], outputs: dict[str, ExecutionOutput]
) -> None:
    assert requested_outputs(request_members, ["a", "b"]) == (outputs, RAW)


def test_an_existing_deployment_gets_inputs_as_parameters() -> None:
    made = planned(outputs={"text": {}})

    assert parameters_of_existing_deployment(made, DESCRIPTION) == {
        "processor_id": "buffer",
        "pygeoapi_job_id": made.job_id,
        "inputs": {"name": "x"},
        "outputs": {"text": {}},
        "name": "x",
    }


@pytest.mark.parametrize("given", [{}, {"inputs": {"a": 1}}, {"inputs": 1, "outputs": 2}])
def test_an_input_has_the_parameter_of_its_name(given: dict[str, Any]) -> None:
    description = {
        **DESCRIPTION,
        "inputs": {key: {"minOccurs": 0} for key in ("inputs", "outputs")},
    }
    made = plan("buffer", description, {"inputs": given}, None)

    parameters = parameters_of_existing_deployment(made, description)

    assert parameters == {
        "processor_id": "buffer",
        "pygeoapi_job_id": made.job_id,
        **given,
    }
    kept = parse_request(made.request_text_without_inputs)
    assert inputs_in_parameters(kept, {**parameters, "preset": "secret"}) == given


def test_a_parameter_gets_the_value_of_a_qualified_input() -> None:
    made = planned(inputs={"name": {"value": "x", "mediaType": "text/plain"}})

    assert parameters_of_existing_deployment(made, DESCRIPTION)["name"] == "x"


def test_inputs_are_found_where_the_flow_takes_them_together() -> None:
    made = planned()
    parameters = {"inputs": made.request["inputs"], "preset": 1}

    kept = parse_request(made.request_text_without_inputs)
    assert inputs_in_parameters(kept, parameters) == {"name": "x"}
    assert inputs_in_parameters({}, {}) == {}


@pytest.mark.parametrize(
    "value",
    [
        {"__prefect_kind": "workspace_variable", "variable_name": "x"},
        {"a": [{"b": {"__prefect_kind": "json"}}]},
        [[{"$ref": "block"}]],
    ],
)
def test_what_prefect_would_rewrite_is_refused_where_it_can_be_reached(value: Any) -> None:
    made = planned(inputs={"name": "x", "zone": value})

    with pytest.raises(InvalidRequest, match="__prefect_kind are not allowed here"):
        parameters_of_existing_deployment(made, DESCRIPTION)


@pytest.mark.parametrize(
    ("output_description", "media_type"),
    [
        ({"schema": {"type": "string"}}, "text/plain"),
        ({"schema": {"type": "string", "format": "date"}}, "application/json"),
        ({"schema": {"type": "string", "contentMediaType": "image/png"}}, "image/png"),
        (
            {"schema": {"type": "object", "contentMediaType": "application/geo+json"}},
            "application/geo+json",
        ),
        ({"schema": {"type": "number"}}, "application/json"),
        ({"schema": {}}, "application/json"),
        ({}, "application/json"),
    ],
)
def test_a_description_says_what_media_type_an_output_has(
    output_description: dict[str, Any], media_type: str
) -> None:
    assert described_media_type(output_description) == media_type


@pytest.mark.parametrize(
    ("outputs", "response", "media_type"),
    [
        (["table"], RAW, "text/csv"),
        (["table", "text"], RAW, "multipart/related"),
        (["table", "text"], DOCUMENT, "application/json"),
        (["unknown"], RAW, "application/json"),
        ([], RAW, "application/json"),
    ],
)
def test_the_media_type_of_the_result_is_announced(
    outputs: list[str], response: ProcessResponseType, media_type: str
) -> None:
    assert announced_media_type(DESCRIPTION, dict.fromkeys(outputs, BY_VALUE), response) == (
        media_type
    )


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/geo+json", True),
        ("text/json-like", False),
        ("text/plain", False),
    ],
)
def test_json_is_told_by_media_type(media_type: str, expected: bool) -> None:
    assert is_json(media_type) is expected


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Content that comes in pieces of a few bytes, whichever part is asked for."""

    whole: bytes

    @property
    def size(self) -> int:
        return len(self.whole)

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        for position in range(start, stop, 7):
            yield self.whole[position : min(position + 7, stop)]


@dataclasses.dataclass(frozen=True)
class Untouchable:
    """Content of an output that goes by reference: nobody has to read it."""

    size: int = 1

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        raise AssertionError(f"bytes {start} to {stop} of an output by reference were read")


def output_of(output_id: str, media_type: str, content: Content) -> Output:
    return Output(
        output_id=output_id,
        media_type=media_type,
        content=content,
        url=lambda: f"https://example.org/{output_id}",
    )


def stored(output_id: str, media_type: str, content: bytes) -> Output:
    return output_of(output_id, media_type, Pieces(content))


def unreadable(output_id: str, media_type: str) -> Output:
    return output_of(output_id, media_type, Untouchable())


def raw(*outputs: Output, **wishes: ExecutionOutput) -> Response:
    requested = {output.output_id: BY_VALUE for output in outputs} | wishes
    return shape(outputs, requested, RAW)


ANY_BYTES = bytes(range(256)) + b"\r\n--boundary--\r\n<&>\x00"


@pytest.mark.parametrize(
    ("media_type", "content", "sent_as"),
    [
        ("image/png", ANY_BYTES, "image/png"),
        ("text/plain", '5 < 6 & "quoted" ☃'.encode(), "text/plain"),
        ("text/plain", "in Latin 1: é".encode("latin-1"), "text/plain"),
        ("application/geo+json", b'{"a":"<b>"}', "application/geo+json"),
        # pygeoapi would rewrite the content of what it knows to be JSON
        ("application/json", b'{"a": "<b>",\n"c":1.50}', "application/json; charset=utf-8"),
        ("application/json", b'"text"', "application/json; charset=utf-8"),
        ("application/json", b"", "application/json; charset=utf-8"),
    ],
)
def test_one_raw_output_is_the_stored_bytes(media_type: str, content: bytes, sent_as: str) -> None:
    response = raw(stored("a", media_type, content))

    assert (response.media_type, response.body) == (sent_as, content)
    assert response.size == len(content)
    assert response.links == ()
    assert response.stored_content == Pieces(content)


def test_one_raw_output_by_reference_is_a_link_and_is_not_read() -> None:
    response = raw(unreadable("a", "image/png"), a=BY_REFERENCE)

    assert response.body == b""
    (link,) = response.links
    assert (link.href, link.type_, link.rel) == ("https://example.org/a", "image/png", "item")


def parts_of(response: Response) -> dict[str, EmailMessage]:
    """Parse a multipart body with the standard library's parser, by content id."""
    head = f"Content-Type: {response.media_type}\r\nMIME-Version: 1.0\r\n\r\n".encode()
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + response.body)
    assert message.is_multipart()
    assert not message.defects
    parts = cast(list[EmailMessage], message.get_payload())
    return {str(part["Content-ID"]).strip("<>"): part for part in parts}


def body_of(response: Response, output_id: str) -> bytes:
    """Cut out one part's bytes: what text-minded parsers do to line ends stays out of it."""
    found = re.search(r'boundary="(\w+)"', response.media_type)
    assert found
    boundary = found[1].encode()
    assert response.body.endswith(b"--" + boundary + b"--\r\n")
    for chunk in (b"\r\n" + response.body).split(b"\r\n--" + boundary)[1:-1]:
        head, _, content = chunk.partition(b"\r\n\r\n")
        if f"Content-ID: <{output_id}>".encode() in head:
            return content
    raise AssertionError(f"no part {output_id}")


def test_several_raw_outputs_are_parts_with_the_stored_bytes() -> None:
    text = "5 < 6\r\n☃\r\n".encode()

    response = raw(
        stored("map", "image/png", ANY_BYTES),
        stored("text", "text/plain", text),
        stored("empty", "text/csv", b""),
    )

    assert response.media_type.startswith("multipart/related; boundary=")
    assert {key: part.get_content_type() for key, part in parts_of(response).items()} == {
        "map": "image/png",
        "text": "text/plain",
        "empty": "text/csv",
    }
    assert body_of(response, "map") == ANY_BYTES
    assert body_of(response, "text") == text
    assert body_of(response, "empty") == b""


@pytest.mark.parametrize("output_id", ["a>\r\nX-Evil: 1", "ü b"])
def test_an_output_id_adds_no_header_to_its_part(output_id: str) -> None:
    response = raw(stored(output_id, "text/plain", b"1"), stored("b", "text/plain", b"2"))

    for part in parts_of(response).values():
        assert set(part.keys()) == {"Content-ID", "Content-Type"}


def test_content_that_looks_like_a_boundary_does_not_end_its_part() -> None:
    earlier = raw(stored("a", "text/plain", b"1"), stored("b", "text/plain", b"2"))

    response = raw(stored("a", "text/plain", earlier.body), stored("b", "text/plain", b"2"))

    assert body_of(response, "a") == earlier.body
    assert set(parts_of(response)) == {"a", "b"}


def test_an_output_by_reference_is_an_empty_part_with_its_address() -> None:
    response = raw(
        stored("text", "text/plain", b"x"), unreadable("map", "image/png"), map=BY_REFERENCE
    )

    parts = parts_of(response)
    assert parts["map"]["Content-Location"] == "https://example.org/map"
    assert body_of(response, "map") == b""
    assert body_of(response, "text") == b"x"
    assert parts["text"]["Content-Location"] is None


def document(*outputs: Output, **wishes: ExecutionOutput) -> Any:
    requested = {output.output_id: BY_VALUE for output in outputs} | wishes
    response = shape(outputs, requested, DOCUMENT)
    assert response.media_type == "application/json; charset=utf-8"
    assert response.size == len(response.body)
    return json.loads(response.body)


@pytest.mark.parametrize(
    ("media_type", "content", "value"),
    [
        ("text/plain", "5 < 6 ☃".encode(), "5 < 6 ☃"),
        ("text/csv", b"a;b", {"value": "a;b", "mediaType": "text/csv"}),
        ("application/json", b"1.5", 1.5),
        ("application/json", b'"<text>"', "<text>"),
        ("application/json", b"[1, {}]", [1, {}]),
        ("application/json", b"true", True),
        ("application/json", b"null", {"value": None, "mediaType": "application/json"}),
        ("application/json", b'{"a": 1}', {"value": {"a": 1}, "mediaType": "application/json"}),
        (
            "application/geo+json",
            b'{"type": "Feature"}',
            {"value": {"type": "Feature"}, "mediaType": "application/geo+json"},
        ),
        (
            "image/png",
            ANY_BYTES,
            {
                "value": base64.b64encode(ANY_BYTES).decode(),
                "mediaType": "image/png",
                "encoding": "base64",
            },
        ),
        (
            "text/plain",
            b"\xe9",
            {"value": "6Q==", "mediaType": "text/plain", "encoding": "base64"},
        ),
    ],
)
def test_a_document_holds_each_output_in_a_form_that_says_what_it_is(
    media_type: str, content: bytes, value: Any
) -> None:
    assert document(stored("a", media_type, content)) == {"a": value}


def test_what_is_said_to_be_json_and_is_none_goes_as_bytes() -> None:
    assert document(stored("a", "application/json", b"{broken")) == {
        "a": {"value": "e2Jyb2tlbg==", "mediaType": "application/json", "encoding": "base64"}
    }


@pytest.mark.parametrize("excess", [1, 2, 3])
def test_a_large_output_is_not_parsed_for_a_document(
    excess: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygeoapi_prefect.execution.INLINE_VALUE_MAX_BYTES", 100)
    content = b'{"a": 1}'.ljust(100 + excess)

    found = document(stored("a", "application/json", content), stored("b", "text/plain", b"2"))

    assert found["a"].keys() == {"value", "mediaType", "encoding"}
    assert base64.b64decode(found["a"]["value"], validate=True) == content
    assert found["b"] == "2"


@pytest.mark.parametrize(
    ("wish", "mode"),
    [
        ({}, ProcessOutputTransmissionMode.REFERENCE),
        ({"format": {"mediaType": "text/csv"}}, ProcessOutputTransmissionMode.REFERENCE),
        ({"transmissionMode": "value"}, ProcessOutputTransmissionMode.VALUE),
        ({"transmissionMode": "reference"}, ProcessOutputTransmissionMode.REFERENCE),
    ],
)
def test_outputs_go_by_reference_unless_they_are_wanted_by_value(
    wish: dict[str, Any], mode: ProcessOutputTransmissionMode
) -> None:
    changed = by_reference({"a": ExecutionOutput.model_validate(wish)})["a"]

    assert changed.transmission_mode is mode
    assert changed.format_ == ExecutionOutput.model_validate(wish).format_


def test_a_document_holds_values_and_links() -> None:
    found = document(
        stored("count", "application/json", b"3"), unreadable("map", "image/png"), map=BY_REFERENCE
    )

    assert found == {
        "count": 3,
        "map": {"href": "https://example.org/map", "rel": "item", "type": "image/png"},
    }


@pytest.mark.parametrize("response_type", ProcessResponseType)
def test_outputs_that_nobody_asked_for_are_left_out(response_type: ProcessResponseType) -> None:
    response = shape(
        [unreadable("map", "image/png"), stored("count", "application/json", b"3")],
        {"count": BY_VALUE},
        response_type,
    )

    assert json.loads(response.body) in (3, {"count": 3})


@pytest.mark.parametrize("response_type", ProcessResponseType)
def test_a_job_without_outputs_has_an_empty_document(response_type: ProcessResponseType) -> None:
    assert json.loads(shape([], {}, response_type).body) == {}
