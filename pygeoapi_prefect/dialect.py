"""The dialect of JSON schema in which processes describe their inputs.

OpenAPI 3.0 and JSON Schema 2020-12 mixed, as ``schema.yaml`` and its users have it:
``oneOf`` lists forms that may overlap, so that one or more of them must fit; bounds are
exclusive by a boolean or by a number; ``nullable`` admits null; formats are checked, and
some of them stand for a schema. Nothing is ever fetched: published schemas of GeoJSON
and bounding boxes are known here, any other schema that is not in the description admits
everything. Messages are for clients: they show the beginning of a value at most.
"""

import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing import Registry

from pygeoapi_prefect import formats

if TYPE_CHECKING:
    from jsonschema.validators import _Validator

_MAX_SHOWN_CHARACTERS = 60
_MAX_PROBLEMS_PER_ALTERNATIVE = 3
_MAX_FORMATTED_CHARACTERS = 65_536
_MAX_REASON_CHARACTERS = 300


def problems(schema: Mapping[str, Any], value: Any) -> Iterator[formats.Problem]:
    """Yield what keeps a value from fitting a schema.

    Args:
        schema: A schema as it stands in a process description.
        value: Parsed JSON.

    Raises:
        Exception: Of any type: the schema is broken.
        OverflowError: A number of the value is too large to be computed with.
    """
    validator = _DialectValidator(schema, registry=Registry())
    for error in validator.iter_errors(value):
        yield formats.Problem(tuple(error.absolute_path), error.message)


