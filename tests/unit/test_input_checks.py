"""Inputs against process descriptions."""

import base64
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

import pytest
from pygeoapi.process import echo, hello_world, shapely_functions

from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.input_checks import check_inputs
from pygeoapi_prefect.request_problems import warn_once

GEOMETRY_YAML = (
    "http://schemas.opengis.net/ogcapi/features/part1/1.0/openapi/schemas/geometryGeoJSON.yaml"
)
BBOX_YAML = "https://schemas.opengis.net/ogcapi/processes/part1/1.0/openapi/schemas/bbox.yaml"
CRS84 = "http://www.opengis.net/def/crs/OGC/1.3/CRS84"
SQUARE = [[0, 0], [1, 0], [1, 1], [0, 0]]
TIFF = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/tiff"}


def process(schema: Any, **occurrence: Any) -> dict[str, Any]:
    """Describe a process with one input `x`."""
    return {"id": "p", "inputs": {"x": {"schema": schema, **occurrence}}, "outputs": {}}


def reason(description: Mapping[str, Any], inputs: Any) -> str:
    """Return the message with which inputs are refused."""
    with pytest.raises(InvalidRequest) as refusal:
        check_inputs(description, inputs)
    assert "\n" not in refusal.value.detail
    return refusal.value.detail


# Whole requests


@pytest.mark.parametrize(
    "metadata", [hello_world.PROCESS_METADATA, shapely_functions.PROCESS_METADATA]
)
def test_the_examples_of_pygeoapi_s_own_processes_pass(metadata: dict[str, Any]) -> None:
    check_inputs(metadata, metadata["example"]["inputs"])


def test_pygeoapi_s_echo_passes_with_what_its_description_asks_for() -> None:
    check_inputs(echo.PROCESS_METADATA, {"echoInput": "Test", "pause": 5.5})


def test_the_example_of_pygeoapi_s_echo_contradicts_its_own_description() -> None:
    metadata: dict[str, Any] = echo.PROCESS_METADATA
    message = reason(metadata, metadata["example"]["inputs"])
    assert message == (
        "unknown input 'echo' (did you mean 'echoInput'?); "
        "input 'echoInput': is missing, but required; "
        "input 'pause': 10.0 is not one of 5.5, 10.25, 42.0"
    )


def test_pygeoapi_s_shapely_functions_take_text_and_geometry_mixed() -> None:
    geometries = ["POINT (0 0)", {"type": "Polygon", "coordinates": [SQUARE]}]
    check_inputs(shapely_functions.PROCESS_METADATA, {"operation": "x", "geoms": geometries})


@pytest.mark.parametrize("inputs", [[], "x", 5, True, [{"name": "x"}]])
def test_inputs_that_are_no_object_are_refused(inputs: Any) -> None:
    message = reason(hello_world.PROCESS_METADATA, inputs)
    assert message.startswith("inputs: must be an object by input id, not ")


def test_no_inputs_at_all_pass_where_none_are_required() -> None:
    check_inputs(process({"type": "string"}, minOccurs=0), None)


def test_no_inputs_at_all_are_refused_where_one_is_required() -> None:
    assert reason(process({"type": "string"}), None) == "input 'x': is missing, but required"


def test_every_problem_is_named_in_one_message() -> None:
    description = {
        "id": "p",
        "inputs": {
            "band": {"schema": {"type": "integer", "minimum": 1}},
            "name": {"schema": {"type": "string", "enum": ["a", "b"]}},
            "zones": {"schema": {"type": "object"}},
        },
    }
    assert reason(description, {"band": 0, "name": "c", "zone": {}}) == (
        "unknown input 'zone' (did you mean 'zones'?); "
        "input 'band': 0 is less than the minimum of 1; "
        'input \'name\': "c" is not one of "a", "b"; '
        "input 'zones': is missing, but required"
    )


def test_an_unknown_input_that_resembles_none_gets_the_list_of_known_ones() -> None:
    message = reason(process({}, minOccurs=0), {"raster": 1})
    assert message == "unknown input 'raster' (known: x)"


def test_a_process_without_inputs_takes_none() -> None:
    check_inputs({"inputs": {}}, {})
    assert reason({"inputs": {}}, {"x": 1}) == "unknown input 'x' (the process has none)"


def test_many_problems_are_counted_and_not_all_listed() -> None:
    message = reason(process({"type": "array", "items": {"type": "string"}}), {"x": [1] * 60})
    assert message.count("is not of type string") == 20
    assert message.endswith("; and 40 more")


def test_many_unknown_inputs_are_counted_and_not_all_listed() -> None:
    message = reason(process({}, minOccurs=0), {f"y{n}": 0 for n in range(100_000)})
    assert message.endswith("and 1 more")
    assert len(message) < 2000


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, "x" * 1_000_000),
        ({"type": "string"}, [["y"] * 1000] * 1000),
        ({"type": "string"}, {"y" * 1_000_000: 1}),
        ({"type": "string", "pattern": "^a"}, "x" * 1_000_000),
        ({"type": "string", "format": "date"}, "x" * 1_000_000),
        ({"enum": ["a"]}, "x" * 1_000_000),
        ({"type": "object", "additionalProperties": False}, {"y" * 1_000_000: 1}),
        (TIFF, "!" * 1_000_000),
    ],
)
def test_a_large_value_is_not_sent_back(schema: Any, value: Any) -> None:
    assert len(reason(process(schema), {"x": value})) < 500


