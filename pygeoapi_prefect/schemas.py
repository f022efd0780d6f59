"""The models of OGC API - Processes - Part 1, as authors and flows see them.

Pure pydantic: nothing here knows pygeoapi's API layer or Prefect. Models accept the
OGC alias and the Python name of a field, ignore keywords they do not know, and are
dumped with ``model_dump(by_alias=True, exclude_none=True)``. Root models answer to
``.root`` and, as flows written for pydantic 1 have it, to ``.__root__``.
"""

import datetime as dt
import enum
import urllib.parse
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import ConfigDict, Discriminator, Field, Tag
from pydantic_core import from_json

from pygeoapi_prefect.media_types import MediaType

Root = TypeVar("Root")


class _Model(pydantic.BaseModel):
    model_config = ConfigDict(populate_by_name=True, extra="ignore")


class _RootModel(pydantic.RootModel[Root]):
    def __init__(self, /, *args: Any, **data: Any) -> None:
        if "__root__" in data:
            args = (data.pop("__root__"),)
        super().__init__(*args, **data)

    # tells pydantic-core that validation need not go through this __init__
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


# pydantic refuses `__root__` in a class body, so the older name is added afterwards
setattr(_RootModel, "__root__", property(lambda self: self.root))  # noqa: B010


class JobStatus(enum.StrEnum):
    """``statusCode.yaml``."""

    accepted = "accepted"
    running = "running"
    successful = "successful"
    failed = "failed"
    dismissed = "dismissed"


class ProcessJobControlOption(enum.StrEnum):
    """``jobControlOptions.yaml``."""

    SYNC_EXECUTE = "sync-execute"
    ASYNC_EXECUTE = "async-execute"
    DISMISS = "dismiss"


class ProcessExecutionMode(enum.StrEnum):
    """The mode in which a job runs."""

    sync_execute = "sync-execute"
    async_execute = "async-execute"


class RequestedProcessExecutionMode(enum.StrEnum):
    """What a client asks for in its ``Prefer`` header."""

    wait = "wait"
    respond_async = "respond-async"


class ReturnPreference(enum.StrEnum):
    """What a client asks for in its ``Prefer: return=`` (RFC 7240, section 4.2)."""

    minimal = "minimal"
    representation = "representation"


class ProcessOutputTransmissionMode(enum.StrEnum):
    """``transmissionMode.yaml``."""

    VALUE = "value"
    REFERENCE = "reference"


class ProcessResponseType(enum.StrEnum):
    """The ``response`` member of ``execute.yaml``."""

    raw = "raw"
    document = "document"


class ProcessIOType(enum.StrEnum):
    """The ``type`` member of ``schema.yaml``."""

    ARRAY = "array"
    BOOLEAN = "boolean"
    INTEGER = "integer"
    NUMBER = "number"
    OBJECT = "object"
    STRING = "string"


class ProcessIOFormat(enum.StrEnum):
    """Values of ``format`` in ``schema.yaml`` that have a name; any string may be used."""

    DATE_TIME = "date-time"
    DATE = "date"
    TIME = "time"
    DURATION = "duration"
    EMAIL = "email"
    HOSTNAME = "hostname"
    IPV4 = "ipv4"
    IPV6 = "ipv6"
    URI = "uri"
    URI_REFERENCE = "uri-reference"
    UUID = "uuid"
    URI_TEMPLATE = "uri-template"
    JSON_POINTER = "json-pointer"
    RELATIVE_JSON_POINTER = "relative-json-pointer"
    REGEX = "regex"
    BINARY = "binary"
    BYTE = "byte"
    GEOJSON_FEATURE_COLLECTION_URI = (
        "http://www.opengis.net/def/format/ogcapi-processes/0/geojson-feature-collection"
    )
    GEOJSON_FEATURE_URI = "http://www.opengis.net/def/format/ogcapi-processes/0/geojson-feature"
    GEOJSON_GEOMETRY_URI = "http://www.opengis.net/def/format/ogcapi-processes/0/geojson-geometry"
    OGC_BBOX_URI = "http://www.opengis.net/def/format/ogcapi-processes/0/ogc-bbox"
    GEOJSON_FEATURE_COLLECTION_SHORT_CODE = "geojson-feature-collection"
    GEOJSON_FEATURE_SHORT_CODE = "geojson-feature"
    GEOJSON_GEOMETRY_SHORT_CODE = "geojson-geometry"
    OGC_BBOX_SHORT_CODE = "ogc-bbox"


