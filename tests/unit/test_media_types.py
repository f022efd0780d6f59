"""Media types: their syntax, and what descriptions and content say with them."""

from typing import Any

import pytest

from pygeoapi_prefect.media_types import described_media_type, is_in, is_json, is_media_type


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
        ({"schema": {"type": "string", "contentMediaType": "a\r\nb/c"}}, "text/plain"),
        ({"schema": {}}, "application/json"),
        ({}, "application/json"),
    ],
)
def test_a_description_says_what_media_type_an_output_has(
    output_description: dict[str, Any], media_type: str
) -> None:
    assert described_media_type(output_description) == media_type


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/geo+json", True),
        ("text/json", True),
        ("text/json-like", False),
        ("text/plain", False),
    ],
)
def test_json_is_told_by_media_type(media_type: str, expected: bool) -> None:
    assert is_json(media_type) is expected


@pytest.mark.parametrize(
    "text",
    [
        "text/csv",
        "image/tiff; application=geotiff; profile=cloud-optimized",
        'application/gml+xml;version="3.2 \\" ;";charset=utf-8',
        "text/plain ; charset=utf-8;",
        "application/vnd.x+json",
        "image/*",
    ],
)
def test_a_media_type_may_have_parameters(text: str) -> None:
    assert is_media_type(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "png",
        "image/",
        "/png",
        "image/png/x",
        " image/png",
        "image/png\r\nX-Evil: 1",
        "image/png; a=b\r\nX-Evil: 1",
        'image/png; a="b\r\n"',
        'image/png; a="b',
        "image/png; a",
        "image/png, text/html",
        "image/pñg",
        "image/png; " * 20_000,
    ],
)
def test_what_may_not_stand_in_a_header_is_no_media_type(text: str) -> None:
    assert not is_media_type(text)


@pytest.mark.parametrize(
    ("media_type", "media_range", "expected"),
    [
        ("image/png", "Image/PNG; q=1", True),
        ("image/png; x=y", "image/*", True),
        ("image/png", "*/*", True),
        ("image/png", "image/tiff", False),
        ("image/*", "image/png", False),
    ],
)
def test_a_range_has_its_media_types(media_type: str, media_range: str, expected: bool) -> None:
    assert is_in(media_type, media_range) is expected
