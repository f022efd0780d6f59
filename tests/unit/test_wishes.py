"""What clients want of outputs: held against descriptions, kept, and held against outputs."""

import json
import math
from typing import Any

import pytest

from pygeoapi_prefect.errors import InvalidRequest, OutputsNotProduced, StorageError
from pygeoapi_prefect.schemas import ExecutionOutput, ProcessOutputTransmissionMode
from pygeoapi_prefect.wishes import REQUEST_MEMBER, Wishes, by_reference, check_outputs

BY_VALUE = ExecutionOutput()
BY_REFERENCE = ExecutionOutput(transmission_mode=ProcessOutputTransmissionMode.REFERENCE)

OUTPUTS: dict[str, Any] = {
    "id": "p",
    "outputTransmission": ["value", "reference"],
    "outputs": {
        "statistics": {"schema": {"type": "object", "contentMediaType": "application/geo+json"}},
        "map": {
            "schema": {
                "oneOf": [
                    {"type": "string", "contentMediaType": "image/png"},
                    {"type": "string", "contentMediaType": "image/svg+xml"},
                ]
            }
        },
        "count": {"schema": {"type": "integer"}},
    },
}


@pytest.mark.parametrize("outputs", [None, {}, []])
def test_all_outputs_are_wanted_where_none_is_named(outputs: Any) -> None:
    wishes = check_outputs(OUTPUTS, outputs)

    assert wishes.outputs == dict.fromkeys(OUTPUTS["outputs"], BY_VALUE)
    assert not wishes.are_named


@pytest.mark.parametrize("outputs", [["map", "count"], {"map": None, "count": {}}])
def test_outputs_may_be_named_in_an_array_or_an_object(outputs: Any) -> None:
    wishes = check_outputs(OUTPUTS, outputs)

    assert wishes.outputs == {"map": BY_VALUE, "count": BY_VALUE}
    assert wishes.are_named