class Link(_Model):
    """``link.yaml``."""

    href: str
    rel: str | None = None
    type_: Annotated[str | None, Field(alias="type")] = None
    title: str | None = None
    href_lang: Annotated[str | None, Field(alias="hreflang")] = None

    def as_link_header(self) -> str:
        """Return the link as one value of an HTTP ``Link`` header (RFC 8288)."""
        attributes = {
            "rel": self.rel,
            "type": self.type_,
            "title": self.title,
            "hreflang": self.href_lang,
        }
        # what is percent-encoded already stays as it is
        target = urllib.parse.quote(self.href, safe="%:/?#[]@!$&'()*+,;=~")
        return "; ".join(
            [f"<{target}>"]
            + [_link_attribute(name, value) for name, value in attributes.items() if value]
        )


def _link_attribute(name: str, value: str) -> str:
    """Return an attribute as quoted text or, where that cannot hold it, as RFC 8187 has it."""
    if value.isascii() and value.isprintable():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{name}="{escaped}"'
    return f"{name}*=UTF-8''{urllib.parse.quote(value, safe='')}"


class ProcessIOSchema(_Model):
    """``schema.yaml``: the schema of one instance of an input or output."""

    # a schema may refer to another (`$ref`) or carry what we do not name: nothing is lost
    model_config = ConfigDict(extra="allow")

    title: str | None = None
    multiple_of: Annotated[float | None, Field(alias="multipleOf")] = None
    maximum: float | int | None = None
    exclusive_maximum: Annotated[bool | float | None, Field(alias="exclusiveMaximum")] = None
    minimum: float | int | None = None
    exclusive_minimum: Annotated[bool | float | None, Field(alias="exclusiveMinimum")] = None
    max_length: Annotated[int | None, Field(alias="maxLength", ge=0)] = None
    min_length: Annotated[int | None, Field(alias="minLength", ge=0)] = None
    pattern: str | None = None
    max_items: Annotated[int | None, Field(alias="maxItems", ge=0)] = None
    min_items: Annotated[int | None, Field(alias="minItems", ge=0)] = None
    unique_items: Annotated[bool | None, Field(alias="uniqueItems")] = None
    max_properties: Annotated[int | None, Field(alias="maxProperties", ge=0)] = None
    min_properties: Annotated[int | None, Field(alias="minProperties", ge=0)] = None
    required: list[str] | None = None
    enum: list[Any] | None = None
    type_: Annotated[ProcessIOType | None, Field(alias="type")] = None
    not_: Annotated["ProcessIOSchema | None", Field(alias="not")] = None
    all_of: Annotated["list[ProcessIOSchema] | None", Field(alias="allOf")] = None
    one_of: Annotated["list[ProcessIOSchema] | None", Field(alias="oneOf")] = None
    any_of: Annotated["list[ProcessIOSchema] | None", Field(alias="anyOf")] = None
    items: "ProcessIOSchema | None" = None
    properties: "dict[str, ProcessIOSchema] | None" = None
    additional_properties: Annotated[
        "bool | ProcessIOSchema | None", Field(alias="additionalProperties")
    ] = None
    description: str | None = None
    format_: Annotated[ProcessIOFormat | str | None, Field(alias="format")] = None
    default: Any = None
    nullable: bool | None = None
    read_only: Annotated[bool | None, Field(alias="readOnly")] = None
    write_only: Annotated[bool | None, Field(alias="writeOnly")] = None
    example: Any = None
    deprecated: bool | None = None
    content_media_type: Annotated[str | None, Field(alias="contentMediaType")] = None
    content_encoding: Annotated[str | None, Field(alias="contentEncoding")] = None
    content_schema: Annotated[Any, Field(alias="contentSchema")] = None


class ProcessMetadata(_Model):
    """``metadata.yaml``."""

    title: str | None = None
    role: str | None = None
    href: str | None = None


class Parameter(_Model):
    """``additionalParameter.yaml``."""

    name: str
    value: list[str | float | int | list[Any] | dict[str, Any]]