def test_a_large_input_id_is_not_sent_back() -> None:
    assert len(reason(process({}, minOccurs=0), {"y" * 1_000_000: 1})) < 500


def test_line_breaks_of_the_client_do_not_reach_the_message() -> None:
    message = reason(process({"type": "integer"}), {"x": "a\nb", "c\nd": 1})
    assert "a\\nb" in message
    assert "c\\nd" in message


# Schemas

ACCEPTED: list[tuple[Any, Any]] = [
    ({"type": "string"}, "x"),
    ({"type": "string"}, ""),
    ({"type": "integer"}, 5),
    ({"type": "integer"}, 5.0),
    ({"type": "number"}, 5),
    ({"type": "boolean"}, False),
    ({"type": ["string", "number"]}, 5),
    ({"type": "string", "nullable": True}, None),
    ({"type": "string", "nullable": True, "enum": ["a"]}, None),
    ({"oneOf": [{"type": "string"}, {"type": "number"}], "nullable": True}, None),
    ({"type": "number", "minimum": 0, "exclusiveMinimum": False}, 0),
    ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, 0.1),
    ({"type": "number", "maximum": 1, "exclusiveMaximum": False}, 1),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
    ({"type": "number", "multipleOf": 0.5}, 1.5),
    ({"enum": ["a", 1, None]}, None),
    ({"enum": [1]}, 1.0),
    # alternatives that overlap
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, 5),
    ({"oneOf": [{"type": "object"}, {"format": "geojson-feature"}]}, {"a": 1}),
    ({"oneOf": []}, 5),
    ({"allOf": [{"type": "object"}, {"required": ["a"]}]}, {"a": 1}),
    ({"not": {"type": "string"}}, 5),
    # formats
    ({"type": "string", "format": "date-time"}, "2020-01-01T00:00:00Z"),
    ({"type": "string", "format": "date"}, "2020-02-29"),
    ({"type": "string", "format": "time"}, "12:00:00Z"),
    ({"type": "string", "format": "duration"}, "P1DT2H"),
    ({"type": "string", "format": "uri"}, "urn:ogc:def:crs:EPSG::4326"),
    ({"type": "string", "format": "iri"}, "https://bücher.example/größe?q=ä#é"),
    ({"type": "string", "format": "iri-reference"}, "../größe"),
    ({"type": "string", "format": "uuid"}, "123e4567-e89b-12d3-a456-426614174000"),
    ({"type": "string", "format": "email"}, "a@example.org"),
    ({"type": "string", "format": "hostname"}, "example.org"),
    ({"type": "string", "format": "ipv4"}, "127.0.0.1"),
    ({"type": "string", "format": "regex"}, "^a+$"),
    ({"type": "string", "format": "a format of the author's own"}, "x"),
    ({"format": "date"}, 5),
    # references
    ({"$ref": "https://schemas.example.org/unknown.json"}, 5),
    ({"$ref": "https://schemas.example.org/unknown.yaml#/definitions/x"}, 5),
    ({"$ref": "unknown.yaml"}, 5),
    ({"$ref": "#/definitions/a", "definitions": {"a": {"type": "string"}}}, "x"),
    # nothing to check against
    (None, {"any": "thing"}),
    (True, 5),
    ({}, [None]),
]


@pytest.mark.parametrize(("schema", "value"), ACCEPTED)
def test_a_value_that_fits_its_schema_passes(schema: Any, value: Any) -> None:
    check_inputs(process(schema), {"x": value})


