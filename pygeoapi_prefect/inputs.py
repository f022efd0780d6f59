"""Inputs and requested outputs of an execute request, held against the process description.

Checks before a job is accepted; nothing is fetched, changed or filled in. Two readers,
`input_bytes` and `input_json`, serve authors whose flows take an input in any of the
forms that clients may send it in.

Descriptions come from processors of any origin. Where one is sloppy, the check does
without it and says so once in the log: a process is never made unusable by its metadata.

Sources: OGC 18-062r2, requirements ``/req/core/process-execute-inputs`` to
``/req/core/process-execute-input-validation``; ``schema.yaml``.
"""

import difflib
import functools
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pydantic
from pydantic_core import from_json, to_json

from pygeoapi_prefect import dialect, formats, references
from pygeoapi_prefect.dialect import cut, located, shown
from pygeoapi_prefect.errors import Flaw, InvalidRequest
from pygeoapi_prefect.formats import Problem
from pygeoapi_prefect.schemas import (
    ExecutionInputBBox,
    ExecutionOutput,
    ExecutionQualifiedInputValue,
    Link,
    ProcessOutputTransmissionMode,
    kind_of_input,
)

logger = logging.getLogger(__name__)

MAX_PROBLEMS_SHOWN = 20
MAX_DEPTH = 64
_MAX_PROBLEMS_PER_INPUT = 100


def check_inputs(description: Mapping[str, Any], inputs: Any) -> None:
    """Refuse inputs that do not fit the process.

    Args:
        description: What pygeoapi processors have as ``metadata``; its ``inputs`` maps
            ids to ``schema``, ``minOccurs`` and ``maxOccurs``.
        inputs: The ``inputs`` member of the request body, whatever the client put there;
            None counts as no inputs.

    Raises:
        InvalidRequest: Something does not fit. The message is one line that names every
            problem by input id and reason.
    """
    _refuse_if_any(_input_problems(description, {} if inputs is None else inputs))


def check_outputs(description: Mapping[str, Any], outputs: Any) -> dict[str, ExecutionOutput]:
    """Refuse requested outputs that the process does not have or cannot give as asked.

    Args:
        description: What pygeoapi processors have as ``metadata``. Without an
            ``outputTransmission`` the process is taken to offer both modes.
        outputs: The ``outputs`` member of the request body: an object by output id, an
            array of output ids, or None. An empty one asks for all outputs, as version
            1.0 of the standard and its conformance suite have it.

    Returns:
        What to deliver, by output id: the outputs asked for, or all that are declared.
        Where the client names no transmission mode it is by value, unless the process
        offers outputs by reference only.

    Raises:
        InvalidRequest: Something does not fit. The message is one line that names every
            problem by output id and reason.
    """
    if isinstance(outputs, list):
        _refuse_if_any(
            _flaw_of_all("outputs", f"{shown(item)} is not an output id")
            for item in outputs
            if not isinstance(item, str)
        )
        outputs = dict.fromkeys(outputs)
    if outputs is None:
        outputs = {}
    if not isinstance(outputs, dict):
        raise InvalidRequest("outputs: must be an object by output id, or an array of output ids")
    declared = _declared(description, "outputs")
    if declared is None:
        declared = dict.fromkeys(outputs)
    requested = outputs or dict.fromkeys(declared)
    offered = _offered_modes(description)
    _refuse_if_any(_output_problems(declared, offered, requested))
    default = {"transmissionMode": offered[0]}
    return {
        output_id: ExecutionOutput.model_validate({**default, **_without_nulls(wanted or {})})
        for output_id, wanted in requested.items()
    }


def input_bytes(value: Any) -> bytes:
    """Return the content of one input as bytes, whichever way the client sent it.

    - A link: what it refers to, fetched under `references.current_policy`.
    - Text that a format says is text (a media type ``text/...``, JSON or XML, and no
      base64 encoding): the text as UTF-8.
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
    if encoding != "base64" and media_type is not None and _is_textual(media_type):
        return value.encode()
    return _from_base64(value)


def input_json(value: Any) -> Any:
    """Return the content of one input as parsed JSON, whichever way the client sent it.

    A link is fetched under `references.current_policy` and parsed. Text that comes with
    a JSON media type or as base64 is parsed. Everything else is JSON already, and is
    returned as it is, also a string.

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
            value = _from_base64(value)
        elif media_type is not None and _is_json(media_type):
            value = value.encode()
    return _parsed(value) if isinstance(value, bytes) else value