def branches(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    """Return the schemas that a keyword such as ``oneOf`` lists; none where it is broken."""
    listed = schema.get(keyword)
    return listed if isinstance(listed, list) else []


def cut(text: str, length: int) -> str:
    """Return a text, or its start with an ellipsis."""
    return text if len(text) <= length else f"{text[:length]}…"


def shown(value: Any) -> str:
    """Return a JSON value as people may read it: short, on one line."""
    match value:
        case str():
            return json.dumps(cut(value, _MAX_SHOWN_CHARACTERS), ensure_ascii=False)
        case dict() | list() if not value:
            return "an empty object" if isinstance(value, dict) else "an empty array"
        case dict():
            return f"an object with {cut(', '.join(map(shown, islice(value, 4))), 120)}"
        case list() if len(value) > 6 or any(isinstance(item, dict | list) for item in value):
            return f"an array of {len(value)}"
        case list():
            return f"[{cut(', '.join(map(shown, value)), 120)}]"
    return cut(json.dumps(value), _MAX_SHOWN_CHARACTERS)


def located(problem: formats.Problem) -> str:
    """Return place and reason of a problem on one line, of limited length."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{cut(step, 40)}" for step in problem.path)
    where = "".join(steps).removeprefix(".")
    text = f"{where}: {problem.reason}" if where else problem.reason
    return " ".join(cut(text, _MAX_REASON_CHARACTERS).split())


# Keywords, with the signature that jsonschema asks for

_Keyword = Callable[["_Validator", Any, Any, Any], Iterable[ValidationError] | None]
_FORMAT_CHECKER: FormatChecker = Draft202012Validator.FORMAT_CHECKER
# An IRI is checked as the URI that stands for it (RFC 3987, section 3.1)
_URI_FORMATS = {"iri": "uri", "iri-reference": "uri-reference"}
_ASCII = "".join(map(chr, range(128)))
_STANDARD = cast(Mapping[str, _Keyword], Draft202012Validator.VALIDATORS)


def _bound(json_type: str, is_broken: Callable[[Any, Any], bool], text: str) -> _Keyword:
    def keyword(
        validator: "_Validator", bound: Any, instance: Any, _schema: Any
    ) -> Iterator[ValidationError]:
        if isinstance(bound, bool) or not validator.is_type(instance, json_type):
            return
        measured = instance if json_type == "number" else len(instance)
        if is_broken(measured, bound):
            yield ValidationError(f"{shown(instance)} {text.format(bound)}")

    return keyword


def _bound_or_exclusive(
    exclusive_keyword: str, inclusive: _Keyword, exclusive: _Keyword
) -> _Keyword:
    """OpenAPI 3.0 has a boolean beside the bound where JSON Schema has a bound of its own."""

    def keyword(
        validator: "_Validator", bound: Any, instance: Any, schema: Any
    ) -> Iterable[ValidationError] | None:
        is_exclusive = schema.get(exclusive_keyword) is True
        return (exclusive if is_exclusive else inclusive)(validator, bound, instance, schema)

    return keyword


_above = _bound("number", operator.le, "is less than or equal to the minimum of {}")
_below = _bound("number", operator.ge, "is greater than or equal to the maximum of {}")
_at_least = _bound("number", operator.lt, "is less than the minimum of {}")
_at_most = _bound("number", operator.gt, "is greater than the maximum of {}")


def _type(
    validator: "_Validator", types: Any, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    names = [types] if isinstance(types, str) else types
    if not any(validator.is_type(instance, name) for name in names):
        yield ValidationError(f"{shown(instance)} is not of type {' or '.join(names)}")


def _is_same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _enum(
    _validator: "_Validator", allowed: Any, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    if not any(_is_same(instance, value) for value in allowed):
        listed = cut(", ".join(map(shown, allowed)), 200)
        yield ValidationError(f"{shown(instance)} is not one of {listed}")


def _any_of(
    validator: "_Validator", branches: Any, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    attempts: list[list[ValidationError]] = []
    for index, branch in enumerate(branches):
        errors = list(
            islice(
                validator.descend(instance, branch, schema_path=index),
                _MAX_PROBLEMS_PER_ALTERNATIVE,
            )
        )
        if not errors:
            return
        attempts.append(errors)
    # the alternative that the client had in mind is the one whose type the value has
    near = [errors for errors in attempts if not any(map(_is_about_type, errors))] or attempts
    reasons = list(
        dict.fromkeys(
            located(formats.Problem(tuple(errors[0].relative_path), errors[0].message))
            for errors in near
        )
    )
    if len(reasons) == 1:
        yield from near[0]
    elif reasons:
        yield ValidationError(f"fits none of the alternatives: {' / '.join(reasons)}")


def _is_about_type(error: ValidationError) -> bool:
    return error.validator == "type" and not error.relative_path


def _pattern(
    validator: "_Validator", pattern: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    # jsonschema's own message repeats the text, however long
    if any(_STANDARD["pattern"](validator, pattern, instance, schema) or ()):
        yield ValidationError(f"{shown(instance)} does not match {pattern}")


def _ref(
    validator: "_Validator", reference: Any, instance: Any, schema: Any
) -> Iterable[ValidationError] | None:
    if reference.startswith("#"):
        return _STANDARD["$ref"](validator, reference, instance, schema)
    known = formats.format_referred_to(reference)
    # other schemas would have to be fetched, on behalf of whoever wrote the description
    return _well_known(known, instance) if known else None


def _well_known(format_name: str, instance: Any) -> Iterator[ValidationError]:
    for problem in formats.problems(format_name, instance):
        if problem.path:
            yield ValidationError(problem.reason, path=problem.path)
        else:
            keyword = "$ref" if isinstance(instance, dict) else "type"
            yield ValidationError(f"{shown(instance)} {problem.reason}", validator=keyword)


def _admits_objects(schema: Any) -> bool:
    types = schema.get("type", "object")
    return "object" in ([types] if isinstance(types, str) else types)


def _format(
    validator: "_Validator", name: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if name in ("byte", "binary"):
        yield from _content_encoding(validator, "base64", instance, schema)
    elif known := formats.format_named(name):
        # authors also put these on text that holds GeoJSON, or on arrays of numbers
        if _admits_objects(schema):
            yield from _well_known(known, instance)
    elif isinstance(instance, str):
        if len(instance) > _MAX_FORMATTED_CHARACTERS:
            yield ValidationError(f"{shown(instance)} is too long for a {name}")
        elif not _conforms(instance, name):
            yield ValidationError(f"{shown(instance)} is not a valid {name}")


def _conforms(text: str, name: str) -> bool:
    if name in _URI_FORMATS:
        return _conforms(quote(text, safe=_ASCII), _URI_FORMATS[name])
    try:
        return _FORMAT_CHECKER.conforms(text, name)
    except (ArithmeticError, LookupError, ValueError):
        # some of the libraries behind the checker stumble over what they should refuse
        return False


def _content_encoding(
    _validator: "_Validator", encoding: Any, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    if encoding not in ("base64", "binary"):
        return
    if isinstance(instance, str):
        try:
            formats.from_base64(instance)
        except ValueError as error:
            yield ValidationError(f"{shown(instance)} is not base64: {error}")
    else:
        yield ValidationError(
            f"{shown(instance)} is JSON, where base64 text is expected", validator="type"
        )


def _properties(
    validator: "_Validator", properties: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    yield from _STANDARD["properties"](validator, properties, instance, schema) or ()
    # a bounding box written out, as in bbox.yaml, without the format that names it
    if {"bbox", "crs"} <= properties.keys() and isinstance(instance, dict) and "bbox" in instance:
        yield from _well_known("bbox", instance)


# with these alone, numbers fit if the least and the greatest of them do
_MONOTONE = frozenset(
    {
        "type",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "title",
        "description",
        "default",
        "example",
    }
)


def _items(
    validator: "_Validator", items: Any, instance: Any, schema: Any
) -> Iterable[ValidationError] | None:
    # jsonschema takes some 10 us per item, which is seconds for the values of a grid
    if (
        isinstance(instance, list)
        and isinstance(items, Mapping)
        and items.keys() <= _MONOTONE
        and "prefixItems" not in schema
        and _fit_by_extremes(validator, items, instance)
    ):
        return None
    return _STANDARD["items"](validator, items, instance, schema)


def _fit_by_extremes(validator: "_Validator", items: Mapping[str, Any], values: list[Any]) -> bool:
    types = set(map(type, values))
    if not types or not types <= {int, float}:
        return False
    if float in types and items.get("type", "number") != "number":
        return False
    extremes = (min(values), max(values))
    return not any(True for value in extremes for _ in validator.descend(value, items))


def _unless_null(keyword: _Keyword) -> _Keyword:
    """``nullable`` of OpenAPI 3.0: null passes whatever the schema says otherwise."""

    def nullable_keyword(
        validator: "_Validator", expected: Any, instance: Any, schema: Any
    ) -> Iterable[ValidationError] | None:
        if instance is None and schema.get("nullable") is True:
            return None
        return keyword(validator, expected, instance, schema)

    return nullable_keyword


_OURS: Mapping[str, _Keyword] = {
    "$ref": _ref,
    "anyOf": _any_of,
    "contentEncoding": _content_encoding,
    "enum": _enum,
    "exclusiveMaximum": _below,
    "exclusiveMinimum": _above,
    "format": _format,
    "items": _items,
    "maximum": _bound_or_exclusive("exclusiveMaximum", _at_most, _below),
    "maxItems": _bound("array", operator.gt, "has more than {} items"),
    "maxLength": _bound("string", operator.gt, "is longer than {} characters"),
    "maxProperties": _bound("object", operator.gt, "has more than {} members"),
    "minimum": _bound_or_exclusive("exclusiveMinimum", _at_least, _above),
    "minItems": _bound("array", operator.lt, "has fewer than {} items"),
    "minLength": _bound("string", operator.lt, "is shorter than {} characters"),
    "minProperties": _bound("object", operator.lt, "has fewer than {} members"),
    "oneOf": _any_of,
    "pattern": _pattern,
    "properties": _properties,
    "type": _type,
}

_DialectValidator: type["_Validator"] = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {name: _unless_null(keyword) for name, keyword in {**_STANDARD, **_OURS}.items()},
)