REFUSED: list[tuple[Any, Any, str]] = [
    ({"type": "string"}, 5, "5 is not of type string"),
    ({"type": "string"}, None, "null is not of type string"),
    ({"type": "string"}, [], "an empty array is not of type string"),
    ({"type": "string"}, {"a": 1}, 'an object with "a" is not of type string'),
    ({"type": "integer"}, "5", '"5" is not of type integer'),
    ({"type": "integer"}, 5.5, "5.5 is not of type integer"),
    ({"type": "integer"}, True, "true is not of type integer"),
    ({"type": "number"}, False, "false is not of type number"),
    ({"type": "boolean"}, 1, "1 is not of type boolean"),
    ({"type": "boolean"}, "true", '"true" is not of type boolean'),
    ({"type": ["string", "number"]}, True, "true is not of type string or number"),
    ({"type": "string", "nullable": False}, None, "null is not of type string"),
    ({"minimum": 1}, 0, "0 is less than the minimum of 1"),
    ({"maximum": 1}, 2, "2 is greater than the maximum of 1"),
    ({"minimum": 1, "exclusiveMinimum": True}, 1, "1 is less than or equal to the minimum of 1"),
    ({"maximum": 1, "exclusiveMaximum": True}, 1, "1 is greater than or equal to the maximum of 1"),
    ({"exclusiveMinimum": 1}, 1, "1 is less than or equal to the minimum of 1"),
    ({"exclusiveMaximum": 1}, 1, "1 is greater than or equal to the maximum of 1"),
    ({"multipleOf": 2}, 3, "3 is not a multiple of 2"),
    ({"multipleOf": 0.1}, 10**400, f"{'1' + '0' * 59}… holds a number that is too large"),
    ({"type": "string", "minLength": 2}, "a", '"a" is shorter than 2 characters'),
    ({"type": "string", "maxLength": 2}, "abc", '"abc" is longer than 2 characters'),
    ({"type": "string", "pattern": "^a+$"}, "b", '"b" does not match ^a+$'),
    ({"enum": ["a", "b"]}, "c", '"c" is not one of "a", "b"'),
    ({"enum": [0, 1]}, True, "true is not one of 0, 1"),
    ({"type": "array", "minItems": 2}, [1], "[1] has fewer than 2 items"),
    ({"type": "array", "maxItems": 2}, [1, 2, 3], "[1, 2, 3] has more than 2 items"),
    ({"type": "array", "items": {"type": "string"}}, ["a", 5], "[1]: 5 is not of type string"),
    ({"type": "array", "uniqueItems": True}, [1, 1], "[1, 1] has non-unique elements"),
    ({"type": "object", "minProperties": 1}, {}, "an empty object has fewer than 1 members"),
    ({"properties": {"a": {"type": "string"}}}, {"a": 1}, "a: 1 is not of type string"),
    ({"required": ["a"]}, {}, "'a' is a required property"),
    (
        {"additionalProperties": False},
        {"a": 1},
        "Additional properties are not allowed ('a' was unexpected)",
    ),
    ({"not": {"type": "string"}}, "a", "'a' should not be valid under {'type': 'string'}"),
    # alternatives: the nearest one explains, or all do
    (
        {"oneOf": [{"type": "string"}, {"type": "integer", "minimum": 1}]},
        0,
        "0 is less than the minimum of 1",
    ),
    (
        {"oneOf": [{"type": "string"}, {"type": "integer"}]},
        True,
        "fits none of the alternatives: true is not of type string / true is not of type integer",
    ),
    (
        {"anyOf": [{"minimum": 5}, {"maximum": 1}]},
        3,
        "fits none of the alternatives: 3 is less than the minimum of 5 / "
        "3 is greater than the maximum of 1",
    ),
    ({"oneOf": [{"$ref": GEOMETRY_YAML}, {"format": "geojson-geometry"}]}, 5, "5 is not an object"),
    # formats
    ({"format": "date-time"}, "2020-01-01", '"2020-01-01" is not a valid date-time'),
    ({"format": "date-time"}, "2020-13-01T00:00Z", '"2020-13-01T00:00Z" is not a valid date-time'),
    ({"format": "date"}, "2021-02-29", '"2021-02-29" is not a valid date'),
    ({"format": "time"}, "25:00", '"25:00" is not a valid time'),
    ({"format": "duration"}, "1 day", '"1 day" is not a valid duration'),
    ({"format": "uri"}, "no uri", '"no uri" is not a valid uri'),
    ({"format": "iri"}, "größe", '"größe" is not a valid iri'),
    ({"format": "iri-reference"}, "ü und ö", '"ü und ö" is not a valid iri-reference'),
    ({"format": "uuid"}, "123", '"123" is not a valid uuid'),
    ({"format": "email"}, "nobody", '"nobody" is not a valid email'),
    ({"format": "hostname"}, "a b", '"a b" is not a valid hostname'),
    ({"format": "hostname"}, "", '"" is not a valid hostname'),
    ({"format": "ipv4"}, "256.0.0.1", '"256.0.0.1" is not a valid ipv4'),
    ({"format": "regex"}, "(", '"(" is not a valid regex'),
    # references within the schema
    (
        {"$ref": "#/definitions/a", "definitions": {"a": {"type": "string"}}},
        5,
        "5 is not of type string",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value", "expected"), REFUSED)
def test_a_value_that_does_not_fit_is_refused_with_the_reason(
    schema: Any, value: Any, expected: str
) -> None:
    assert reason(process(schema), {"x": value}) == f"input 'x': {expected}"


@pytest.mark.parametrize(("schema", "value", "expected"), REFUSED)
def test_a_qualified_value_is_checked_by_its_value(schema: Any, value: Any, expected: str) -> None:
    assert reason(process(schema), {"x": {"value": value}}) == f"input 'x': {expected}"


@pytest.mark.parametrize("items", [{"type": "number"}, {"minimum": 0, "maximum": 9}, {}])
def test_numbers_in_an_array_pass(items: Any) -> None:
    check_inputs(process({"type": "array", "items": items}), {"x": [0, 9, 0.5]})


@pytest.mark.parametrize(
    ("items", "values", "index"),
    [
        ({"type": "number"}, [1, 2, "3"], 2),
        ({"type": "number"}, [1, True], 1),
        ({"type": "integer"}, [1, 2, 2.5], 2),
        ({"type": "string"}, ["a", 1], 1),
        ({"type": "number", "minimum": 1}, [1, 2, 0, 3], 2),
        ({"type": "number", "maximum": 2}, [1, 2, 3, 0], 2),
        ({"type": "number", "minimum": 1, "exclusiveMinimum": True}, [2, 1, 3], 1),
        ({"type": "number", "enum": [1, 3]}, [1, 2, 3], 1),
        ({"type": "number", "multipleOf": 2}, [2, 3, 4], 1),
    ],
)
def test_the_one_item_that_does_not_fit_is_named(items: Any, values: Any, index: int) -> None:
    message = reason(process({"type": "array", "items": items}), {"x": values})
    assert message.startswith(f"input 'x': [{index}]: ")
    assert ";" not in message


# Schemas that are broken


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "geometry"},
        {"type": 5},
        {"pattern": "("},
        {"minimum": "0"},
        {"enum": 5},
        {"oneOf": {"type": "string"}},
        {"allOf": 5},
        {"properties": ["a"]},
        {"required": 5},
        {"$ref": "#"},
        {"$ref": "#/definitions/missing"},
        {"$ref": 5},
        {"items": [[]], "type": ["array", "object", "string", "number"]},
    ],
)
@pytest.mark.parametrize("value", [5, "x", {"a": 1}, [1]])
def test_a_broken_schema_does_not_make_its_process_unusable(schema: Any, value: Any) -> None:
    check_inputs(process(schema), {"x": value})


