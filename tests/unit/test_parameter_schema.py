"""Parameters of flows become inputs as the standard describes them."""

import datetime as dt
import enum
import inspect
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect.filesystems import LocalFileSystem
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel, Field, SecretStr

from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.input_checks import check_inputs
from pygeoapi_prefect.parameter_schema import MAX_SCHEMAS, inputs_of_parameters
from pygeoapi_prefect.schemas import ProcessDescription
from tests.acceptance.ogc import violations


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    kind: Literal["point"] = "point"
    x: Annotated[int, Field(gt=0, le=10)]


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"
    centre: Point
    radius: Annotated[float, Field(ge=0)] = 1.0


class Tree(BaseModel):
    """A tree."""

    name: str
    children: list["Tree"] = []


Shape = Annotated[Point | Circle, Field(discriminator="kind")]
FILES = LocalFileSystem(basepath="/srv/secret")
PASSWORD = SecretStr("hidden")


def flow_with_all(  # type: ignore[no-untyped-def]
    number: int,
    text: str | None = None,
    colour: Colour = Colour.RED,
    pair: tuple[int, str] = (1, "a"),
    triple: tuple[int, int, int] = (1, 2, 3),
    shape: Shape | None = None,
    tree: Tree | None = None,
    time: dt.datetime | None = None,
    password: SecretStr = PASSWORD,
    maybe_password: SecretStr | None = PASSWORD,
    raw: bytes = b"x",
    counts: dict[str, int] = {},  # noqa: B006
    anything: Any = None,
    path: Path = Path("."),
    union: int | list[float] = 3,
    distinct: set[int] = set(),  # noqa: B006
    one: Literal[1] = 1,
    some: Literal["a", None] = None,
    nothing: None = None,
    unsaid=5,  # noqa: ANN001
    files: LocalFileSystem = FILES,
    pygeoapi_job_id: str = "",
    *,
    flag: bool = True,
) -> None:
    """Do all.

    Args:
        number: How many.
        colour: Which one.
    """


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    schema = parameter_schema(flow_with_all).model_dump_for_openapi()
    return inputs_of_parameters(schema, preset=(), filled_in=["pygeoapi_job_id"])


def assert_valid(inputs: dict[str, Any]) -> None:
    """Fail where inputs are not as the standard has them, before or after our own models."""
    description = ProcessDescription.model_validate({"version": "1", "inputs": inputs})
    kept = description.model_dump(mode="json", by_alias=True, exclude_none=True)["inputs"]
    for one in (*inputs.values(), *kept.values()):
        assert violations(one, "inputDescription") == []


def test_inputs_are_valid_by_the_schemas_of_the_standard(inputs: dict[str, Any]) -> None:
    assert_valid(inputs)
    assert violations({"title": "a", "schema": {"position": 1}}, "inputDescription") != []


def test_inputs_have_the_order_names_and_texts_of_the_parameters(inputs: dict[str, Any]) -> None:
    parameters = [*inspect.signature(flow_with_all).parameters]
    assert list(inputs) == [name for name in parameters if name != "pygeoapi_job_id"]
    assert (inputs["number"]["title"], inputs["number"]["description"]) == ("number", "How many.")
    assert inputs["colour"]["description"] == "Which one."
    assert inputs["tree"]["description"] == "A tree."


def test_only_what_has_no_default_must_be_given(inputs: dict[str, Any]) -> None:
    assert [name for name, one in inputs.items() if one["minOccurs"]] == ["number"]


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("number", {"type": "integer"}),
        ("text", {"type": "string", "nullable": True}),
        ("colour", {"type": "string", "enum": ["red", "blue"], "default": "red"}),
        (
            "pair",
            {
                "type": "array",
                "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                "minItems": 2,
                "maxItems": 2,
                "default": [1, "a"],
            },
        ),
        (
            "triple",
            {
                "type": "array",
                "items": {"type": "integer"},
                "minItems": 3,
                "maxItems": 3,
                "default": [1, 2, 3],
            },
        ),
        ("time", {"type": "string", "format": "date-time", "nullable": True}),
        ("password", {"type": "string", "format": "password", "writeOnly": True}),
        (
            "maybe_password",
            {"type": "string", "format": "password", "writeOnly": True, "nullable": True},
        ),
        ("raw", {"type": "string", "default": "x"}),
        (
            "counts",
            {"type": "object", "additionalProperties": {"type": "integer"}, "default": {}},
        ),
        ("anything", {}),
        (
            "union",
            {
                "anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "number"}}],
                "default": 3,
            },
        ),
        (
            "distinct",
            {"type": "array", "uniqueItems": True, "items": {"type": "integer"}, "default": []},
        ),
        ("one", {"type": "integer", "enum": [1], "default": 1}),
        ("some", {"enum": ["a"], "nullable": True}),
        ("nothing", {"nullable": True}),
        ("unsaid", {"default": 5}),
        ("flag", {"type": "boolean", "default": True}),
    ],
)
def test_schemas_say_the_same_in_other_words(
    inputs: dict[str, Any], name: str, schema: dict[str, Any]
) -> None:
    assert inputs[name]["schema"] == schema