class AdditionalProcessIOParameters(ProcessMetadata):
    """The ``additionalParameters`` of ``descriptionType.yaml``."""

    parameters: list[Parameter] | None = None


class _DescriptionType(_Model):
    """``descriptionType.yaml``; texts may be given once or by language."""

    title: str | dict[str, str] | None = None
    description: str | dict[str, str] | None = None
    keywords: list[str] | dict[str, list[str]] | None = None
    metadata: list[ProcessMetadata] | None = None
    additional_parameters: Annotated[
        AdditionalProcessIOParameters | None, Field(alias="additionalParameters")
    ] = None


class ProcessInput(_DescriptionType):
    """``inputDescription.yaml``."""

    schema_: Annotated[ProcessIOSchema, Field(alias="schema")]
    min_occurs: Annotated[int, Field(alias="minOccurs", ge=0)] = 1
    max_occurs: Annotated[int | Literal["unbounded"], Field(alias="maxOccurs")] = 1


class ProcessOutput(_DescriptionType):
    """``outputDescription.yaml``."""

    schema_: Annotated[ProcessIOSchema, Field(alias="schema")]


class ProcessSummary(_DescriptionType):
    """``processSummary.yaml``."""

    id: str = ""
    version: str
    job_control_options: Annotated[
        list[ProcessJobControlOption], Field(alias="jobControlOptions")
    ] = [
        ProcessJobControlOption.SYNC_EXECUTE,
        ProcessJobControlOption.ASYNC_EXECUTE,
        ProcessJobControlOption.DISMISS,
    ]
    output_transmission: Annotated[
        list[ProcessOutputTransmissionMode], Field(alias="outputTransmission")
    ] = [ProcessOutputTransmissionMode.VALUE, ProcessOutputTransmissionMode.REFERENCE]
    links: list[Link] | None = None


class ProcessDescription(ProcessSummary):
    """``process.yaml``. The ``id`` equals the key of the process in the configuration."""

    inputs: dict[str, ProcessInput] = {}
    outputs: dict[str, ProcessOutput] = {}
    example: dict[str, Any] | None = None


class ExecutionFormat(_Model):
    """``format.yaml``."""

    media_type: Annotated[MediaType | None, Field(alias="mediaType")] = None
    encoding: str | None = None
    schema_: Annotated[str | dict[str, Any] | None, Field(alias="schema")] = None


class ExecutionInputBBox(_Model):
    """``bbox.yaml``."""

    bbox: Annotated[list[float], Field(min_length=4, max_length=6)]
    crs: str = "http://www.opengis.net/def/crs/OGC/1.3/CRS84"


class ExecutionInputValueNoObjectArray(_RootModel[list[Any]]):
    """An array given for an input, its items as they came."""


def _is_bbox(value: Any) -> bool:
    if not isinstance(value, dict):
        return isinstance(value, ExecutionInputBBox)
    return isinstance(value.get("bbox"), list) and value.keys() <= {"bbox", "crs"}


def _kind_of_value(value: Any) -> str:
    if _is_bbox(value):
        return "bbox"
    if isinstance(value, list | ExecutionInputValueNoObjectArray):
        return "array"
    return "value"


class ExecutionInputValueNoObject(
    _RootModel[
        Annotated[
            Annotated[Any, Tag("value")]
            | Annotated[ExecutionInputBBox, Tag("bbox")]
            | Annotated[ExecutionInputValueNoObjectArray, Tag("array")],
            Discriminator(_kind_of_value),
        ]
    ]
):
    """A value given inline, as it came.

    Its ``.root`` is a string, number, boolean or object, an `ExecutionInputBBox`, or an
    `ExecutionInputValueNoObjectArray`.
    """


class ExecutionQualifiedInputValue(ExecutionFormat):
    """``qualifiedInputValue.yaml``: a value with its format.

    Drafts of the standard had the format under ``format``; that is understood too.
    """

    value: Annotated[
        Annotated[dict[str, Any], Tag("object")]
        | Annotated[ExecutionInputValueNoObject, Tag("value")],
        Discriminator(
            lambda value: "object" if isinstance(value, dict) and not _is_bbox(value) else "value"
        ),
    ]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _unfold_format(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("format"), dict):
            return {**data["format"], **data}
        return data