def test_a_broken_schema_is_reported_once_and_the_other_inputs_are_checked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn_once.cache_clear()
    description = process({"type": "geometry"})
    description["inputs"]["y"] = {"schema": {"type": "string"}}
    with caplog.at_level(logging.WARNING, "pygeoapi_prefect.inputs"):
        for _ in range(3):
            assert reason(description, {"x": 1, "y": 1}) == "input 'y': 1 is not of type string"
    (record,) = caplog.records
    assert "process p: input 'x' is not checked" in record.getMessage()
    assert "Unknown type 'geometry'" in record.getMessage()


@pytest.mark.parametrize("declared", [None, [], "x", {"x": None}, {"x": "string"}])
def test_a_description_without_usable_inputs_checks_nothing(declared: Any) -> None:
    check_inputs({"inputs": declared}, {"x": 1})
    check_inputs({}, {"x": 1})


# Occurrences


@pytest.mark.parametrize(
    ("occurrence", "schema"),
    [
        ({}, {"type": "string"}),
        ({"minOccurs": 1}, {"type": "string"}),
        ({"minOccurs": "1"}, {"type": "string"}),
        ({"minOccurs": None}, {"type": "string"}),
        ({"minOccurs": "some"}, {"type": "string"}),
        ({"minOccurs": 1}, {"type": "string", "default": "a"}),
    ],
)
def test_an_input_is_required_unless_the_description_says_otherwise(
    occurrence: dict[str, Any], schema: Any
) -> None:
    assert reason(process(schema, **occurrence), {}) == "input 'x': is missing, but required"


@pytest.mark.parametrize(
    ("occurrence", "schema"),
    [
        ({"minOccurs": 0}, {"type": "string"}),
        ({"minOccurs": "0"}, {"type": "string"}),
        ({}, {"type": "string", "default": "a"}),
    ],
)
def test_an_optional_input_may_be_left_out(occurrence: dict[str, Any], schema: Any) -> None:
    check_inputs(process(schema, **occurrence), {})


@pytest.mark.parametrize("max_occurs", [3, "3", "unbounded"])
@pytest.mark.parametrize("value", ["a", ["a"], ["a", "b", "c"], [{"value": "a"}, "b"]])
def test_an_input_that_may_occur_often_takes_one_value_or_an_array(
    max_occurs: Any, value: Any
) -> None:
    check_inputs(process({"type": "string"}, maxOccurs=max_occurs), {"x": value})


@pytest.mark.parametrize(
    ("occurrence", "value", "expected"),
    [
        ({"maxOccurs": 2}, ["a", "b", "c"], "3 values are given, but at most 2 are allowed"),
        ({"minOccurs": 2, "maxOccurs": 3}, [""], "1 values are given, but at least 2 are required"),
        ({"minOccurs": 2, "maxOccurs": 3}, "a", "one value is given, but at least 2 are required"),
        ({"minOccurs": 2}, "a", "one value is given, but at least 2 are required"),
        ({"maxOccurs": "unbounded"}, [], "0 values are given, but at least 1 are required"),
        ({"maxOccurs": "unbounded"}, ["a", 5], "[1]: 5 is not of type string"),
        ({"maxOccurs": 2}, [["a"]], '[0]: ["a"] is not of type string'),
        ({"maxOccurs": 1}, ["a"], '["a"] is not of type string'),
        ({"maxOccurs": "many"}, ["a"], '["a"] is not of type string'),
        ({}, ["a"], '["a"] is not of type string'),
    ],
)  # fmt: skip
def test_too_few_or_too_many_values_are_refused(
    occurrence: dict[str, Any], value: Any, expected: str
) -> None:
    message = reason(process({"type": "string"}, **occurrence), {"x": value})
    assert message == f"input 'x': {expected}"