def test_definitions_stand_where_they_are_referred_to(inputs: dict[str, Any]) -> None:
    point, circle = inputs["shape"]["schema"]["anyOf"]
    assert point["properties"]["x"] == {
        "title": "X",
        "type": "integer",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 10,
    }
    assert circle["properties"]["centre"]["properties"] == point["properties"]
    assert circle["required"] == ["centre"]


def test_a_model_that_is_part_of_itself_ends(inputs: dict[str, Any]) -> None:
    children = inputs["tree"]["schema"]["properties"]["children"]
    assert children["items"] == {"type": "object"}


def test_the_default_of_a_block_is_not_shown(inputs: dict[str, Any]) -> None:
    assert inputs["files"]["schema"]["type"] == "object"
    assert "/srv/secret" not in json.dumps(inputs)


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"number": 1}, False),
        ({"number": "1"}, True),
        ({}, True),
        ({"number": 1, "text": None}, False),
        ({"number": 1, "colour": "green"}, True),
        ({"number": 1, "some": None}, False),
        ({"number": 1, "pair": [1, "a"]}, False),
        ({"number": 1, "pair": [1]}, True),
        ({"number": 1, "shape": {"kind": "circle", "centre": {"x": 1}}}, False),
        ({"number": 1, "shape": {"kind": "circle", "centre": {"x": 0}}}, True),
        ({"number": 1, "raw": "no base64!"}, False),
        ({"number": 1, "tree": {"name": "a", "children": [{"name": "b"}]}}, False),
    ],
)
def test_clients_are_held_to_it(
    inputs: dict[str, Any], given: dict[str, Any], refused: bool
) -> None:
    with pytest.raises(InvalidRequest) if refused else nullcontext():
        check_inputs({"id": "p", "inputs": inputs}, given)


def schema_of(parameter: Any, **more: Any) -> dict[str, Any]:
    schema = {"properties": {"a": parameter}, **more}
    schema_: dict[str, Any] = inputs_of_parameters(schema, (), ())["a"]["schema"]
    return schema_


@pytest.mark.parametrize(
    ("parameter", "translated"),
    [
        (True, {}),
        ({"not": {"type": "string"}}, {}),
        ({"type": ["integer", "string"]}, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ({"type": ["integer", "null"]}, {"type": "integer", "nullable": True}),
        ({"minimum": 1, "exclusiveMinimum": 0}, {"minimum": 1}),
        ({"minimum": 1, "exclusiveMinimum": True}, {"minimum": 1, "exclusiveMinimum": True}),
        (
            # members whose names have the pattern would be refused
            {"type": "object", "patternProperties": {"^x": {}}, "additionalProperties": False},
            {"type": "object"},
        ),
        ({"allOf": [{"$ref": "#/$defs/Named"}], "default": "b"}, {"enum": ["b"], "default": "b"}),
        ({"$ref": "https://example.org/schema.json"}, {}),
        ({"examples": ["x", "y"]}, {"example": "x"}),
        ({"prefixItems": [{"type": "integer"}]}, {"items": {"anyOf": [{"type": "integer"}, {}]}}),
        ({"pattern": "("}, {}),
        ({"contentSchema": {"type": "object"}, "if": {}, "propertyNames": {}}, {}),
    ],
)
def test_what_cannot_be_said_admits_more(parameter: Any, translated: dict[str, Any]) -> None:
    assert schema_of(parameter, **{"$defs": {"Named": {"const": "b"}}}) == translated


def test_values_that_the_deployment_has_need_not_be_given_and_are_not_shown() -> None:
    schema = {"properties": {"a": {"type": "string"}}, "required": ["a"]}
    assert inputs_of_parameters(schema, preset=["a"], filled_in=()) == {
        "a": {"title": "a", "schema": {"type": "string"}, "minOccurs": 0, "maxOccurs": 1}
    }


def test_definitions_that_multiply_are_cut_off() -> None:
    definitions = {
        f"D{level}": {
            "properties": {name: {"$ref": f"#/definitions/D{level + 1}"} for name in "abcdefghij"}
        }
        for level in range(12)
    }
    translated = schema_of({"$ref": "#/definitions/D0"}, definitions=definitions)
    assert json.dumps(translated).count("properties") <= MAX_SCHEMAS


@pytest.mark.parametrize("schema", [{}, {"properties": None}, {"properties": [], "required": 1}])
def test_a_deployment_without_parameters_has_no_inputs(schema: dict[str, Any]) -> None:
    assert inputs_of_parameters(schema, (), ()) == {}


KEYWORDS = [
    *("type", "$ref", "anyOf", "oneOf", "allOf", "items", "prefixItems", "properties", "required"),
    *("enum", "const", "default", "title", "description", "position", "format", "pattern"),
    *("minimum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "maxItems", "minLength"),
    *("additionalProperties", "patternProperties", "examples", "nullable", "uniqueItems", "not"),
]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYWORDS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=15,
)


@settings(
    max_examples=150,
    deadline=None,
    # the same ones each time: what is wrong shows at once, and not now and then
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(parameter=anything, definition=anything)
def test_whatever_stands_there_the_description_is_valid(parameter: Any, definition: Any) -> None:
    schema = {
        "properties": {"a": parameter, "b": {"$ref": "#/definitions/D"}},
        "definitions": {"D": definition},
    }
    assert_valid(inputs_of_parameters(schema, (), ()))
