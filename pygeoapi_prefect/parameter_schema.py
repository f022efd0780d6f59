"""Inputs of a process, read off the parameter schema of a Prefect deployment.

Prefect describes parameters as pydantic does, in JSON Schema of 2020. What OGC allows
(``schema.yaml``) is that of OpenAPI 3.0, and closed: other keywords make a description
invalid. What has no counterpart is left out where that admits more, never where it admits
less: the Prefect server, and the flow, check what they are given all the same.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

MAX_SCHEMAS: Final = 2000
"""How many schemas one deployment is translated to, as definitions may multiply; further
ones admit everything."""

_TYPES: Final = frozenset({"array", "boolean", "integer", "number", "object", "string"})
_BINARY_FORMATS: Final = frozenset({"binary", "byte"})
"""What pydantic calls the bytes of a text is none of what OGC calls so, which is base64."""


def inputs_of_parameters(
    schema: Mapping[str, Any], preset: Collection[str], filled_in: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Return the inputs (``inputDescription.yaml``) that stand for the parameters of a flow.

    Args:
        schema: ``parameter_openapi_schema`` of a deployment.
        preset: Parameters to which the deployment gives a value: they need not be given.
        filled_in: Parameters that are no inputs, for others give them their values.

    Returns:
        Input descriptions by id, in the order in which the flow declares them.
    """
    properties = {
        str(name): parameter if isinstance(parameter, Mapping) else {}
        for name, parameter in _mapping(schema.get("properties")).items()
        if name not in filled_in
    }
    required = set(_texts(schema.get("required"))) - set(preset)
    translation = _Translation(
        {**_mapping(schema.get("$defs")), **_mapping(schema.get("definitions"))}
    )
    return {
        name: _input(name, translation.of(parameter), is_required=name in required)
        for name, parameter in sorted(properties.items(), key=_position)
    }


def _input(name: str, schema: dict[str, Any], *, is_required: bool) -> dict[str, Any]:
    title = schema.pop("title", name)
    description = schema.pop("description", None)
    return {
        "title": title,
        **({} if description is None else {"description": description}),
        "schema": schema,
        "minOccurs": int(is_required),
        "maxOccurs": 1,
    }


def _position(named: tuple[str, Mapping[str, Any]]) -> float:
    position = named[1].get("position")
    return position if isinstance(position, int | float) else float("inf")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


_KEPT: Final[Mapping[str, Callable[[Any], bool]]] = {
    "title": _is_text,
    "description": _is_text,
    "multipleOf": lambda value: _is_number(value) and value > 0,
    "maximum": _is_number,
    "minimum": _is_number,
    "maxLength": _is_count,
    "minLength": _is_count,
    "pattern": _is_pattern,
    "maxItems": _is_count,
    "minItems": _is_count,
    "uniqueItems": _is_flag,
    "maxProperties": _is_count,
    "minProperties": _is_count,
    "type": lambda value: isinstance(value, str) and value in _TYPES,
    "format": lambda value: isinstance(value, str) and value not in _BINARY_FORMATS,
    "nullable": _is_flag,
    "readOnly": _is_flag,
    "writeOnly": _is_flag,
    "deprecated": _is_flag,
    "contentMediaType": _is_text,
    "contentEncoding": _is_text,
}
"""Keywords that mean the same in both, with what their values have to be."""


