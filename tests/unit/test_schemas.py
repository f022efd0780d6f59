"""The OGC models as authors write and flows read them."""

import json
from typing import Any

import pydantic
import pytest
from pygeoapi.util import JobStatus as PygeoapiJobStatus

import pygeoapi_prefect
from pygeoapi_prefect import schemas
from pygeoapi_prefect.schemas import (
    ExecuteRequest,
    ExecutionDocumentResult,
    ExecutionInputBBox,
    ExecutionInputValueNoObject,
    ExecutionInputValueNoObjectArray,
    ExecutionQualifiedInputValue,
    JobStatusInfoInternal,
    Link,
    OutputExecutionResultInternal,
    ProcessDescription,
    ProcessInput,
    ProcessIOSchema,
    ProcessIOType,
    ProcessJobControlOption,
    ProcessOutput,
    ProcessOutputTransmissionMode,
    ProcessResponseType,
)

FIXED_NAMES = [
    "Link",
    "ProcessInput",
    "ProcessOutput",
    "ProcessIOSchema",
    "ProcessIOType",
    "ProcessIOFormat",
    "ProcessDescription",
    "ProcessSummary",
    "ProcessMetadata",
    "Parameter",
    "AdditionalProcessIOParameters",
    "ProcessJobControlOption",
    "ProcessOutputTransmissionMode",
    "ProcessResponseType",
    "ProcessExecutionMode",
    "RequestedProcessExecutionMode",
    "ExecutionFormat",
    "ExecutionOutput",
    "ExecutionSubscriber",
    "ExecutionInputBBox",
    "ExecutionInputValueNoObject",
    "ExecutionInputValueNoObjectArray",
    "ExecutionQualifiedInputValue",
    "ExecuteRequest",
    "OutputExecutionResultInternal",
    "ExecutionDocumentResult",
    "ExecutionDocumentSingleOutput",
    "JobStatus",
    "JobStatusInfoBase",
    "JobStatusInfoInternal",
]


@pytest.mark.parametrize("name", FIXED_NAMES)
def test_a_name_that_processors_import_is_there(name: str) -> None:
    assert isinstance(getattr(schemas, name), type)


@pytest.mark.parametrize("name", pygeoapi_prefect.__all__)
def test_each_public_name_of_the_package_can_be_loaded(name: str) -> None:
    assert getattr(pygeoapi_prefect, name)


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'PrefectManger'"):
        getattr(pygeoapi_prefect, "PrefectManger")  # noqa: B009


def description(**members: Any) -> ProcessDescription:
    return ProcessDescription.model_validate({"id": "p", "version": "1", **members})


def test_fields_are_given_by_alias_or_by_python_name() -> None:
    by_alias = description(
        jobControlOptions=["sync-execute"],
        outputTransmission=["reference"],
        inputs={"a": {"schema": {"type": "string", "minLength": 2}, "minOccurs": 0}},
    )
    by_name = description(
        job_control_options=[ProcessJobControlOption.SYNC_EXECUTE],
        output_transmission=[ProcessOutputTransmissionMode.REFERENCE],
        inputs={
            "a": ProcessInput(
                schema_=ProcessIOSchema(type_=ProcessIOType.STRING, min_length=2), min_occurs=0
            )
        },
    )

    assert by_alias == by_name
    dumped = by_name.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert dumped["jobControlOptions"] == ["sync-execute"]
    assert dumped["inputs"]["a"]["schema"] == {"type": "string", "minLength": 2}
    assert dumped["inputs"]["a"]["minOccurs"] == 0


def test_unknown_keywords_are_ignored() -> None:
    assert description(colour="green", inputs={"a": {"schema": {}, "nice": True}}) == description(
        inputs={"a": {"schema": {}}}
    )


def test_a_schema_keeps_what_the_standard_does_not_name() -> None:
    schema = ProcessIOSchema.model_validate({"$ref": "http://x/y", "x-unit": "m", "type": "number"})

    assert schema.model_dump(mode="json", by_alias=True, exclude_none=True) == {
        "$ref": "http://x/y",
        "x-unit": "m",
        "type": "number",
    }