def test_no_value_is_enough_where_none_is_required() -> None:
    check_inputs(process({"type": "string"}, minOccurs=0, maxOccurs="unbounded"), {"x": []})


def test_an_array_is_one_value_of_an_input_that_occurs_once() -> None:
    description = process({"type": "array", "items": {"type": "integer"}, "maxItems": 3})
    check_inputs(description, {"x": [1, 2, 3]})
    assert "has more than 3 items" in reason(description, {"x": [1, 2, 3, 4]})


def test_an_array_is_an_array_of_values_of_an_input_that_may_occur_often() -> None:
    description = process({"type": "array", "items": {"type": "integer"}}, maxOccurs=2)
    check_inputs(description, {"x": [[1, 2, 3], [4]]})
    assert "[0]: 1 is not of type array" in reason(description, {"x": [1, 2]})


# GeoJSON

GEOMETRIES: list[dict[str, Any]] = [
    {"type": "Point", "coordinates": [1, 2]},
    {"type": "Point", "coordinates": [1.5, 2.5, 3.5, 4.5]},
    {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]},
    {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
    {"type": "MultiLineString", "coordinates": [[[1, 2], [3, 4]]]},
    {"type": "Polygon", "coordinates": [SQUARE, SQUARE]},
    {"type": "Polygon", "coordinates": []},
    {"type": "MultiPolygon", "coordinates": [[SQUARE], [SQUARE]]},
    {
        "type": "GeometryCollection",
        "geometries": [
            {"type": "Point", "coordinates": [1, 2]},
            {"type": "GeometryCollection", "geometries": []},
        ],
    },
]
FEATURE = {"type": "Feature", "geometry": GEOMETRIES[0], "properties": {"a": None}, "id": 1}
COLLECTION = {"type": "FeatureCollection", "features": [FEATURE], "bbox": [1, 2, 1, 2]}
FORMAT_URI = "http://www.opengis.net/def/format/ogcapi-processes/0/"


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    "schema",
    [
        {"format": "geojson-geometry"},
        {"type": "object", "format": f"{FORMAT_URI}geojson-geometry"},
        {"$ref": GEOMETRY_YAML},
        {"$ref": "https://geojson.org/schema/Geometry.json"},
        {"$ref": "https://geojson.org/schema/GeoJSON.json"},
        {"allOf": [{"format": "geojson-geometry"}, {"$ref": GEOMETRY_YAML}]},
    ],
)
def test_a_geometry_passes_by_format_or_reference(schema: Any, geometry: Any) -> None:
    check_inputs(process(schema), {"x": geometry})


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_geometry_passes_by_the_schema_of_its_type(geometry: Any) -> None:
    name = geometry["type"]
    for uri in (
        f"http://geojson.org/schema/{name}.json",
        f"https://schemas.opengis.net/any/path/{name.lower()}GeoJSON.yaml",
    ):
        check_inputs(process({"$ref": uri}), {"x": geometry})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("geojson-feature", FEATURE),
        ("geojson-feature", {"type": "Feature", "geometry": None, "properties": None}),
        ("geojson-feature-collection", COLLECTION),
        ("geojson-feature-collection", {"type": "FeatureCollection", "features": []}),
    ],
)
def test_features_pass_by_format(name: str, value: Any) -> None:
    for schema in ({"format": name}, {"format": FORMAT_URI + name}):
        check_inputs(process(schema), {"x": value})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, "5 is not an object"),
        ({}, "an empty object has no member 'type'"),
        ({"type": "Circle"}, "an object with \"type\" has a type other than 'Point'"),
        ({"type": "Feature"}, "an object with \"type\" has a type other than 'Point'"),
        ({"type": "Point"}, "coordinates: is missing"),
        ({"type": "Point", "coordinates": 5}, "coordinates: is not an array"),
        ({"type": "Point", "coordinates": [1]}, "coordinates: has 1 items, fewer than 2"),
        ({"type": "Point", "coordinates": ["1", 2]}, "coordinates[0]: is not a number"),
        ({"type": "Point", "coordinates": [True, 2]}, "coordinates[0]: is not a number"),
        ({"type": "Point", "coordinates": [None, 2]}, "coordinates[0]: is not a number"),
        ({"type": "LineString", "coordinates": [[1, 2]]}, "coordinates: has 1 items, fewer than 2"),
        ({"type": "Polygon", "coordinates": SQUARE}, "coordinates[0][0]: is not an array"),
        (
            {"type": "Polygon", "coordinates": [SQUARE[:3]]},
            "coordinates[0]: has 3 items, fewer than 4",
        ),
        (
            {"type": "Polygon", "coordinates": [SQUARE, [*SQUARE[:3], [0, 1]]]},
            "coordinates[1]: is a ring that is not closed",
        ),
        (
            {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": []}]},
            "geometries[0].coordinates: has 0 items, fewer than 2",
        ),
    ],
)
def test_a_broken_geometry_is_refused_with_the_place(value: Any, expected: str) -> None:
    for schema in ({"format": "geojson-geometry"}, {"$ref": GEOMETRY_YAML}):
        assert reason(process(schema), {"x": value}).startswith(f"input 'x': {expected}")


