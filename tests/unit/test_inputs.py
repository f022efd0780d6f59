"""The readers of inputs for authors."""

import base64
from typing import Any

import pytest

from pygeoapi_prefect import references
from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.inputs import input_bytes, input_json
from pygeoapi_prefect.references import Fetched
from pygeoapi_prefect.schemas import ExecuteRequest

CRS84 = "http://www.opengis.net/def/crs/OGC/1.3/CRS84"


def as_flows_see_it(value: Any) -> Any:
    return ExecuteRequest.model_validate({"inputs": {"x": value}}).inputs["x"]


JSON_TEXT = '{"a": [1, null]}'
JSON_BASE64 = base64.b64encode(JSON_TEXT.encode()).decode()

BYTES: list[tuple[Any, bytes]] = [
    ("AAEC", b"\x00\x01\x02"),
    ("AAE\nC", b"\x00\x01\x02"),
    ({"value": "AAEC"}, b"\x00\x01\x02"),
    ({"value": "AAEC", "encoding": "base64"}, b"\x00\x01\x02"),
    ({"value": "AAEC", "mediaType": "image/tiff"}, b"\x00\x01\x02"),
    ({"value": "YWJj", "mediaType": "text/plain", "encoding": "base64"}, b"abc"),
    ({"value": "äbc", "mediaType": "text/csv; charset=utf-8"}, "äbc".encode()),
    ({"value": "<a/>", "mediaType": "application/gml+xml"}, b"<a/>"),
    ({"value": JSON_TEXT, "mediaType": "application/json"}, JSON_TEXT.encode()),
    (JSON_TEXT, JSON_TEXT.encode()),
    (" <a/>", b" <a/>"),
    ({"a": [1, None]}, b'{"a":[1,null]}'),
    ({"value": {"a": [1, None]}}, b'{"a":[1,null]}'),
    ([1, None], b"[1,null]"),
    ({"value": [1, None]}, b"[1,null]"),
    (5, b"5"),
    (True, b"true"),
    (None, b"null"),
]


@pytest.mark.parametrize(("value", "expected"), BYTES)
def test_bytes_are_read_from_any_form_of_an_input(value: Any, expected: bytes) -> None:
    assert input_bytes(as_flows_see_it(value)) == expected
    assert input_bytes(value) == expected


JSON: list[tuple[Any, Any]] = [
    ({"a": [1, None]}, {"a": [1, None]}),
    ([1, {"a": None}], [1, {"a": None}]),
    (5, 5),
    (None, None),
    ("text", "text"),
    ({"value": {"a": [1, None]}}, {"a": [1, None]}),
    ({"value": {"a": [1, None]}, "mediaType": "application/json"}, {"a": [1, None]}),
    ({"value": JSON_TEXT, "mediaType": "application/geo+json"}, {"a": [1, None]}),
    ({"value": JSON_BASE64, "encoding": "base64"}, {"a": [1, None]}),
    ({"value": "text"}, "text"),
    ({"bbox": [1, 2, 3, 4], "crs": CRS84}, {"bbox": [1, 2, 3, 4], "crs": CRS84}),
    ({"value": {"bbox": [1, 2, 3, 4], "crs": CRS84}}, {"bbox": [1, 2, 3, 4], "crs": CRS84}),
]


@pytest.mark.parametrize(("value", "expected"), JSON)
def test_json_is_read_from_any_form_of_an_input(value: Any, expected: Any) -> None:
    assert input_json(as_flows_see_it(value)) == expected
    assert input_json(value) == expected


def test_a_link_is_read_by_fetching_it(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {
        "https://example.org/x": Fetched(b'\xef\xbb\xbf{"a": 1}', "application/json"),
        "https://example.org/y": Fetched(b"\x00\x01", "image/tiff"),
    }
    monkeypatch.setattr(references, "fetch", contents.__getitem__)
    for form in (dict, as_flows_see_it):
        assert input_json(form({"href": "https://example.org/x"})) == {"a": 1}
        assert input_bytes(form({"href": "https://example.org/y"})) == b"\x00\x01"
        with pytest.raises(InvalidRequest, match="the content is not JSON"):
            input_json(form({"href": "https://example.org/y"}))


def test_a_link_that_is_refused_is_an_error_of_the_request() -> None:
    with pytest.raises(InvalidRequest, match="not a public address"):
        input_bytes(as_flows_see_it({"href": "http://127.0.0.1/x"}))


@pytest.mark.parametrize(
    "value", ["not base64", {"value": "ä"}, {"value": "!", "encoding": "base64"}]
)
def test_text_that_is_not_base64_is_an_error_of_the_request(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="is not base64"):
        input_bytes(as_flows_see_it(value))


@pytest.mark.parametrize("text", ["{", "NaN", "[" * 100_000, ""])
def test_text_that_is_not_json_is_an_error_of_the_request(text: str) -> None:
    with pytest.raises(InvalidRequest, match="the content is not JSON"):
        input_json(as_flows_see_it({"value": text, "mediaType": "application/json"}))
