"""Inputs of an execute request, held against the process description.

Before a job is accepted: nothing is fetched, changed or filled in. What links refer to is
checked by the job (see `input_contents`).

Sources: OGC 18-062r2, requirements ``/req/core/process-execute-inputs`` to
``/req/core/process-execute-input-validation``; ``schema.yaml``.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from pygeoapi_prefect import dialect, references
from pygeoapi_prefect.dialect import cut, located, shown
from pygeoapi_prefect.errors import Flaw, InvalidRequest
from pygeoapi_prefect.formats import Problem
from pygeoapi_prefect.inputs import decoded_base64, format_of, parsed_json
from pygeoapi_prefect.media_types import (
    essence,
    is_in,
    is_json,
    is_media_type,
    stated_media_types,
)
from pygeoapi_prefect.request_problems import (
    MAX_DEPTH,
    declared,
    depth_of,
    flaw_of,
    flaw_of_all,
    media_type_problem,
    process_id_of,
    refuse_if_any,
    unknown_ids,
    warn_once,
)
from pygeoapi_prefect.schemas import kind_of_input

_MAX_PROBLEMS_PER_INPUT: Final = 100


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
    refuse_if_any(_input_flaws(description, {} if inputs is None else inputs))


def _input_flaws(description: Mapping[str, Any], inputs: Any) -> Iterator[Flaw]:
    if not isinstance(inputs, dict):
        yield flaw_of_all("inputs", f"must be an object by input id, not {shown(inputs)}")
        return
    known = declared(description, "inputs")
    if known is None:
        known = dict.fromkeys(inputs)
    yield from unknown_ids("inputs", inputs, known)
    for input_id in known:
        one = DeclaredInput(description, input_id)
        if input_id in inputs:
            for problem in islice(one.problems(inputs[input_id]), _MAX_PROBLEMS_PER_INPUT):
                yield flaw_of("inputs", input_id, problem)
        elif one.min_occurs > 0:
            yield flaw_of("inputs", input_id, "is missing, but required")


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


def media_type_problems(media_type: str, schema: Any) -> Iterator[str]:
    """Yield why content of a media type does not fit a schema."""
    stated = stated_media_types(schema)
    if not is_media_type(media_type):
        yield f"{shown(media_type)} is not a media type"
    elif stated and not any(is_in(media_type, one) for one in stated):
        yield media_type_problem(media_type, stated)


def narrowed(schema: Any, media_type: str) -> Any:
    """Leave only those alternatives of a schema that are of a media type, if any are."""
    if not isinstance(schema, Mapping):
        return schema
    result = dict(schema)
    for keyword in ("oneOf", "anyOf"):
        branches = schema.get(keyword)
        if isinstance(branches, list):
            matching = [
                branch for branch in branches if essence(media_type) in stated_media_types(branch)
            ]
            result[keyword] = [narrowed(branch, media_type) for branch in matching or branches]
    return result


class DeclaredInput:
    """What a description says of one input, and the checks of what a client gives for it."""

    def __init__(self, description: Mapping[str, Any], input_id: str) -> None:
        declaration = (declared(description, "inputs") or {}).get(input_id)
        if not isinstance(declaration, Mapping):
            declaration = {}
        self.process_id = process_id_of(description)
        self.input_id = input_id
        self.schema = declaration.get("schema")
        self.min_occurs = _min_occurs(declaration)
        self.max_occurs = _max_occurs(declaration)

    def is_array_of_values(self, value: Any) -> bool:
        """Tell whether an array holds one value of the input in each of its items."""
        return self.max_occurs > 1 and isinstance(value, list)

    def problems(self, value: Any) -> Iterator[str]:
        """Yield what keeps a value from being accepted."""
        try:
            depth_of(value)
        except ValueError as error:
            yield str(error)
            return
        if not self.is_array_of_values(value):
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
                problems = self.schema_problems(self.schema, value)
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
            for reason in media_type_problems(media_type, self.schema):
                yield Problem((), reason)

    def _qualified_problems(self, qualified: Mapping[str, Any]) -> Iterator[Problem]:
        value = qualified["value"]
        media_type, encoding = format_of(qualified)
        if mismatch := list(self._media_type_problems(media_type)):
            return iter(mismatch)
        schema = narrowed(self.schema, media_type) if media_type else self.schema
        if encoding == "base64":
            return self._base64_problems(schema, value, media_type)
        if isinstance(value, str) and media_type and is_json(media_type):
            # JSON given as text may be meant as the text, or as what the text says
            as_text = list(self.schema_problems(schema, value))
            return self._json_problems(schema, value.encode()) if as_text else iter(())
        return self.schema_problems(schema, value)

    def _base64_problems(
        self, schema: Any, value: Any, media_type: str | None
    ) -> Iterator[Problem]:
        if not isinstance(value, str):
            yield Problem((), f"{shown(value)} is JSON, but its encoding is said to be base64")
            return
        try:
            content = decoded_base64(value)
        except InvalidRequest as error:
            yield Problem((), error.detail)
            return
        if media_type and is_json(media_type):
            yield from self._json_problems(schema, content)
        else:
            yield from self.schema_problems(schema, value)

    def _json_problems(self, schema: Any, content: bytes) -> Iterator[Problem]:
        try:
            parsed = parsed_json(content)
            depth_of(parsed)
        except (InvalidRequest, ValueError) as error:
            yield Problem((), error.args[0])
        else:
            yield from self.schema_problems(schema, parsed)

    def schema_problems(self, schema: Any, value: Any) -> Iterator[Problem]:
        """Yield what keeps a value from fitting a schema of the input."""
        if not isinstance(schema, Mapping):
            return
        try:
            yield from dialect.problems(schema, value)
        except OverflowError:
            yield Problem((), f"{shown(value)} holds a number that is too large")
        except Exception as error:
            # schemas of third parties break in any way
            if isinstance(error, RecursionError) and depth_of(value) > MAX_DEPTH / 4:
                yield Problem((), "is nested too deeply")
                return
            warn_once(
                self.process_id,
                f"input '{self.input_id}'",
                f"{type(error).__name__}: {cut(str(error).partition(chr(10))[0], 200)}",
            )