class _Translation:
    """The translation of the schemas of one deployment.

    Args:
        definitions: What ``$ref`` may refer to.
    """

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._open: list[str] = []
        self._left = MAX_SCHEMAS

    def of(self, schema: Any) -> dict[str, Any]:
        """Return the schema that OGC allows, and that admits at least as much."""
        self._left -= 1
        if not isinstance(schema, Mapping) or self._left < 0:
            return {}
        reference = schema.get("$ref")
        if isinstance(reference, str):
            hidden = {"$ref", "default"} if self._is_secret(schema) else {"$ref"}
            beside = {name: value for name, value in schema.items() if name not in hidden}
            return {**self._referred_to(reference), **self.of(beside)}
        own = {
            name: schema[name]
            for name, is_usable in _KEPT.items()
            if name in schema and is_usable(schema[name])
        }
        parts = (
            self._alternatives(schema),
            self._conjunction(schema),
            self._members(schema),
            self._items(schema),
            _exclusive_bounds(schema),
            _types(schema),
            _values(schema),
            _example(schema),
            {} if self._is_secret(schema) else _default(schema),
            own,
        )
        made = {name: value for part in parts for name, value in part.items()}
        return made | ({"nullable": True} if any(part.get("nullable") for part in parts) else {})

    def _is_secret(self, schema: Mapping[str, Any]) -> bool:
        """Whether no value is shown: it is for writing alone, or a block, that may hold one."""
        branches = schema.get("anyOf")
        return any(
            one.get("writeOnly") is True or "block_type_slug" in self._opened(one)
            for one in map(_mapping, [schema, *(branches if isinstance(branches, list) else ())])
        )

    def _opened(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        reference = schema.get("$ref")
        return self._definition(reference) if isinstance(reference, str) else schema

    def _definition(self, reference: str) -> Mapping[str, Any]:
        return _mapping(self._definitions.get(reference.rpartition("/")[2]))

    def _referred_to(self, reference: str) -> dict[str, Any]:
        definition = self._definition(reference)
        if reference in self._open:
            # a model that has itself as a part goes on for ever
            kind = definition.get("type")
            return {"type": kind} if kind in _TYPES else {}
        self._open.append(reference)
        translated = self.of(definition)
        self._open.pop()
        return translated

    def _alternatives(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """``oneOf`` becomes ``anyOf``: with what is left out, several may fit."""
        for keyword in ("anyOf", "oneOf"):
            branches = schema.get(keyword)
            if not isinstance(branches, list) or not branches:
                continue
            others = [branch for branch in branches if not _is_null(branch)]
            translated = _distinct(self.of(branch) for branch in others)
            null = {"nullable": True} if len(others) < len(branches) else {}
            if len(translated) > 1:
                return {"anyOf": translated, **null}
            return {**(translated[0] if translated else {}), **null}
        return {}

    def _conjunction(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        parts = schema.get("allOf")
        if not isinstance(parts, list) or not parts:
            return {}
        translated = [self.of(part) for part in parts]
        return translated[0] if len(translated) == 1 else {"allOf": translated}

    def _members(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if properties := _mapping(schema.get("properties")):
            made["properties"] = {str(name): self.of(part) for name, part in properties.items()}
        if required := list(dict.fromkeys(_texts(schema.get("required")))):
            made["required"] = required
        others = schema.get("additionalProperties")
        if "patternProperties" in schema:
            pass  # members with names of a pattern would be refused
        elif isinstance(others, bool):
            made["additionalProperties"] = others
        elif isinstance(others, Mapping):
            made["additionalProperties"] = self.of(others)
        return made

    def _items(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        items, first = schema.get("items"), schema.get("prefixItems")
        if not isinstance(first, list) or not first:
            return {"items": self.of(items)} if isinstance(items, Mapping) else {}
        length = schema.get("maxItems")
        if items is False or (_is_count(length) and int(length or 0) <= len(first)):
            kinds = first
        else:
            kinds = [*first, items]  # which admits everything where it is not said
        translated = _distinct(self.of(kind) for kind in kinds)
        return {"items": translated[0] if len(translated) == 1 else {"anyOf": translated}}


def _is_null(schema: Any) -> bool:
    match schema:
        case {"type": "null"} | {"const": None} | {"enum": [None]}:
            return True
    return False


def _distinct(schemas: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    distinct: list[dict[str, Any]] = []
    for schema in schemas:
        if schema not in distinct:
            distinct.append(schema)
    return distinct


def _exclusive_bounds(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A bound of its own becomes a flag beside the bound."""
    made: dict[str, Any] = {}
    for keyword, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        bound = schema.get(exclusive)
        if isinstance(bound, bool) and _is_number(schema.get(keyword)):
            made[exclusive] = bound
        # of two bounds one has to go
        elif _is_number(bound) and not _is_number(schema.get(keyword)):
            made |= {keyword: bound, exclusive: True}
    return made


def _values(schema: Mapping[str, Any]) -> dict[str, Any]:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or not values:
        return {}
    others = [value for value in values if value is not None]
    null = {"nullable": True} if len(others) < len(values) else {}
    return {"enum": others, **null} if others else null


def _types(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A list of types becomes alternatives."""
    named = schema.get("type")
    types = [named] if isinstance(named, str) else _texts(named)
    null = {"nullable": True} if "null" in types else {}
    others = [name for name in types if name in _TYPES]
    if len(others) > 1 and not {"anyOf", "oneOf"} & schema.keys():
        return {"anyOf": [{"type": name} for name in others], **null}
    return {"type": others[0], **null} if len(others) == 1 else null


def _example(schema: Mapping[str, Any]) -> dict[str, Any]:
    if "example" in schema:
        return {"example": schema["example"]}
    examples = schema.get("examples")
    return {"example": examples[0]} if isinstance(examples, list) and examples else {}


def _default(schema: Mapping[str, Any]) -> dict[str, Any]:
    default = schema.get("default")
    return {} if default is None else {"default": default}