def test_every_broken_feature_is_named() -> None:
    features = [
        FEATURE,
        {"type": "Feature", "geometry": GEOMETRIES[0]},
        {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [1]}},
    ]
    message = reason(
        process({"format": "geojson-feature-collection"}),
        {"x": {"type": "FeatureCollection", "features": features}},
    )
    assert message == (
        "input 'x': features[1].properties: is missing; "
        "input 'x': features[2].geometry.coordinates: has 1 items, fewer than 2"
    )


def test_a_format_on_text_that_holds_geojson_leaves_the_text_alone() -> None:
    check_inputs(process({"type": "string", "format": "geojson-geometry"}), {"x": "{}"})


# Bounding boxes

WRITTEN_OUT = {
    "type": "object",
    "required": ["bbox"],
    "properties": {
        "bbox": {"type": "array", "items": {"type": "number"}},
        "crs": {"type": "string", "format": "uri"},
    },
}
BBOX_SCHEMAS = [
    {"format": "ogc-bbox"},
    {"type": "object", "format": f"{FORMAT_URI}ogc-bbox"},
    {"$ref": BBOX_YAML},
    {"allOf": [{"format": "ogc-bbox"}, {"$ref": BBOX_YAML}]},
    WRITTEN_OUT,
]


@pytest.mark.parametrize("schema", BBOX_SCHEMAS)
@pytest.mark.parametrize(
    "value",
    [
        {"bbox": [51.9, 7, 52, 7.1], "crs": CRS84},
        {"bbox": [0, 1, 2, 3]},
        {"bbox": [0, 1, 2, 3, 4, 5], "crs": "http://www.opengis.net/def/crs/OGC/0/CRS84h"},
        {"bbox": [7, 51, 8, 52], "crs": "https://www.opengis.net/def/crs/EPSG/0/25832"},
        {"bbox": [1, 1, 1, 1], "crs": "urn:ogc:def:crs:EPSG:6.6:4326"},
        {"bbox": [0, 1, 2, 3], "crs": "urn:ogc:def:crs:EPSG::3857"},
        # across the antimeridian: longitude is the first axis here, the second there
        {"bbox": [170, -10, -170, 10], "crs": CRS84},
        {"bbox": [-10, 170, 10, -170], "crs": "urn:ogc:def:crs:EPSG::4326"},
        {"bbox": [170, -10, 0, -170, 10, 5], "crs": CRS84},
    ],
)
def test_a_bounding_box_passes(schema: Any, value: Any) -> None:
    check_inputs(process(schema), {"x": value})


def test_a_crs_by_authority_and_code_passes_where_the_schema_wants_no_uri() -> None:
    check_inputs(process({"format": "ogc-bbox"}), {"x": {"bbox": [0, 1, 2, 3], "crs": "EPSG:4326"}})


@pytest.mark.parametrize("schema", BBOX_SCHEMAS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"bbox": [0, 1, 2]}, "bbox: is not an array of 4 or 6 numbers"),
        ({"bbox": [0, 1, 2, 3, 4]}, "bbox: is not an array of 4 or 6 numbers"),
        ({"bbox": [0, 3, 2, 1]}, "bbox: has a minimum of 3 above its maximum of 1 on axis 2 of 2"),
        (
            {"bbox": [0, 1, 5, 2, 3, 4]},
            "bbox: has a minimum of 5 above its maximum of 4 on axis 3 of 3",
        ),
        (
            {"bbox": [10, 0, -10, 1], "crs": "urn:ogc:def:crs:EPSG::4326"},
            "bbox: has a minimum of 10 above its maximum of -10 on axis 1 of 2",
        ),
        (
            {"bbox": [0, 1, 2, 3], "crs": "http://www.opengis.net/def/crs/EPSG/0/999999"},
            "crs: 'http://www.opengis.net/def/crs/EPSG/0/999999' is not a CRS that is known here",
        ),
        (
            {"bbox": [0, 1, 2, 3], "crs": "urn:x:y"},
            "crs: 'urn:x:y' is not a CRS that is known here",
        ),
    ],
)
def test_a_broken_bounding_box_is_refused(schema: Any, value: Any, expected: str) -> None:
    assert f"input 'x': {expected}" in reason(process(schema), {"x": value})


@pytest.mark.parametrize(
    "value",
    [
        [0, 1, 2, 3],
        "0,1,2,3",
        {},
        {"bbox": "0,1,2,3"},
        {"bbox": [0, 1, 2, "3"]},
        {"bbox": [0, 1, 2, True]},
        {"bbox": [0, 1, 2, 3], "crs": 4326},
        {"bbox": [0, 1, 2, 3], "crs": None},
        {"bbox": [0, 1, 2, 3], "crs": ""},
    ],
)
def test_what_is_no_bounding_box_is_refused(value: Any) -> None:
    for schema in BBOX_SCHEMAS:
        reason(process(schema), {"x": value})