def test_two_descriptions_share_nothing() -> None:
    description().outputs["a"] = ProcessOutput(schema_=ProcessIOSchema())

    assert description().outputs == {}


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (ExecutionInputValueNoObject, "text"),
        (ExecutionInputValueNoObject, 1.5),
        (ExecutionInputValueNoObject, {"a": 1}),
        (ExecutionInputValueNoObjectArray, [1, "a", None]),
    ],
)
def test_root_models_answer_to_both_names_of_their_root(
    model: type[pydantic.RootModel[Any]], value: object
) -> None:
    for made in (model(value), model(root=value), model(__root__=value)):
        assert made.root == value
        assert getattr(made, "__root__") == value  # noqa: B009
        assert made.model_dump() == value


def request(**inputs: Any) -> ExecuteRequest:
    return ExecuteRequest.model_validate({"inputs": inputs})


FEATURE = {
    "type": "Feature",
    "bbox": [1, 2, 3, 4],
    "value": 3,
    "href": "http://example.org/f",
    "geometry": {"type": "Point", "coordinates": [1.0, 2]},
    "properties": {"mediaType": "x", "value": [], "1": None},
}


@pytest.mark.parametrize(
    "value",
    [
        "text",
        "",
        "http://example.org/looks-like-a-link",
        0,
        -1.5,
        True,
        False,
        None,
        {},
        {"a": {"b": [1, {"c": None}]}},
        FEATURE,
        {"value": 1, "unit": "m"},
        {"href": "http://x", "note": "mine"},
        {"href": 5},
        {"bbox": [1, 2, 3, 4], "note": "mine"},
        {"bbox": "no array"},
        {"__prefect_kind": "json", "value": "1"},
        {"$ref": {"block_document_id": "x"}},
    ],
)
def test_a_value_arrives_verbatim(value: object) -> None:
    found = request(a=value).inputs["a"]

    assert isinstance(found, ExecutionInputValueNoObject)
    assert found.root == value
    assert type(found.root) is type(value)
    assert found.model_dump(mode="json", by_alias=True, exclude_none=True) == value


@pytest.mark.parametrize(
    "items", [[], [1, 2.5, "a", None, True], [FEATURE], [[1, 2], [3]], [{"href": "http://x"}]]
)
def test_an_array_arrives_with_its_items_verbatim(items: list[object]) -> None:
    found = request(a=items).inputs["a"]

    assert isinstance(found, ExecutionInputValueNoObject)
    assert isinstance(found.root, ExecutionInputValueNoObjectArray)
    assert found.root.root == items


def test_a_link_is_told_from_a_value() -> None:
    found = request(a={"href": "http://x/y", "type": "image/tiff"}).inputs["a"]

    assert isinstance(found, Link)
    assert (found.href, found.type_) == ("http://x/y", "image/tiff")


