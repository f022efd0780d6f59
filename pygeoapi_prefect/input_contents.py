"""What inputs stand for: links followed and checked, values taken out of their wrapping.

/req/core/process-execute-input-validation has what a link refers to checked like a value
that is given inline. So content becomes the inline value that it stands for, in one of
the forms that its schema admits, and that value is checked.
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

from pygeoapi_prefect import references
from pygeoapi_prefect.dialect import branches, located
from pygeoapi_prefect.downloads import Download
from pygeoapi_prefect.errors import Flaw, InvalidRequest, RequestTooLarge
from pygeoapi_prefect.formats import Problem
from pygeoapi_prefect.input_checks import DeclaredInput, narrowed
from pygeoapi_prefect.inputs import decoded_base64, format_of, parsed_json
from pygeoapi_prefect.media_types import (
    JSON_MEDIA_TYPE,
    TEXT_MEDIA_TYPE,
    is_binary,
    is_in,
    is_json,
    is_media_type,
    is_textual,
    is_xml,
    stated_media_types,
)
from pygeoapi_prefect.references import ReferencePolicy
from pygeoapi_prefect.request_problems import depth_of, flaw_of, media_type_problem, refuse_if_any
from pygeoapi_prefect.schemas import kind_of_input

Fetch = Callable[[str], Download]

_SAYS_NOTHING: Final = frozenset({"application/octet-stream", "binary/octet-stream"})
"""What servers send that do not know better."""
_MAX_PROBLEMS: Final = 5
_SOME_BASE64: Final = "AAAA"


class _Form(StrEnum):
    """What content becomes as an inline value."""

    JSON = "JSON"
    TEXT = "text"
    BINARY = "base64"


_ALL: Final = frozenset(_Form)


def check_references(
    description: Mapping[str, Any], inputs: Mapping[str, Any], fetch: Fetch
) -> None:
    """Refuse links in inputs that lead to what does not fit the process.

    Args:
        description: What pygeoapi processors have as ``metadata``.
        inputs: The inputs of a job, as the client sent them.
        fetch: Follows a link.

    Raises:
        InvalidRequest: Something does not fit, or a link cannot be followed.
        RequestTooLarge: There is more behind a link than is allowed.
    """
    refuse_if_any(_link_flaws(description, inputs, lambda one, link: _check_link(one, link, fetch)))


def check_link_addresses(
    description: Mapping[str, Any], inputs: Mapping[str, Any], policy: ReferencePolicy
) -> None:
    """Refuse links in inputs to addresses that will not be fetched from, as far as they tell.

    Nothing is asked: where a name leads is seen when the link is followed.

    Args:
        description: What pygeoapi processors have as ``metadata``.
        inputs: The inputs of an execute request, which fit the description.
        policy: In force where links are followed.

    Raises:
        InvalidRequest: There is such a link.
    """

    def check(_: DeclaredInput, link: Mapping[str, Any]) -> None:
        references.check_address(link["href"], policy, resolve=references.written_addresses)

    refuse_if_any(_link_flaws(description, inputs, check))


def bare_inputs(
    description: Mapping[str, Any], inputs: Mapping[str, Any], fetch: Fetch
) -> dict[str, Any]:
    """Return inputs for code that knows neither links nor qualified values.

    Text is text, JSON is parsed, and what is neither is base64 text.

    Args:
        description: What pygeoapi processors have as ``metadata``.
        inputs: The inputs of a job, as the client sent them; `check_references` has passed.
        fetch: Follows a link.

    Raises:
        InvalidRequest: Text in base64 is none.
    """

    def followed(one: DeclaredInput, link: Mapping[str, Any]) -> Any:
        return _meaning_of_link(one, link, fetch)

    return _unwrapped(description, inputs, followed)


def bare_inputs_without_links(
    description: Mapping[str, Any], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return inputs as `bare_inputs` does, where no link is followed.

    A link is passed on only where it fits as the object that it is.

    Raises:
        InvalidRequest: There is a link in the place of a value.
    """

    def passed_on(one: DeclaredInput, link: Mapping[str, Any]) -> Any:
        if any(True for _ in one.schema_problems(one.schema, link)):
            reason = "this process takes values, and follows no links"
            refuse_if_any([flaw_of("inputs", one.input_id, reason)])
        return link

    return _unwrapped(description, inputs, passed_on)


def _unwrapped(
    description: Mapping[str, Any],
    inputs: Mapping[str, Any],
    of_link: Callable[[DeclaredInput, Mapping[str, Any]], Any],
) -> dict[str, Any]:
    def unwrapped(one: DeclaredInput, value: Any) -> Any:
        match kind_of_input(value):
            case "link":
                return of_link(one, value)
            case "qualified":
                return _qualified_value(one, value)
        return value

    bare = {}
    for input_id, value in inputs.items():
        one = DeclaredInput(description, input_id)
        bare[input_id] = (
            [unwrapped(one, item) for item in value]
            if one.is_array_of_values(value)
            else unwrapped(one, value)
        )
    return bare


def _qualified_value(one: DeclaredInput, qualified: Mapping[str, Any]) -> Any:
    value = qualified["value"]
    media_type, encoding = format_of(qualified)
    if not isinstance(value, str) or media_type is None or not is_textual(media_type):
        return value
    schema = narrowed(one.schema, media_type)
    if encoding == "base64":
        if _forms(schema) == {_Form.BINARY}:
            return value
        content = decoded_base64(value)
        return parsed_json(content) if is_json(media_type) else _text(content)
    if is_json(media_type) and any(True for _ in one.schema_problems(schema, value)):
        return parsed_json(value.encode())
    return value


