"""From stored outputs to a response."""

import base64
import dataclasses
import email.policy
import json
import re
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any, cast

import pytest

from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.results import Content, Output, Response, links_document, shape
from pygeoapi_prefect.schemas import (
    ExecutionOutput,
    ProcessOutputTransmissionMode,
    ProcessResponseType,
)

RAW, DOCUMENT = ProcessResponseType.raw, ProcessResponseType.document
BY_VALUE = ExecutionOutput()
BY_REFERENCE = ExecutionOutput(transmission_mode=ProcessOutputTransmissionMode.REFERENCE)


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
        address=lambda: f"https://example.org/{output_id}",
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
    assert json.loads(links_document(response.links))["href"] == "https://example.org/a"


def test_several_raw_outputs_all_by_reference_are_links_and_no_body() -> None:
    response = raw(
        unreadable("map", "image/png"),
        unreadable("ü", "text/csv; header=absent"),
        **{"map": BY_REFERENCE, "ü": BY_REFERENCE},
    )

    assert (response.body, response.size) == (b"", 0)
    assert [link.title for link in response.links] == ["map", "ü"]
    document = json.loads(links_document(response.links))
    assert {name: link["type"] for name, link in document.items()} == {
        "map": "image/png",
        "ü": "text/csv; header=absent",
    }


def test_a_reference_without_an_address_is_refused() -> None:
    homeless = dataclasses.replace(unreadable("a", "image/png"), address=lambda: None)

    with pytest.raises(InvalidRequest, match="by value only"):
        raw(homeless, a=BY_REFERENCE)


def test_who_asks_for_several_outputs_gets_parts_however_few_there_are() -> None:
    response = raw(stored("text", "text/plain", b"x"), map=BY_VALUE)

    assert parts_of(response).keys() == {"text"}


AS_BASE64 = ExecutionOutput.model_validate({"format": {"encoding": "base64"}})


@pytest.mark.parametrize("length", range(9))
def test_a_value_wanted_in_base64_is_sent_so_as_a_whole_or_in_part(length: int) -> None:
    content = ANY_BYTES[:length]
    encoded = base64.b64encode(content)

    response = raw(stored("a", "image/png", content), a=AS_BASE64)

    assert (response.media_type, response.body, response.size) == (
        "image/png",
        encoded,
        len(encoded),
    )
    part = response.stored_content
    assert part is not None
    for start in range(len(encoded)):
        for stop in range(start, len(encoded) + 1):
            assert b"".join(part.chunks(start, stop)) == encoded[start:stop]


def test_base64_of_content_in_pieces_is_that_of_the_whole() -> None:
    encoded = base64.b64encode(ANY_BYTES)
    part = raw(stored("a", "image/png", ANY_BYTES), a=AS_BASE64).stored_content
    assert part is not None

    for start in (0, 1, 5, 21, 30):
        assert b"".join(part.chunks(start, 300)) == encoded[start:300]


def test_a_part_in_base64_says_so() -> None:
    response = raw(
        stored("a", "image/png", ANY_BYTES), stored("b", "text/plain", b"2"), a=AS_BASE64
    )

    part = parts_of(response)["a"]
    assert part["Content-Transfer-Encoding"] == "base64"
    assert part.get_payload(decode=True) == ANY_BYTES
    assert body_of(response, "b") == b"2"


@pytest.mark.parametrize(
    ("media_type", "content"), [("application/json", b"5"), ("text/plain", b"text")]
)
def test_a_document_qualifies_what_is_wanted_in_base64(media_type: str, content: bytes) -> None:
    assert document(stored("a", media_type, content), a=AS_BASE64) == {
        "a": {
            "value": base64.b64encode(content).decode(),
            "mediaType": media_type,
            "encoding": "base64",
        }
    }


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
    return json.loads(response.body, parse_constant=pytest.fail)


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


@pytest.mark.parametrize(
    "content",
    [
        b"{broken",
        b'{"x": NaN}',
        b"-Infinity",
        b"[1e999]",
        b'"\\ud800"',
        b"\xff",
        b"9" * 5000,
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=["broken", "nan", "infinity", "overflow", "surrogate", "bytes", "digits", "deep"],
)
def test_what_is_said_to_be_json_and_is_none_goes_as_bytes(content: bytes) -> None:
    assert document(stored("a", "application/json", content), stored("b", "text/plain", b"")) == {
        "a": {
            "value": base64.b64encode(content).decode(),
            "mediaType": "application/json",
            "encoding": "base64",
        },
        "b": "",
    }


@pytest.mark.parametrize("excess", [1, 2, 3])
def test_a_large_output_is_not_parsed_for_a_document(
    excess: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygeoapi_prefect.results.INLINE_VALUE_MAX_BYTES", 100)
    content = b'{"a": 1}'.ljust(100 + excess)

    found = document(stored("a", "application/json", content), stored("b", "text/plain", b"2"))

    assert found["a"].keys() == {"value", "mediaType", "encoding"}
    assert base64.b64decode(found["a"]["value"], validate=True) == content
    assert found["b"] == "2"


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