_QUALIFIED_KEYS = {"value", "mediaType", "encoding", "schema", "format"}
_LINK_KEYS = {"href", "rel", "type", "title", "hreflang"}


def kind_of_input(value: Any) -> Literal["link", "qualified", "inline"]:
    """Tell which branch of ``inlineOrRefData.yaml`` an input value takes.

    Objects are told apart by their members, all of which must be known: a GeoJSON
    object that happens to have a member ``value`` or ``href`` is an inline value.
    """
    match value:
        case Link():
            return "link"
        case ExecutionQualifiedInputValue():
            return "qualified"
        case {"href": str()} if value.keys() <= _LINK_KEYS:
            return "link"
        case {"value": _} if value.keys() <= _QUALIFIED_KEYS:
            return "qualified"
    return "inline"


ExecutionInput = Annotated[
    Annotated[Link, Tag("link")]
    | Annotated[ExecutionQualifiedInputValue, Tag("qualified")]
    | Annotated[ExecutionInputValueNoObject, Tag("inline")],
    Discriminator(kind_of_input),
]


class ExecutionOutput(_Model):
    """``output.yaml``: how the client wants one output."""

    format_: Annotated[ExecutionFormat | None, Field(alias="format")] = None
    transmission_mode: Annotated[ProcessOutputTransmissionMode, Field(alias="transmissionMode")] = (
        ProcessOutputTransmissionMode.VALUE
    )


class ExecutionSubscriber(_Model):
    """``subscriber.yaml``."""

    success_uri: Annotated[str | None, Field(alias="successUri")] = None
    in_progress_uri: Annotated[str | None, Field(alias="inProgressUri")] = None
    failed_uri: Annotated[str | None, Field(alias="failedUri")] = None


class ExecuteRequest(_Model):
    """``execute.yaml``. Validates from an object, or from the same as JSON text."""

    inputs: dict[str, ExecutionInput] = {}
    outputs: dict[str, ExecutionOutput] | None = None
    response: ProcessResponseType = ProcessResponseType.raw
    subscriber: ExecutionSubscriber | None = None
    properties: dict[str, Any] | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _read_json_text(cls, data: Any) -> Any:
        return from_json(data) if isinstance(data, str | bytes) else data

    @pydantic.field_validator("outputs", mode="before")
    @classmethod
    def _accept_output_ids(cls, outputs: Any) -> Any:
        # pygeoapi's clients may also send a list of ids, or null for "as you like"
        if isinstance(outputs, list):
            return {output_id: {} for output_id in outputs}
        if isinstance(outputs, dict):
            return {output_id: wish or {} for output_id, wish in outputs.items()}
        return outputs


class OutputExecutionResultInternal(_Model):
    """Where a flow stored one output.

    Attributes:
        location: Path or URL within the result storage: relative to it, or below it.
        media_type: Media type of the stored bytes.
    """

    location: str
    media_type: MediaType = "application/octet-stream"


class ExecutionDocumentSingleOutput(
    _RootModel[ExecutionInput],
):
    """One output of a ``results.yaml`` document."""


class ExecutionDocumentResult(_RootModel[dict[str, ExecutionDocumentSingleOutput]]):
    """``results.yaml``."""


class JobStatusInfoBase(_Model):
    """``statusInfo.yaml`` without its links."""

    job_id: Annotated[str, Field(alias="jobID")]
    process_id: Annotated[str | None, Field(alias="processID")] = None
    status: JobStatus
    message: str | None = None
    created: dt.datetime | None = None
    started: dt.datetime | None = None
    finished: dt.datetime | None = None
    updated: dt.datetime | None = None
    progress: Annotated[int | None, Field(ge=0, le=100)] = None

    @pydantic.field_validator("status", mode="before")
    @classmethod
    def _accept_foreign_enum(cls, value: Any) -> Any:
        # flows also use `pygeoapi.util.JobStatus`
        return value.value if isinstance(value, enum.Enum) else value


class JobStatusInfoInternal(JobStatusInfoBase):
    """What a flow returns: the status of its job, and where its outputs are."""

    negotiated_execution_mode: ProcessExecutionMode | None = None
    requested_response_type: ProcessResponseType | None = None
    requested_outputs: dict[str, ExecutionOutput] | None = None
    generated_outputs: dict[str, OutputExecutionResultInternal] | None = None