# Links


def _link_flaws(
    description: Mapping[str, Any],
    inputs: Mapping[str, Any],
    check: Callable[[DeclaredInput, Mapping[str, Any]], None],
) -> Iterator[Flaw]:
    for input_id, value in inputs.items():
        one = DeclaredInput(description, input_id)
        for item in value if one.is_array_of_values(value) else [value]:
            if kind_of_input(item) != "link":
                continue
            try:
                check(one, item)
            except RequestTooLarge as error:
                flaw = flaw_of("inputs", input_id, error.detail)
                raise RequestTooLarge(flaw.text) from error
            except InvalidRequest as error:
                yield flaw_of("inputs", input_id, error.detail)


def _check_link(one: DeclaredInput, link: Mapping[str, Any], fetch: Fetch) -> None:
    download = fetch(link["href"])
    media_type = _media_type_of(one, link, download)
    schema = one.schema if media_type is None else narrowed(one.schema, media_type)
    if _forms(schema) != {_Form.BINARY}:
        _fitting(one, schema, media_type, link, download)


def _meaning_of_link(one: DeclaredInput, link: Mapping[str, Any], fetch: Fetch) -> Any:
    download = fetch(link["href"])
    media_type = _media_type_of(one, link, download)
    schema = one.schema if media_type is None else narrowed(one.schema, media_type)
    form, value = _fitting(one, schema, media_type, link, download)
    return base64.b64encode(download.read()).decode() if form is _Form.BINARY else value


def _media_type_of(one: DeclaredInput, link: Mapping[str, Any], download: Download) -> str | None:
    """Return of what media type content is, as server, client and description say.

    Raises:
        InvalidRequest: It is none of those that the description states.
    """
    claimed = link.get("type")
    if not isinstance(claimed, str):
        claimed = None
    stated = sorted(stated_media_types(one.schema))
    said = download.media_type
    if said is None or said in _SAYS_NOTHING or not is_media_type(said):
        return claimed
    if stated and not any(_may_be(said, other) for other in stated):
        raise InvalidRequest(f"{_named(link)}: {media_type_problem(said, stated)}")
    for other in (claimed, *stated):
        if other is not None and _may_be(said, other):
            return said if is_in(said, other) else other
    return said


def _may_be(said: str, other: str) -> bool:
    """Tell whether a server that says one media type may mean another, more special one."""
    return (
        is_in(said, other)
        or (said == JSON_MEDIA_TYPE and is_json(other))
        or (said in ("application/xml", "text/xml") and is_xml(other))
        or (said == TEXT_MEDIA_TYPE and is_textual(other))
    )


def _fitting(
    one: DeclaredInput,
    schema: Any,
    media_type: str | None,
    link: Mapping[str, Any],
    download: Download,
) -> tuple[_Form, Any]:
    """Return the form, and but for base64 the value, in which content fits a schema.

    Raises:
        InvalidRequest: It fits in none.
    """
    admitted = _forms(schema)
    refusals = []
    for form in filter(admitted.__contains__, _order(media_type)):
        try:
            value = _read_as(form, download)
            problems = [*one.schema_problems(schema, value)]
        except InvalidRequest as error:
            problems = [Problem((), error.detail)]
        except ValueError as error:
            problems = [Problem((), str(error))]
        if not problems:
            return form, value
        refusals.append(problems)
    # the first form is what the content most likely is
    reasons = "; ".join(map(located, refusals[0][:_MAX_PROBLEMS]))
    raise InvalidRequest(f"{_named(link)}: {reasons}")


def _read_as(form: _Form, download: Download) -> Any:
    match form:
        case _Form.BINARY:
            return _SOME_BASE64  # which fits a schema, or does not, as any other does
        case _Form.TEXT:
            return _text(download.read())
    value = parsed_json(download.read())
    depth_of(value)
    return value


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest("the content is no text in UTF-8") from error


def _named(link: Mapping[str, Any]) -> str:
    return f"href to {references.parse_href(link['href']).host}"


def _order(media_type: str | None) -> tuple[_Form, ...]:
    if media_type is None or is_json(media_type):
        return _Form.JSON, _Form.TEXT, _Form.BINARY
    if is_textual(media_type):
        return _Form.TEXT, _Form.JSON, _Form.BINARY
    return _Form.BINARY, _Form.JSON, _Form.TEXT


def _forms(schema: Any) -> frozenset[_Form]:
    """Return the forms in which a schema admits values."""
    if not isinstance(schema, Mapping):
        return _ALL
    admitted = _own_forms(schema)
    for keyword in ("oneOf", "anyOf"):
        if alternatives := branches(schema, keyword):
            admitted &= frozenset[_Form]().union(*map(_forms, alternatives))
    for part in branches(schema, "allOf"):
        admitted &= _forms(part)
    return admitted or _ALL


def _own_forms(schema: Mapping[str, Any]) -> frozenset[_Form]:
    types = schema.get("type")
    if types is not None and "string" not in (types if isinstance(types, list) else [types]):
        return frozenset({_Form.JSON})
    if is_binary(schema):
        return frozenset({_Form.BINARY})
    stated = schema.get("contentMediaType")
    if isinstance(stated, str) and is_media_type(stated) and not is_textual(stated):
        return frozenset({_Form.BINARY})
    return _ALL if types is None else frozenset({_Form.TEXT, _Form.JSON})