def _opened(value: Any) -> tuple[Any, str | None, str | None]:
    """Return content (JSON, or bytes where it was fetched), encoding and media type."""
    value = _bare_value(value)
    media_type = encoding = None
    match kind_of_input(value):
        case "link":
            fetched = references.fetch(value.href if isinstance(value, Link) else value["href"])
            return fetched.content, None, fetched.media_type
        case "qualified" if isinstance(value, ExecutionQualifiedInputValue):
            media_type, encoding = value.media_type, value.encoding and value.encoding.lower()
            value = _bare_value(value.value)
        case "qualified":
            media_type, encoding = _format_of(value)
            value = value["value"]
    return value, encoding, media_type


def _bare_value(value: Any) -> Any:
    while isinstance(value, pydantic.RootModel):
        value = value.root
    return value.model_dump() if isinstance(value, ExecutionInputBBox) else value


def _from_base64(text: str) -> bytes:
    try:
        return formats.from_base64(text)
    except ValueError as error:
        raise InvalidRequest(f"{shown(text)} is not base64: {error}") from error


def _parsed(content: bytes) -> Any:
    try:
        return from_json(content.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the content is not JSON: {error}") from error


# Messages


def _refuse_if_any(flaws: Iterable[Flaw]) -> None:
    found = list(dict.fromkeys(flaws))
    if found:
        shown_ones, more = found[:MAX_PROBLEMS_SHOWN], len(found) - MAX_PROBLEMS_SHOWN
        listed = "; ".join(flaw.text for flaw in shown_ones)
        raise InvalidRequest(f"{listed}; and {more} more" if more > 0 else listed, shown_ones)


def _flaw_of_all(part: str, reason: str) -> Flaw:
    return Flaw((part,), reason, f"{part}: {reason}")


def _flaw_of(part: str, name: str, reason: str) -> Flaw:
    return Flaw((part, name), reason, f"{part.removesuffix('s')} {_quoted(name)}: {reason}")


@functools.lru_cache(maxsize=1024)
def _warn_once(process_id: str, part: str, reason: str) -> None:
    logger.warning(
        "process %s: %s is not checked, since its description is broken: %s",
        process_id,
        part,
        reason,
    )


# The request


def _declared(description: Mapping[str, Any], part: str) -> Mapping[str, Any] | None:
    declared = description.get(part)
    if isinstance(declared, Mapping):
        return declared
    _warn_once(_process_id(description), part, f"no mapping by id but {type(declared).__name__}")
    return None


def _process_id(description: Mapping[str, Any]) -> str:
    return str(description.get("id", "without id"))


def _input_problems(description: Mapping[str, Any], inputs: Any) -> Iterator[Flaw]:
    if not isinstance(inputs, dict):
        yield _flaw_of_all("inputs", f"must be an object by input id, not {shown(inputs)}")
        return
    declared = _declared(description, "inputs")
    if declared is None:
        declared = dict.fromkeys(inputs)
    yield from _unknown("inputs", inputs, declared)
    for input_id, declaration in declared.items():
        if not isinstance(declaration, Mapping):
            declaration = {}
        if input_id in inputs:
            check = _Check(_process_id(description), input_id, declaration)
            problems = check.problems(inputs[input_id])
            for problem in islice(problems, _MAX_PROBLEMS_PER_INPUT):
                yield _flaw_of("inputs", input_id, problem)
        elif _min_occurs(declaration) > 0:
            yield _flaw_of("inputs", input_id, "is missing, but required")


def _quoted(name: str) -> str:
    return repr(cut(name, 80))


def _unknown(part: str, given: Mapping[str, Any], declared: Mapping[str, Any]) -> Iterator[Flaw]:
    unknown = [name for name in given if name not in declared]
    for name in unknown[:MAX_PROBLEMS_SHOWN]:
        text = f"unknown {part.removesuffix('s')} {_quoted(name)}{_hint(name, declared)}"
        yield Flaw((part,), text, text)
    if more := len(unknown[MAX_PROBLEMS_SHOWN:]):
        text = f"{more} more unknown {part}"
        yield Flaw((part,), text, text)


def _hint(unknown_id: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(unknown_id[:200], known, n=1)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {cut(', '.join(known), 200)})" if known else " (the process has none)"


def _min_occurs(declaration: Mapping[str, Any]) -> int:
    schema = declaration.get("schema")
    # a default would make no sense in an input that must be given
    has_default = isinstance(schema, Mapping) and "default" in schema
    return _count(declaration.get("minOccurs"), 0 if has_default else 1)


def _count(declared: Any, default: int) -> int:
    try:
        return int(declared)
    except (TypeError, ValueError):
        return default


def _max_occurs(declaration: Mapping[str, Any]) -> float:
    if declaration.get("maxOccurs") == "unbounded":
        return math.inf
    return max(1, _min_occurs(declaration), _count(declaration.get("maxOccurs"), 1))


def _offered_modes(description: Mapping[str, Any]) -> list[ProcessOutputTransmissionMode]:
    listed = description.get("outputTransmission") or []
    modes = [mode for mode in ProcessOutputTransmissionMode if mode in listed]
    return modes or list(ProcessOutputTransmissionMode)


def _without_nulls(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if value is not None}


def _output_problems(
    declared: Mapping[str, Any],
    offered: Sequence[ProcessOutputTransmissionMode],
    requested: Mapping[str, Any],
) -> Iterator[Flaw]:
    yield from _unknown("outputs", requested, declared)
    for output_id, wanted in requested.items():
        if output_id not in declared:
            continue
        declaration = declared[output_id]
        schema = declaration.get("schema") if isinstance(declaration, Mapping) else None
        try:
            _depth(wanted)
        except ValueError as error:
            yield _flaw_of("outputs", output_id, str(error))
            continue
        for reason in _requested_output_problems(schema, offered, wanted):
            yield _flaw_of("outputs", output_id, reason)


def _requested_output_problems(
    schema: Any, offered: Sequence[ProcessOutputTransmissionMode], wanted: Any
) -> Iterator[str]:
    if wanted is None:
        return
    if not isinstance(wanted, dict):
        yield f"{shown(wanted)} is not an object with 'transmissionMode' and 'format'"
        return
    mode = wanted.get("transmissionMode")
    if mode is not None and mode not in offered:
        yield f"transmissionMode {shown(mode)} is not one of {', '.join(offered)}"
    requested_format = wanted.get("format")
    if requested_format is None:
        return
    if not isinstance(requested_format, dict):
        yield f"format {shown(requested_format)} is not an object with 'mediaType'"
        return
    for member in ("mediaType", "encoding"):
        if not isinstance(requested_format.get(member), str | None):
            yield f"format.{member} {shown(requested_format[member])} is not a string"
    if not isinstance(requested_format.get("schema"), str | dict | None):
        yield "format.schema is neither a URL nor a schema"
    media_type = requested_format.get("mediaType")
    if isinstance(media_type, str):
        yield from _media_type_problems(media_type, schema)


# Media types


def _bare(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()


def _is_json(media_type: str) -> bool:
    bare = _bare(media_type)
    return bare in ("application/json", "text/json") or bare.endswith("+json")


def _is_textual(media_type: str) -> bool:
    bare = _bare(media_type)
    return (
        bare.startswith("text/")
        or _is_json(bare)
        or bare == "application/xml"
        or bare.endswith("+xml")
    )


def _media_types(schema: Any) -> set[str]:
    """Collect the media types that a schema states, its alternatives included."""
    if not isinstance(schema, Mapping):
        return set()
    found = set()
    if isinstance(stated := schema.get("contentMediaType"), str):
        found.add(_bare(stated))
    for keyword in ("oneOf", "anyOf", "allOf"):
        branches = schema.get(keyword)
        for branch in branches if isinstance(branches, list) else []:
            found |= _media_types(branch)
    return found


def _media_type_problems(media_type: str, schema: Any) -> Iterator[str]:
    stated = _media_types(schema)
    bare = _bare(media_type)
    wildcards = {"*/*", f"{bare.partition('/')[0]}/*"}
    if stated and bare not in stated and not wildcards & stated:
        yield f"media type {shown(media_type)} is not one of {', '.join(sorted(stated))}"


def _narrowed(schema: Any, media_type: str) -> Any:
    """Leave only those alternatives of a schema that are of a media type, if any are."""
    if not isinstance(schema, Mapping):
        return schema
    narrowed = dict(schema)
    for keyword in ("oneOf", "anyOf"):
        branches = schema.get(keyword)
        if isinstance(branches, list):
            matching = [branch for branch in branches if _bare(media_type) in _media_types(branch)]
            narrowed[keyword] = [_narrowed(branch, media_type) for branch in matching or branches]
    return narrowed


def _format_of(qualified: Mapping[str, Any]) -> tuple[str | None, str | None]:
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


# One input


class _Check:
    """The check of one input against its declaration."""

    def __init__(self, process_id: str, input_id: str, declaration: Mapping[str, Any]) -> None:
        self.process_id = process_id
        self.input_id = input_id
        self.schema = declaration.get("schema")
        self.min_occurs = _min_occurs(declaration)
        self.max_occurs = _max_occurs(declaration)
        self.depth = 0

    def problems(self, value: Any) -> Iterator[str]:
        try:
            self.depth = _depth(value)
        except ValueError as error:
            yield str(error)
            return
        if not (self.max_occurs > 1 and isinstance(value, list)):
            if self.min_occurs > 1:
                yield f"one value is given, but at least {self.min_occurs} are required"
            yield from self._instance_problems(value, ())
            return
        if len(value) < self.min_occurs:
            yield f"{len(value)} values are given, but at least {self.min_occurs} are required"
        if len(value) > self.max_occurs:
            yield f"{len(value)} values are given, but at most {self.max_occurs} are allowed"
            return
        for index, instance in enumerate(value):
            yield from self._instance_problems(instance, (index,))

    def _instance_problems(self, value: Any, path: tuple[int, ...]) -> Iterator[str]:
        match kind_of_input(value):
            case "link":
                problems = self._link_problems(value)
            case "qualified":
                problems = self._qualified_problems(value)
            case _:
                problems = self._schema_problems(self.schema, value)
        for problem in problems:
            yield located(Problem(path + problem.path, problem.reason))

    def _link_problems(self, link: Mapping[str, Any]) -> Iterator[Problem]:
        try:
            references.parse_href(link["href"])
        except InvalidRequest as error:
            yield Problem((), error.detail)
        yield from self._media_type_problems(link.get("type"))

    def _media_type_problems(self, media_type: Any) -> Iterator[Problem]:
        if isinstance(media_type, str):
            for reason in _media_type_problems(media_type, self.schema):
                yield Problem((), reason)

    def _qualified_problems(self, qualified: Mapping[str, Any]) -> Iterator[Problem]:
        value = qualified["value"]
        media_type, encoding = _format_of(qualified)
        if mismatch := list(self._media_type_problems(media_type)):
            return iter(mismatch)
        schema = _narrowed(self.schema, media_type) if media_type else self.schema
        if encoding == "base64":
            return self._base64_problems(schema, value, media_type)
        if isinstance(value, str) and media_type and _is_json(media_type):
            # JSON given as text may be meant as the text, or as what the text says
            as_text = list(self._schema_problems(schema, value))
            return self._json_problems(schema, value.encode()) if as_text else iter(())
        return self._schema_problems(schema, value)

    def _base64_problems(
        self, schema: Any, value: Any, media_type: str | None
    ) -> Iterator[Problem]:
        if not isinstance(value, str):
            yield Problem((), f"{shown(value)} is JSON, but its encoding is said to be base64")
            return
        try:
            content = _from_base64(value)
        except InvalidRequest as error:
            yield Problem((), error.detail)
            return
        if media_type and _is_json(media_type):
            yield from self._json_problems(schema, content)
        else:
            yield from self._schema_problems(schema, value)

    def _json_problems(self, schema: Any, content: bytes) -> Iterator[Problem]:
        try:
            parsed = _parsed(content)
            self.depth = _depth(parsed)
        except (InvalidRequest, ValueError) as error:
            yield Problem((), error.args[0])
        else:
            yield from self._schema_problems(schema, parsed)

    def _schema_problems(self, schema: Any, value: Any) -> Iterator[Problem]:
        if not isinstance(schema, Mapping):
            return
        try:
            yield from dialect.problems(schema, value)
        except OverflowError:
            yield Problem((), f"{shown(value)} holds a number that is too large")
        except Exception as error:
            # schemas of third parties break in any way
            if isinstance(error, RecursionError) and self.depth > MAX_DEPTH / 4:
                yield Problem((), "is nested too deeply")
                return
            _warn_once(
                self.process_id,
                f"input '{self.input_id}'",
                f"{type(error).__name__}: {cut(str(error).partition(chr(10))[0], 200)}",
            )


def _depth(value: Any) -> int:
    """Return how deep JSON is nested; a lone value is 0 deep.

    Raises:
        ValueError: It is no JSON that can be stored, sent on and read again.
    """
    level: list[Any] = [value]
    for depth in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, float):
                if not math.isfinite(item):
                    raise ValueError(f"holds {json.dumps(item)}, which JSON has no number for")
            elif isinstance(item, str):
                _refuse_surrogates(item)
            elif isinstance(item, dict):
                for name in item:
                    _refuse_surrogates(name)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return depth
        level = below
    raise ValueError(f"is nested more than {MAX_DEPTH} levels deep")


def _refuse_surrogates(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError("holds half of a surrogate pair, which is no text") from error