@pytest.mark.parametrize(
    "crs",
    ["+proj=longlat +nadgrids=/etc/passwd", "+init=epsg:4326", "WGS 84", "x" * 1_000_000, "a:b\n"],
)
def test_a_crs_is_a_name_and_never_a_definition(crs: str) -> None:
    message = reason(process({"format": "ogc-bbox"}), {"x": {"bbox": [0, 1, 2, 3], "crs": crs}})
    assert "is not a CRS that is known here" in message
    assert len(message) < 500


def test_a_schema_may_limit_the_crs() -> None:
    crs = {"type": "string", "enum": [CRS84]}
    limited = {"allOf": [{"format": "ogc-bbox"}, {"properties": {"crs": crs}}]}
    check_inputs(process(limited), {"x": {"bbox": [0, 1, 2, 3], "crs": CRS84}})
    message = reason(process(limited), {"x": {"bbox": [0, 1, 2, 3], "crs": "EPSG:4326"}})
    assert message == f'input \'x\': crs: "EPSG:4326" is not one of "{CRS84}"'


# Media types, encodings, links

MIXED = {
    "oneOf": [
        {"type": "string", "contentMediaType": "text/csv", "maxLength": 5},
        {"type": "object", "contentMediaType": "application/geo+json", "required": ["features"]},
        TIFF,
    ]
}


@pytest.mark.parametrize(
    "value",
    [
        {"value": "a,b", "mediaType": "text/csv"},
        {"value": "a,b", "mediaType": "text/csv; charset=utf-8; header=present"},
        {"value": "a,b", "format": {"mediaType": "text/csv"}},
        {"value": {"features": []}, "mediaType": "Application/Geo+JSON"},
        {"value": '{"features": []}', "mediaType": "application/geo+json"},
        {"value": "AAAA", "mediaType": "image/tiff; application=geotiff"},
        {"value": "AAAA", "mediaType": "image/tiff", "encoding": "base64"},
        {"href": "https://example.org/x.tif", "type": "image/tiff; application=geotiff"},
        {"href": "https://example.org/x.tif"},
        "a,b",
    ],
)
def test_a_media_type_that_the_description_states_passes(value: Any) -> None:
    check_inputs(process(MIXED), {"x": value})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            {"value": "AAAA", "mediaType": "image/png"},
            'media type "image/png" is not one of application/geo+json, image/tiff, text/csv',
        ),
        (
            {"href": "https://example.org/x", "type": "image/png"},
            'media type "image/png" is not one of application/geo+json, image/tiff, text/csv',
        ),
        # the media type picks the alternative that explains what is wrong
        (
            {"value": "a,b,c,d", "mediaType": "text/csv"},
            '"a,b,c,d" is longer than 5 characters',
        ),
        (
            {"value": {}, "mediaType": "application/geo+json"},
            "'features' is a required property",
        ),
        (
            {"value": '{"type": 1}', "mediaType": "application/geo+json"},
            "'features' is a required property",
        ),
        (
            {"value": "e30=", "mediaType": "application/geo+json", "encoding": "base64"},
            "'features' is a required property",
        ),
        (
            {"value": "a,b", "mediaType": "image/tiff"},
            '"a,b" is not base64: only base64 data is allowed',
        ),
    ],
)  # fmt: skip
def test_a_value_is_held_against_the_alternative_of_its_media_type(
    value: Any, expected: str
) -> None:
    assert reason(process(MIXED), {"x": value}) == f"input 'x': {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "the content is not JSON"),
        ('{"features": NaN}', "the content is not JSON"),
        ("[" * 100_000, "the content is not JSON"),
        ("[" * 100 + "]" * 100, "is nested more than 64 levels deep"),
    ],
)
def test_json_given_as_text_must_be_json(text: str, expected: str) -> None:
    value = {"value": text, "mediaType": "application/geo+json"}
    assert expected in reason(process(MIXED), {"x": value})


def test_text_that_is_wanted_as_text_may_be_json_or_not() -> None:
    schema = {"type": "string", "contentMediaType": "application/json"}
    check_inputs(process(schema), {"x": {"value": "{", "mediaType": "application/json"}})


@pytest.mark.parametrize("media_type", ["image/png", "image/*", "*/*"])
def test_a_description_may_state_a_range_of_media_types(media_type: str) -> None:
    schema = {"type": "string", "contentMediaType": media_type}
    check_inputs(process(schema), {"x": {"value": "a", "mediaType": "image/png"}})


def test_any_media_type_passes_where_the_description_states_none() -> None:
    check_inputs(process({"type": "string"}), {"x": {"value": "a", "mediaType": "image/png"}})


BINARY = [
    TIFF,
    {"type": "string", "contentEncoding": "binary"},
    {"type": "string", "format": "byte"},
    {"type": "string", "format": "binary"},
    {"contentEncoding": "base64"},
]


