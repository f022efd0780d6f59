"""Media types: their syntax, what they say of content, and which ones a schema states."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator

JSON_MEDIA_TYPE: Final = "application/json"
GEOJSON_MEDIA_TYPE: Final = "application/geo+json"
PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
TEXT_MEDIA_TYPE: Final = "text/plain"

# no sets: a broken schema may have anything in their place
_BINARY_FORMATS: Final = ("byte", "binary")
_BINARY_ENCODINGS: Final = ("base64", "binary")

_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[\t !#-\[\]-~]|\\[\t -~])*"'
_MEDIA_TYPE: Final = re.compile(
    rf"{_NAME}/{_NAME}(?:[ \t]*;[ \t]*(?:{_NAME}=(?:{_NAME}|{_QUOTED}))?)*"
)


def is_media_type(text: str) -> bool:
    """Tell whether a text is a media type, perhaps with parameters (RFC 9110, section 8.3.1)."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def _checked(text: str) -> str:
    if not is_media_type(text):
        raise ValueError(f"{text[:80]!r} is not a media type such as 'text/csv'")
    return text


MediaType = Annotated[str, AfterValidator(_checked)]
"""Text that is a media type, so that it may stand in a header."""


def essence(media_type: str) -> str:
    """Return a media type without its parameters, in lower case."""
    return media_type.partition(";")[0].strip().lower()


def is_json(media_type: str) -> bool:
    """Tell whether content of a media type is JSON."""
    bare = essence(media_type)
    return bare in (JSON_MEDIA_TYPE, "text/json") or bare.endswith("+json")


def is_xml(media_type: str) -> bool:
    """Tell whether content of a media type is XML."""
    bare = essence(media_type)
    return bare in ("application/xml", "text/xml") or bare.endswith("+xml")


def is_textual(media_type: str) -> bool:
    """Tell whether content of a media type is text."""
    return essence(media_type).startswith("text/") or is_json(media_type) or is_xml(media_type)


def is_in(media_type: str, media_range: str) -> bool:
    """Tell whether a media type is of a range such as ``image/*``, or the same as another."""
    bare = essence(media_type)
    return essence(media_range) in (bare, f"{bare.partition('/')[0]}/*", "*/*")


def is_binary(schema: Mapping[str, Any]) -> bool:
    """Tell whether a schema says that its text stands for bytes."""
    return (
        schema.get("format") in _BINARY_FORMATS
        or schema.get("contentEncoding") in _BINARY_ENCODINGS
    )


def stated_media_types(schema: Any) -> set[str]:
    """Collect the media types that a schema states, its alternatives included."""
    if not isinstance(schema, Mapping):
        return set()
    found = set()
    if (stated := _content_media_type(schema)) is not None:
        found.add(essence(stated))
    for keyword in ("oneOf", "anyOf", "allOf"):
        branches = schema.get(keyword)
        for branch in branches if isinstance(branches, list) else []:
            found |= stated_media_types(branch)
    return found


def described_media_type(output_description: Mapping[str, Any]) -> str:
    """Return the media type that a description states for an output, or the fitting default."""
    schema = output_description.get("schema")
    return media_type_of_schema(schema if isinstance(schema, Mapping) else {})


def media_type_of_schema(schema: Mapping[str, Any]) -> str:
    """Return the media type that a schema states for itself, or the fitting default."""
    if (stated := _content_media_type(schema)) is not None:
        return stated
    is_text = schema.get("type") == "string" and not schema.get("format")
    return TEXT_MEDIA_TYPE if is_text else JSON_MEDIA_TYPE


def _content_media_type(schema: Mapping[str, Any]) -> str | None:
    """Return what a schema states; what is no media type says nothing."""
    stated = schema.get("contentMediaType")
    return stated if isinstance(stated, str) and is_media_type(stated) else None