def test_transmission_mode_and_format_of_an_output_are_kept() -> None:
    wanted = {
        "transmissionMode": "reference",
        "format": {"mediaType": "image/svg+xml; charset=utf-8", "encoding": "base64"},
    }

    wishes = check_outputs(OUTPUTS, {"map": wanted})

    assert wishes.for_request()["outputs"] == {"map": wanted}


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (["statistic"], "unknown output 'statistic' (did you mean 'statistics'?)"),
        ({"x": {}}, "unknown output 'x' (known: statistics, map, count)"),
        ("map", "outputs: must be an object by output id, or an array of output ids"),
        (5, "outputs: must be an object by output id, or an array of output ids"),
        (["map", 5], "outputs: 5 is not an output id"),
        ([["map"]], 'outputs: ["map"] is not an output id'),
        (
            {"map": "value"},
            "output 'map': \"value\" is not an object with 'transmissionMode' and 'format'",
        ),
        (
            {"map": {"transmissionMode": "post"}},
            "output 'map': transmissionMode \"post\" is not one of value, reference",
        ),
        (
            {"map": {"transmissionMode": ["value"]}},
            "output 'map': transmissionMode [\"value\"] is not one of value, reference",
        ),
        (
            {"map": {"format": {"mediaType": "image/jpeg"}}},
            "output 'map': media type \"image/jpeg\" is not one of image/png, image/svg+xml",
        ),
        (
            {"map": {"format": "image/png"}},
            "output 'map': format \"image/png\" is not an object with 'mediaType'",
        ),
        ({"map": {"format": {"mediaType": 5}}}, "output 'map': format.mediaType 5 is not a string"),
        (
            {"map": {"format": {"encoding": []}}},
            "output 'map': format.encoding an empty array is not a string",
        ),
        (
            {"map": {"format": {"schema": {"maximum": math.inf}}}},
            "output 'map': holds Infinity, which JSON has no number for",
        ),
        (
            {"map": {"format": {"schema": "\ud800"}}},
            "output 'map': holds half of a surrogate pair, which is no text",
        ),
        (
            {"map": {"format": {"schema": 5}}},
            "output 'map': format.schema is neither a URL nor a schema",
        ),
        (
            {"x": {}, "count": 5},
            "unknown output 'x' (known: statistics, map, count); "
            "output 'count': 5 is not an object with 'transmissionMode' and 'format'",
        ),
    ],
)
def test_outputs_that_cannot_be_had_are_refused(outputs: Any, expected: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check_outputs(OUTPUTS, outputs)
    assert refusal.value.detail == expected


def test_a_mode_that_the_process_does_not_offer_is_refused() -> None:
    description = {**OUTPUTS, "outputTransmission": ["value"]}
    with pytest.raises(InvalidRequest, match='"reference" is not one of value'):
        check_outputs(description, {"map": {"transmissionMode": "reference"}})


def test_outputs_go_by_reference_where_the_process_offers_nothing_else() -> None:
    description = {**OUTPUTS, "outputTransmission": ["reference"]}

    asked: list[Any] = [None, ["map"], {"map": {}}]
    for outputs in asked:
        kept = json.loads(json.dumps(check_outputs(description, outputs).for_request()))
        wanted = Wishes.of_request({"outputs": outputs, REQUEST_MEMBER: kept}).of(
            {"map": "image/png", "statistics": "application/geo+json", "count": "application/json"}
        )
        assert wanted["map"].transmission_mode is ProcessOutputTransmissionMode.REFERENCE
    # also one that the description does not know
    wishes = check_outputs(description, None)
    assert wishes.of({"more": "text/plain"})["more"] == BY_REFERENCE


def output_of(schema: Any) -> dict[str, Any]:
    return {"id": "p", "outputs": {"x": {"schema": schema}}}


PNG = {"type": "string", "contentEncoding": "binary", "contentMediaType": "image/png"}
FEATURES = {"allOf": [{"format": "geojson-feature-collection"}, {"type": "object"}]}
GML = {"type": "string", "contentMediaType": "application/gml+xml; version=3.2"}


@pytest.mark.parametrize(
    ("schema", "media_type"),
    [
        (PNG, "image/png"),
        (PNG, "Image/PNG; q=1"),
        ({"contentMediaType": "image/*"}, "image/tiff"),
        ({"type": "integer"}, "application/json"),
        ({"type": "string"}, "text/plain; charset=utf-8"),
        ({}, "application/json"),
        ({"oneOf": [PNG, FEATURES]}, "image/png"),
        ({"oneOf": [GML, FEATURES]}, "application/geo+json"),
        ({"oneOf": [GML, FEATURES]}, "application/json"),
        ({"allOf": [{"type": "string"}, PNG]}, "image/png"),
        ({"type": "string", "format": "byte"}, "image/tiff"),
        ({"type": "string", "format": "binary"}, "application/zip"),
        ({"type": "string", "contentMediaType": "no media type"}, "text/plain"),
        (None, "image/tiff"),
        ({"format": [], "oneOf": 5, "contentEncoding": {}}, "application/json"),
    ],
)
def test_a_media_type_that_an_output_can_have_may_be_asked_for(
    schema: Any, media_type: str
) -> None:
    wishes = check_outputs(output_of(schema), {"x": {"format": {"mediaType": media_type}}})

    assert wishes.problem({"x": media_type.partition(";")[0].lower()}) is None


@pytest.mark.parametrize(
    ("schema", "wanted", "reason"),
    [
        ({"type": "object"}, {"mediaType": "image/png"}, "is not one of application/json"),
        ({"type": "integer"}, {"mediaType": "text/plain"}, "is not one of application/json"),
        ({"type": "string"}, {"mediaType": "text/csv"}, "is not one of text/plain"),
        (PNG, {"mediaType": "image/*"}, "is not one of image/png"),
        ({"oneOf": [GML, PNG]}, {"mediaType": "text/plain"}, "application/gml+xml, image/png"),
        ({"allOf": [{"type": "string"}, PNG]}, {"mediaType": "text/plain"}, "of image/png"),
        (PNG, {"mediaType": "png"}, 'format.mediaType "png" is not a media type'),
        (None, {"mediaType": "a/b\r\nX-Evil: 1"}, "is not a media type"),
        (PNG, {"encoding": "rot13"}, 'format.encoding "rot13" is not base64'),
        (PNG, {"schema": {"type": "object"}}, "not the one that the description states"),
        (PNG, {"schema": "https://example.org/x.xsd"}, "not the one that the description states"),
    ],
)
def test_a_format_that_an_output_cannot_have_is_refused(
    schema: Any, wanted: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=r"^output 'x': ") as refusal:
        check_outputs(output_of(schema), {"x": {"format": wanted}})

    assert reason in refusal.value.detail


@pytest.mark.parametrize(
    "wanted", [PNG, "https://geojson.org/schema/Feature.json", "https://example.org/x.xsd"]
)
def test_a_schema_that_the_description_states_may_be_asked_for(wanted: Any) -> None:
    described = {
        "oneOf": [
            PNG,
            {"$ref": "https://geojson.org/schema/Feature.json"},
            {"type": "string", "contentSchema": "https://example.org/x.xsd"},
        ]
    }

    check_outputs(output_of(described), {"x": {"format": {"schema": wanted}}})


@pytest.mark.parametrize("declared", [None, []])
def test_outputs_of_a_process_that_declares_none_properly_are_taken_as_asked(declared: Any) -> None:
    assert check_outputs({"outputs": declared}, ["x"]).outputs == {"x": BY_VALUE}
    assert check_outputs({"outputs": declared}, None).outputs == {}


MADE = {"a": "text/plain", "b": "image/png"}


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [
        ({"a": {}, "b": {}}, None),
        ({"a": {"format": {"mediaType": "Text/Plain; charset=utf-8"}}}, None),
        ({"c": {}}, "the process made no output 'c', which was asked for"),
        ({"a": {}, "c": {}, "d": {}}, "the process made no output 'c', 'd', which were asked for"),
        (
            {"b": {"format": {"mediaType": "image/tiff"}}},
            "output 'b' is image/png; image/tiff was asked for",
        ),
    ],
)
def test_what_was_asked_for_has_to_be_there(outputs: Any, problem: str | None) -> None:
    wishes = Wishes.of_request({"outputs": outputs})

    assert wishes.problem(MADE) == problem
    if problem is None:
        assert wishes.of(MADE).keys() == outputs.keys()
    else:
        with pytest.raises(OutputsNotProduced, match=problem):
            wishes.of(MADE)


