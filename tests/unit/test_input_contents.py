"""What links and qualified values stand for, and whether it fits."""

import base64
import io
from typing import Any

import pytest

from pygeoapi_prefect.downloads import Download
from pygeoapi_prefect.errors import InvalidRequest, RequestTooLarge
from pygeoapi_prefect.input_contents import (
    bare_inputs,
    bare_inputs_without_links,
    check_link_addresses,
    check_references,
)
from pygeoapi_prefect.references import ReferencePolicy

LINK = {"href": "https://data.example.org/x"}
GEOJSON = "application/geo+json"
POINT = b'{"type": "Point", "coordinates": [7, 46]}'
TIFF = {"type": "string", "contentEncoding": "binary", "contentMediaType": "image/tiff"}
CSV = {"type": "string", "contentMediaType": "text/csv"}
GEOMETRY = {"$ref": "https://geojson.org/schema/Point.json"}
MIXED = {"oneOf": [CSV, {**GEOMETRY, "contentMediaType": GEOJSON}, TIFF]}
ANY_BYTES = b"\x89PNG\xff\x00"


def process(schema: Any, **occurrence: Any) -> dict[str, Any]:
    return {"id": "p", "inputs": {"x": {"schema": schema, **occurrence}}}


def download(content: bytes, media_type: str | None) -> Download:
    return Download(io.BytesIO(content), media_type)


def bare(schema: Any, value: Any, content: bytes = b"", media_type: str | None = None) -> Any:
    """The value that a processor gets; a link leads to content of a media type."""
    description, inputs = process(schema), {"x": value}

    def fetch(_: str) -> Download:
        return download(content, media_type)

    check_references(description, inputs, fetch)
    return bare_inputs(description, inputs, fetch)["x"]


@pytest.mark.parametrize(
    ("schema", "content", "media_type", "value"),
    [
        ({"type": "integer"}, b"5", "application/json", 5),
        ({"type": "integer"}, b"\xef\xbb\xbf5\n", None, 5),
        # servers do not know better
        ({"type": "integer"}, b"5", "application/octet-stream", 5),
        ({"type": "integer"}, b"5", "text/plain", 5),
        ({"type": "string"}, "Zürich\n".encode(), "text/plain", "Zürich\n"),
        ({"type": "string"}, b'"Ada"', "application/json", "Ada"),
        ({"type": "string"}, b'{"a": 1}', "application/json", '{"a": 1}'),
        ({"type": "string"}, b"5", None, "5"),
        (CSV, b"a,b", "text/csv", "a,b"),
        (CSV, b"a,b", "text/plain", "a,b"),
        (GEOMETRY, POINT, GEOJSON, {"type": "Point", "coordinates": [7, 46]}),
        (MIXED, POINT, "application/json", {"type": "Point", "coordinates": [7, 46]}),
        (MIXED, b"a,b", "text/csv", "a,b"),
        (MIXED, ANY_BYTES, "image/tiff", base64.b64encode(ANY_BYTES).decode()),
        (TIFF, ANY_BYTES, None, base64.b64encode(ANY_BYTES).decode()),
        # text that is base64 by chance
        ({"type": "string", "format": "byte"}, b"AAAA", "text/plain", "QUFBQQ=="),
        ({}, b"[1]", None, [1]),
        ({}, b"[1", None, "[1"),
        ({}, b"[1]", "text/plain", "[1]"),
        ({}, b"[1]", "image/png", "WzFd"),
        ({}, ANY_BYTES, None, base64.b64encode(ANY_BYTES).decode()),
        (None, b"[1]", "application/json", [1]),
        ({"type": "array", "items": {"type": "number"}}, b"[1, 2.5]", None, [1, 2.5]),
    ],
)
def test_a_link_stands_for_the_value_that_its_content_is(
    schema: Any, content: bytes, media_type: str | None, value: Any
) -> None:
    assert bare(schema, LINK, content, media_type) == value


@pytest.mark.parametrize(
    ("schema", "content", "media_type", "reason"),
    [
        ({"type": "integer"}, b'"x"', None, '"x" is not of type integer'),
        ({"type": "integer"}, b"x", "text/plain", "the content is not JSON"),
        ({"type": "number", "maximum": 3}, b"4", None, "4 is greater than the maximum of 3"),
        ({"type": "number"}, b"NaN", None, "the content is not JSON"),
        ({"type": "number"}, b"1e999", None, "which JSON has no number for"),
        ({"type": "array"}, b"[" * 100 + b"]" * 100, None, "nested more than 64 levels deep"),
        ({"type": "string", "enum": ["a"]}, b"b", "text/plain", '"b" is not one of "a"'),
        ({"type": "string"}, b"\xff", "text/plain", "the content is no text in UTF-8"),
        (GEOMETRY, b'{"type": "Point"}', GEOJSON, "coordinates: is missing"),
        (GEOMETRY, ANY_BYTES, None, "the content is not JSON"),
        (CSV, b"<html>", "text/html", 'media type "text/html" is not one of text/csv'),
        (TIFF, b"<html>", "text/html", 'media type "text/html" is not one of image/tiff'),
        (MIXED, b"5", "application/json", "5 is not an object"),
        ({"type": "object"}, ANY_BYTES, "image/png", "the content is not JSON"),
    ],
)
def test_what_a_link_leads_to_has_to_fit_like_a_value(
    schema: Any, content: bytes, media_type: str | None, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=r"^input 'x': href to data.example.org: ") as refusal:
        bare(schema, LINK, content, media_type)

    assert reason in refusal.value.detail