@pytest.mark.parametrize(
    "bbox", [{"bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4, 5, 6], "crs": "http://crs"}]
)
def test_a_bounding_box_is_told_from_a_value(bbox: dict[str, Any]) -> None:
    found = request(a=bbox).inputs["a"]

    assert isinstance(found, ExecutionInputValueNoObject)
    assert isinstance(found.root, ExecutionInputBBox)
    assert found.root.bbox == bbox["bbox"]
    assert found.root.crs == bbox.get("crs", "http://www.opengis.net/def/crs/OGC/1.3/CRS84")


@pytest.mark.parametrize("value", [FEATURE, {}, {"value": 1}, {"href": "http://x"}])
def test_a_qualified_value_is_told_from_a_value(value: dict[str, Any]) -> None:
    found = request(a={"value": value, "mediaType": "application/geo+json"}).inputs["a"]

    assert isinstance(found, ExecutionQualifiedInputValue)
    assert found.media_type == "application/geo+json"
    assert found.value == value


def test_a_qualified_text_is_in_a_root_as_a_plain_one_is() -> None:
    found = request(a={"value": "AAAA", "encoding": "base64"}).inputs["a"]

    assert isinstance(found, ExecutionQualifiedInputValue)
    assert isinstance(found.value, ExecutionInputValueNoObject)
    assert found.value.root == "AAAA"


@pytest.mark.parametrize("encode", [json.dumps, lambda body: json.dumps(body).encode()])
def test_an_execute_request_is_read_from_json_text(encode: Any) -> None:
    body = {
        "inputs": {"name": "x", "zone": FEATURE},
        "outputs": {"a": {"transmissionMode": "reference", "format": {"mediaType": "text/csv"}}},
        "response": "document",
        "subscriber": {"successUri": "http://x/done"},
        "properties": {"priority": 3},
    }

    made = ExecuteRequest.model_validate(encode(body))

    assert made == ExecuteRequest.model_validate(body)
    assert made.response is ProcessResponseType.document
    assert made.outputs is not None
    assert made.outputs["a"].transmission_mode is ProcessOutputTransmissionMode.REFERENCE
    assert made.subscriber is not None
    assert made.subscriber.success_uri == "http://x/done"
    assert made.properties == {"priority": 3}


def test_an_execute_request_survives_its_own_text() -> None:
    made = ExecuteRequest.model_validate({"inputs": {"a": FEATURE, "b": [1], "c": "x"}})

    text = made.model_dump_json(by_alias=True, exclude_none=True)

    assert ExecuteRequest.model_validate(text) == made


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError):
        ExecuteRequest.model_validate("no json")


@pytest.mark.parametrize(
    "status", ["successful", schemas.JobStatus.successful, PygeoapiJobStatus.successful]
)
def test_a_flow_may_return_any_of_the_status_enumerations(status: Any) -> None:
    returned = JobStatusInfoInternal(
        job_id="a",
        process_id="p",
        status=status,
        generated_outputs={
            "result": OutputExecutionResultInternal(location="a/x.txt", media_type="text/plain")
        },
        negotiated_execution_mode=schemas.ProcessExecutionMode.sync_execute,
    )

    assert returned.status is schemas.JobStatus.successful
    assert returned == JobStatusInfoInternal.model_validate(
        {"jobID": "a", "processID": "p", **returned.model_dump(exclude={"job_id", "process_id"})}
    )


def test_a_results_document_keeps_values_and_links_apart() -> None:
    document = {"text": "a", "map": {"href": "http://x/y"}, "table": {"value": "b", "schema": {}}}

    made = ExecutionDocumentResult.model_validate(document)

    assert isinstance(made.root["map"].root, Link)
    assert made.model_dump(mode="json", by_alias=True, exclude_none=True) == document


def test_a_link_becomes_a_header_value() -> None:
    link = Link(href="http://x/y?a=1,2", rel="item", type_="image/png", href_lang="en")

    assert link.as_link_header() == (
        '<http://x/y?a=1,2>; rel="item"; type="image/png"; hreflang="en"'
    )


@pytest.mark.parametrize(
    ("members", "attribute"),
    [
        ({"type": 'text/plain; charset="utf-8"'}, r'type="text/plain; charset=\"utf-8\""'),
        ({"title": 'a\\b", <x>'}, r'title="a\\b\", <x>"'),
        ({"title": "Zürich"}, "title*=UTF-8''Z%C3%BCrich"),
        ({"title": "a\r\nX-Evil: 1"}, "title*=UTF-8''a%0D%0AX-Evil%3A%201"),
    ],
)
def test_what_stands_in_a_link_header_stays_where_it_belongs(
    members: dict[str, str], attribute: str
) -> None:
    header = Link(href="http://x/y", **members).as_link_header()

    assert header == f"<http://x/y>; {attribute}"
    assert header.isascii()
    assert header.isprintable()


def test_an_address_ends_where_its_bracket_closes() -> None:
    assert Link(href="http://x/a%20b?q=ü>\r\n").as_link_header() == (
        "<http://x/a%20b?q=%C3%BC%3E%0D%0A>"
    )
