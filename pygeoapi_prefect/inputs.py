"""Readers for authors whose flows take an input in any of the forms that clients send."""

from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic_core import from_json, to_json

from pygeoapi_prefect import downloads, formats
from pygeoapi_prefect.dialect import shown
from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.media_types import is_json, is_textual
from pygeoapi_prefect.schemas import (
    ExecutionInputBBox,
    ExecutionQualifiedInputValue,
    Link,
    kind_of_input,
)

_TEXT_BEGINS = ("{", "[", "<")


def input_bytes(value: Any) -> bytes:
    """Return the content of one input as bytes, whichever way the client sent it.

    - A link: what it refers to. A job has fetched it already, and checked what it got;
      elsewhere it is fetched now, under `references.current_policy`.
    - Text that a format says is text (a media type ``text/...``, JSON or XML, and no
      base64 encoding), or that begins as JSON or XML do, and base64 never: the text as UTF-8.
    - Any other text: decoded from base64, as the standard wants binary inputs inline.
    - Objects, arrays, numbers, booleans and null: their JSON.

    Args:
        value: A value of ``ExecuteRequest.inputs``, an item of one, or parsed JSON.

    Raises:
        InvalidRequest: The text is not base64, or the link was refused or failed.
        RequestTooLarge: What the link refers to is over the limit.
    """
    value, encoding, media_type = _opened(value)
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        return to_json(value)
    is_said_to_be_text = media_type is not None and is_textual(media_type)
    if encoding != "base64" and (is_said_to_be_text or value.lstrip().startswith(_TEXT_BEGINS)):
        return value.encode()
    return decoded_base64(value)


def input_json(value: Any) -> Any:
    """Return the content of one input as parsed JSON, whichever way the client sent it.

    What a link refers to is parsed; see `input_bytes` for when it is fetched. Text that
    comes with a JSON media type or as base64 is parsed. Everything else is JSON already,
    and is returned as it is, also a string.

    Args:
        value: A value of ``ExecuteRequest.inputs``, an item of one, or parsed JSON.

    Raises:
        InvalidRequest: The content is not JSON, or not base64, or the link was refused
            or failed.
        RequestTooLarge: What the link refers to is over the limit.
    """
    value, encoding, media_type = _opened(value)
    if isinstance(value, str):
        if encoding == "base64":
            value = decoded_base64(value)
        elif media_type is not None and is_json(media_type):
            value = value.encode()
    return parsed_json(value) if isinstance(value, bytes) else value


def _opened(value: Any) -> tuple[Any, str | None, str | None]:
    """Return content (JSON, or bytes where it was fetched), encoding and media type."""
    value = _bare_value(value)
    media_type = encoding = None
    match kind_of_input(value):
        case "link":
            fetched = downloads.fetch(value.href if isinstance(value, Link) else value["href"])
            return fetched.content, None, fetched.media_type
        case "qualified" if isinstance(value, ExecutionQualifiedInputValue):
            media_type, encoding = value.media_type, value.encoding and value.encoding.lower()
            value = _bare_value(value.value)
        case "qualified":
            media_type, encoding = format_of(value)
            value = value["value"]
    return value, encoding, media_type


def _bare_value(value: Any) -> Any:
    while isinstance(value, pydantic.RootModel):
        value = value.root
    return value.model_dump() if isinstance(value, ExecutionInputBBox) else value


def decoded_base64(text: str) -> bytes:
    """Return what base64 stands for. Raises `InvalidRequest`."""
    try:
        return formats.from_base64(text)
    except ValueError as error:
        raise InvalidRequest(f"{shown(text)} is not base64: {error}") from error


def parsed_json(content: bytes) -> Any:
    """Parse JSON, a byte order mark left aside. Raises `InvalidRequest`."""
    try:
        return from_json(content.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the content is not JSON: {error}") from error


def format_of(qualified: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return media type and encoding of a qualified value.

    Drafts of the standard, and clients written for them, have both in a member `format`.
    """
    older = qualified.get("format")
    members = {**(older if isinstance(older, dict) else {}), **qualified}
    media_type, encoding = members.get("mediaType"), members.get("encoding")
    return (
        media_type if isinstance(media_type, str) else None,
        encoding.lower() if isinstance(encoding, str) else None,
    )