def test_who_names_no_outputs_has_no_claim_to_each_and_is_told_of_all() -> None:
    wishes = check_outputs(OUTPUTS, None)

    assert wishes.of({"map": "image/png"}).keys() == OUTPUTS["outputs"].keys()
    assert wishes.missing({"map": "image/png"}) == ["statistics", "count"]


@pytest.mark.parametrize(
    "request_members",
    [{"outputs": 5}, {"outputs": {"a": 5}}, {REQUEST_MEMBER: {}}, {REQUEST_MEMBER: "all"}],
)
def test_damaged_wishes_are_told_from_others(request_members: dict[str, Any]) -> None:
    with pytest.raises(StorageError, match="wants outputs in no known way"):
        Wishes.of_request(request_members)


@pytest.mark.parametrize(
    ("request_members", "outputs"),
    [
        ({}, {"a": BY_VALUE, "b": BY_VALUE}),
        ({"outputs": None}, {"a": BY_VALUE, "b": BY_VALUE}),
        ({"outputs": {}}, {"a": BY_VALUE, "b": BY_VALUE}),
        ({"outputs": ["b"]}, {"b": BY_VALUE}),
        ({"outputs": {"b": None}}, {"b": BY_VALUE}),
        ({"outputs": {"b": {"transmissionMode": "reference"}}}, {"b": BY_REFERENCE}),
    ],
)
def test_requests_without_kept_wishes_say_themselves_what_they_want(
    request_members: dict[str, Any], outputs: dict[str, ExecutionOutput]
) -> None:
    wishes = Wishes.of_request(request_members)

    assert wishes.of({"a": "text/plain", "b": "text/plain"}) == outputs


@pytest.mark.parametrize(
    ("wish", "mode"),
    [
        ({}, ProcessOutputTransmissionMode.REFERENCE),
        ({"format": {"mediaType": "text/csv"}}, ProcessOutputTransmissionMode.REFERENCE),
        ({"transmissionMode": "value"}, ProcessOutputTransmissionMode.VALUE),
        ({"transmissionMode": "reference"}, ProcessOutputTransmissionMode.REFERENCE),
    ],
)
def test_outputs_go_by_reference_unless_they_are_wanted_by_value(
    wish: dict[str, Any], mode: ProcessOutputTransmissionMode
) -> None:
    changed = by_reference({"a": ExecutionOutput.model_validate(wish)})["a"]

    assert changed.transmission_mode is mode
    assert changed.format_ == ExecutionOutput.model_validate(wish).format_