def test_the_client_says_what_the_server_leaves_open() -> None:
    as_csv = {**LINK, "type": "text/csv"}
    assert bare({}, as_csv, b"5", None) == "5"
    assert bare({}, as_csv, b"5", "text/plain") == "5"
    assert bare({}, as_csv, b"5", "application/json") == 5
    assert bare({}, {**LINK, "type": 5}, b"5", None) == 5


def test_binary_content_is_not_read_to_be_checked() -> None:
    class Unread(Download):
        def read(self) -> bytes:
            raise AssertionError("binary content was read")

    check_references(process(TIFF), {"x": LINK}, lambda _: Unread(io.BytesIO(), "image/tiff"))


def test_each_of_several_links_is_checked_and_every_problem_told() -> None:
    contents = {"https://a.org/": b"1", "https://b.org/": b"x", "https://c.org/": b"y"}
    inputs = {"x": [{"href": href} for href in contents]}
    description = process({"type": "integer"}, maxOccurs=9)

    def fetch(href: str) -> Download:
        return download(contents[href], None)

    with pytest.raises(InvalidRequest, match=r"href to b\.org: .*; input 'x': href to c\.org: "):
        check_references(description, inputs, fetch)
    contents.update({"https://b.org/": b"2", "https://c.org/": b"3"})
    check_references(description, inputs, fetch)
    assert bare_inputs(description, inputs, fetch) == {"x": [1, 2, 3]}


def test_each_link_to_an_address_that_nobody_may_reach_is_told_at_once() -> None:
    inputs = {"x": [{"href": "http://a.example/"}, {"href": "http://10.0.0.1/"}]}
    description = process({}, maxOccurs=9)

    with pytest.raises(InvalidRequest, match=r"^input 'x': href to 10\.0\.0\.1: refused"):
        check_link_addresses(description, inputs, ReferencePolicy())
    check_link_addresses(description, inputs, ReferencePolicy(allow_hosts=("10.0.0.1",)))


@pytest.mark.parametrize("error", [InvalidRequest, RequestTooLarge])
def test_a_link_that_cannot_be_followed_is_named_with_its_input(
    error: type[InvalidRequest | RequestTooLarge],
) -> None:
    def fetch(href: str) -> Download:
        raise error(f"href to {href}: no answer")

    with pytest.raises(error, match=r"^input 'x': href to https://data"):
        check_references(process({}), {"x": LINK}, fetch)


@pytest.mark.parametrize(
    ("schema", "given", "value"),
    [
        ({"type": "string"}, "Ada", "Ada"),
        ({"type": "string"}, {"value": "Ada"}, "Ada"),
        ({"type": "object"}, {"value": {"a": 1}}, {"a": 1}),
        ({"type": "object"}, {"value": '{"a": 1}', "mediaType": GEOJSON}, {"a": 1}),
        ({"type": "string"}, {"value": '{"a": 1}', "mediaType": GEOJSON}, '{"a": 1}'),
        ({"type": "object"}, {"value": "e30=", "mediaType": GEOJSON, "encoding": "base64"}, {}),
        (CSV, {"value": "YSxi", "mediaType": "text/csv", "encoding": "base64"}, "a,b"),
        (TIFF, {"value": "AAAA", "mediaType": "image/tiff", "encoding": "base64"}, "AAAA"),
        (
            {"type": "string", "contentMediaType": "text/csv", "contentEncoding": "base64"},
            {"value": "YSxi", "mediaType": "text/csv", "encoding": "base64"},
            "YSxi",
        ),
        ({}, {"bbox": [1, 2, 3, 4], "crs": "x"}, {"bbox": [1, 2, 3, 4], "crs": "x"}),
        ({}, {"value": 1, "more": 2}, {"value": 1, "more": 2}),
        ({}, [{"value": 1}], [{"value": 1}]),
    ],
)
def test_a_qualified_value_is_unwrapped(schema: Any, given: Any, value: Any) -> None:
    assert bare(schema, given) == value
    assert bare_inputs_without_links(process(schema), {"x": given}) == {"x": value}


def test_items_of_an_input_that_occurs_often_are_unwrapped_one_by_one() -> None:
    given = {"x": [{"value": "a"}, "b"]}

    made = bare_inputs_without_links(process({"type": "string"}, maxOccurs="unbounded"), given)

    assert made == {"x": ["a", "b"]}


@pytest.mark.parametrize("schema", [{}, {"type": "object"}])
def test_where_nobody_follows_links_an_object_may_be_one(schema: Any) -> None:
    assert bare_inputs_without_links(process(schema), {"x": LINK}) == {"x": LINK}


@pytest.mark.parametrize("schema", [{"type": "integer"}, {"type": "object", "required": ["a"]}])
def test_where_nobody_follows_links_a_value_may_be_none(schema: Any) -> None:
    with pytest.raises(InvalidRequest, match="input 'x': this process takes values"):
        bare_inputs_without_links(process(schema), {"x": LINK})


@pytest.mark.parametrize(
    "schema", [{"oneOf": 5}, {"allOf": {"a": 1}}, {"type": 5}, {"oneOf": ["x"]}, {"format": []}]
)
def test_a_broken_schema_does_not_make_its_process_unusable(schema: Any) -> None:
    assert bare(schema, LINK, b"5", "application/json") == 5