@pytest.mark.parametrize("schema", BINARY)
@pytest.mark.parametrize("value", ["", "AAAA", "AAA=", "AA==", "AA\r\nAA AA\t==\n", "+/+/"])
def test_base64_passes_with_blanks_and_line_breaks(schema: Any, value: str) -> None:
    check_inputs(process(schema), {"x": value})


@pytest.mark.parametrize("schema", BINARY)
@pytest.mark.parametrize(
    "value", ["A", "AAA", "AA=A", "====", "AAAA=", "-_-_", "AAäA", "data:image/tiff;base64,AAAA"]
)
def test_what_is_not_base64_is_refused(schema: Any, value: str) -> None:
    assert "is not base64: " in reason(process(schema), {"x": value})


@pytest.mark.parametrize("schema", BINARY)
@pytest.mark.parametrize("value", [{"a": 1}, [1, 2], 5, True])
def test_json_in_the_place_of_binary_content_is_refused(schema: Any, value: Any) -> None:
    assert "is JSON, where base64 text is expected" in reason(process(schema), {"x": value})


@pytest.mark.parametrize("value", [{"a": 1}, 5, None])
def test_json_that_is_said_to_be_base64_is_refused(value: Any) -> None:
    message = reason(process({}), {"x": {"value": value, "encoding": "base64"}})
    assert "is JSON, but its encoding is said to be base64" in message


def test_an_encoding_is_checked_whatever_the_schema_says() -> None:
    message = reason(process({}), {"x": {"value": "!", "encoding": "Base64"}})
    assert message == "input 'x': \"!\" is not base64: only base64 data is allowed"


@pytest.mark.parametrize(
    "href", ["ftp://example.org/x", "file:///etc/passwd", "x.tif", "", "http://u:p@example.org/"]
)
@pytest.mark.parametrize("max_occurs", [1, 2])
def test_links_other_than_http_are_refused(href: str, max_occurs: int) -> None:
    link = {"href": href}
    message = reason(
        process({}, maxOccurs=max_occurs), {"x": link if max_occurs == 1 else [link, link]}
    )
    assert "href" in message


def test_an_object_that_merely_has_a_member_value_or_href_is_checked_as_it_is() -> None:
    description = process({"type": "object", "required": ["size"]})
    check_inputs(description, {"x": {"href": "x", "size": 1}})
    check_inputs(description, {"x": {"value": "x", "size": 1}})


# What is no JSON, and what is too much of it


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_refused(value: float) -> None:
    for given in (value, [value], {"a": [{"b": value}]}, {"value": value}):
        message = reason(process(None), {"x": given})
        assert message == f"input 'x': holds {json.dumps(value)}, which JSON has no number for"


def test_text_that_cannot_be_stored_is_refused() -> None:
    for given in ("\ud800", ["\ud800"], {"\ud800": 1}):
        assert "surrogate" in reason(process(None), {"x": given})


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [65, 1000, 50_000])
def test_json_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    for schema in (None, {"type": "array"}, {"type": "array", "items": {"$ref": "#"}}):
        message = reason(process(schema), {"x": nested(depth)})
        assert message == "input 'x': is nested more than 64 levels deep"


def test_json_nested_as_deep_as_allowed_passes_a_schema_that_refers_to_itself() -> None:
    check_inputs(process({"type": "array", "items": {"$ref": "#"}}), {"x": nested(60)})


MEGABYTES_20 = base64.b64encode(bytes(15_000_000)).decode()


@pytest.mark.parametrize(
    ("schema", "value", "is_valid"),
    [
        ({"type": "string"}, MEGABYTES_20, True),
        (TIFF, MEGABYTES_20, True),
        (TIFF, MEGABYTES_20[:-1] + "!", False),
        (TIFF, {"value": MEGABYTES_20, "mediaType": "image/tiff", "encoding": "base64"}, True),
        (MIXED, {"value": MEGABYTES_20, "mediaType": "image/tiff"}, True),
        ({"type": "string", "format": "uri"}, MEGABYTES_20, False),
        ({"type": "string", "enum": ["a"]}, MEGABYTES_20, False),
        ({"type": "array", "items": {"type": "number", "minimum": 0}}, [1.5] * 500_000, True),
        ({"type": "array", "items": {"type": "string"}}, [1] * 500_000, False),
    ],
)
def test_large_values_are_checked_fast(schema: Any, value: Any, is_valid: bool) -> None:
    started = time.thread_time()
    if is_valid:
        check_inputs(process(schema), {"x": value})
    else:
        reason(process(schema), {"x": value})
    # far above what it takes (up to 0.2 s), far below what a check that is not linear takes
    assert time.thread_time() - started < 10


def test_a_large_feature_collection_is_checked_fast() -> None:
    ring = [[n / 7, n / 3] for n in range(5000)]
    polygon = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    feature = {"type": "Feature", "geometry": polygon, "properties": None}
    started = time.thread_time()
    check_inputs(
        process({"oneOf": [{"type": "string"}, {"format": "geojson-feature-collection"}]}),
        {"x": {"type": "FeatureCollection", "features": [feature] * 50}},
    )
    assert time.thread_time() - started < 15
