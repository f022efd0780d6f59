"""What a client wants of the outputs of its job: held against the description, and kept.

Wishes are made of the request once, before there is a job. They travel with it, and who
hands out results asks nobody but them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Self

import pydantic

from pygeoapi_prefect import formats
from pygeoapi_prefect.dialect import branches, shown
from pygeoapi_prefect.errors import Flaw, InvalidRequest, OutputsNotProduced, StorageError
from pygeoapi_prefect.media_types import (
    GEOJSON_MEDIA_TYPE,
    JSON_MEDIA_TYPE,
    essence,
    is_binary,
    is_in,
    is_media_type,
    media_type_of_schema,
    stated_media_types,
)
from pygeoapi_prefect.request_problems import (
    declared,
    depth_of,
    flaw_of,
    flaw_of_all,
    media_type_problem,
    refuse_if_any,
    unknown_ids,
)
from pygeoapi_prefect.schemas import (
    ExecuteRequest,
    ExecutionOutput,
    ProcessOutputTransmissionMode,
)

REQUEST_MEMBER: Final = "wishes"
"""Under which a job's execute request has them."""
BASE64: Final = "base64"
"""The one encoding in which a client may want a value."""


class Wishes(pydantic.BaseModel):
    """What a client wants of the outputs of its job.

    Attributes:
        outputs: How each output is wanted: those that the client has named, or all that the
            process declares.
        are_named: Whether the client has named them. Then each has to be there.
        others: How outputs are wanted that the process makes but does not declare; nobody
            wants them where outputs are named.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    outputs: dict[str, ExecutionOutput]
    are_named: bool
    others: ExecutionOutput = ExecutionOutput()

    @classmethod
    def of_request(cls, request: Mapping[str, Any]) -> Self:
        """Return the wishes in the execute request of a job.

        Requests that did not come through the API, such as those of operators, have outputs
        alone.

        Raises:
            StorageError: The request is damaged.
        """
        try:
            if REQUEST_MEMBER in request:
                return cls.model_validate(request[REQUEST_MEMBER])
            asked = ExecuteRequest.model_validate({"outputs": request.get("outputs")}).outputs
            return cls(outputs=asked or {}, are_named=bool(asked))
        except pydantic.ValidationError as error:
            raise StorageError("the job's execute request wants outputs in no known way") from error

    def for_request(self) -> dict[str, Any]:
        """Return what `of_request` reads back."""
        # what the client leaves open is open later too
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def missing(self, produced: Collection[str]) -> list[str]:
        """Return the outputs that are wanted and are not there."""
        return [output_id for output_id in self.outputs if output_id not in produced]

    def problem(self, produced: Mapping[str, str]) -> str | None:
        """Return why a job has not done what was asked for, if it has not.

        Args:
            produced: Media types of the outputs that there are, by output id.
        """
        if self.are_named and (missing := self.missing(produced)):
            one = len(missing) == 1
            return (
                f"the process made no output {_listed(missing)}, which "
                f"{'was' if one else 'were'} asked for"
            )
        for output_id, wish in self.outputs.items():
            wanted = wanted_media_type(wish)
            made = produced.get(output_id)
            if wanted is not None and made is not None and not is_in(made, wanted):
                return f"output {output_id!r} is {made}; {wanted} was asked for"
        return None

    def of(self, produced: Mapping[str, str]) -> dict[str, ExecutionOutput]:
        """Return how each output is wanted; also ones that are not there, if none was named.

        Args:
            produced: Media types of the outputs that there are, by output id.

        Raises:
            OutputsNotProduced: There is not what was asked for.
        """
        if problem := self.problem(produced):
            there = _listed(produced) or "no output at all"
            raise OutputsNotProduced(f"{problem}; the job has {there}")
        others = () if self.are_named else produced
        return {**dict.fromkeys(others, self.others), **self.outputs}


EVERYTHING: Final = Wishes(outputs={}, are_named=False)
"""What is wanted where nobody says it: all outputs there are, by value."""


def check_outputs(description: Mapping[str, Any], outputs: Any) -> Wishes:
    """Refuse requested outputs that the process does not have or cannot give as asked.

    Args:
        description: What pygeoapi processors have as ``metadata``. Without an
            ``outputTransmission`` the process is taken to offer both modes.
        outputs: The ``outputs`` member of the request body: an object by output id, an
            array of output ids, or None. An empty one asks for all outputs, as version
            1.0 of the standard and its conformance suite have it.

    Returns:
        What to deliver. Where the client names no transmission mode it is by value, unless
        the process offers outputs by reference only.

    Raises:
        InvalidRequest: Something does not fit. The message is one line that names every
            problem by output id and reason.
    """
    if isinstance(outputs, list):
        refuse_if_any(
            flaw_of_all("outputs", f"{shown(item)} is not an output id")
            for item in outputs
            if not isinstance(item, str)
        )
        outputs = dict.fromkeys(outputs)
    if outputs is None:
        outputs = {}
    if not isinstance(outputs, dict):
        raise InvalidRequest("outputs: must be an object by output id, or an array of output ids")
    known = declared(description, "outputs")
    if known is None:
        known = dict.fromkeys(outputs)
    requested = outputs or dict.fromkeys(known)
    offered = _offered_modes(description)
    refuse_if_any(_output_flaws(known, offered, requested))
    # which one is by value need not be said: whoever reads results may still prefer links
    has_values = ProcessOutputTransmissionMode.VALUE in offered
    default = {} if has_values else {"transmissionMode": offered[0]}
    return Wishes(
        outputs={
            output_id: ExecutionOutput.model_validate({**default, **_without_nulls(wanted or {})})
            for output_id, wanted in requested.items()
        },
        are_named=bool(outputs),
        others=ExecutionOutput.model_validate(default),
    )


def wanted_media_type(wish: ExecutionOutput) -> str | None:
    """Return the media type in which an output is wanted; None for any."""
    return None if wish.format_ is None else wish.format_.media_type


def by_reference(requested: Mapping[str, ExecutionOutput]) -> dict[str, ExecutionOutput]:
    """Return requested outputs as references, except those expressly wanted by value."""
    return {
        output_id: wish
        if "transmission_mode" in wish.model_fields_set
        else wish.model_copy(update={"transmission_mode": ProcessOutputTransmissionMode.REFERENCE})
        for output_id, wish in requested.items()
    }


def _listed(output_ids: Collection[str]) -> str:
    return ", ".join(map(repr, output_ids))


def _offered_modes(description: Mapping[str, Any]) -> list[ProcessOutputTransmissionMode]:
    listed = description.get("outputTransmission") or []
    modes = [mode for mode in ProcessOutputTransmissionMode if mode in listed]
    return modes or list(ProcessOutputTransmissionMode)


def _without_nulls(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if value is not None}


def _output_flaws(
    known: Mapping[str, Any],
    offered: Sequence[ProcessOutputTransmissionMode],
    requested: Mapping[str, Any],
) -> Iterator[Flaw]:
    yield from unknown_ids("outputs", requested, known)
    for output_id, wanted in requested.items():
        if output_id not in known:
            continue
        declaration = known[output_id]
        schema = declaration.get("schema") if isinstance(declaration, Mapping) else None
        try:
            depth_of(wanted)
        except ValueError as error:
            yield flaw_of("outputs", output_id, str(error))
            continue
        for reason in _requested_output_problems(schema, offered, wanted):
            yield flaw_of("outputs", output_id, reason)


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
    yield from _format_problems(schema, requested_format)


def _format_problems(schema: Any, requested: Mapping[str, Any]) -> Iterator[str]:
    match requested.get("mediaType"):
        case None:
            pass
        case str() as media_type if not is_media_type(media_type):
            yield f"format.mediaType {shown(media_type)} is not a media type"
        case str() as media_type:
            offered = _offered_media_types(schema)
            if offered is not None and not any(is_in(media_type, one) for one in offered):
                yield media_type_problem(media_type, offered)
        case other:
            yield f"format.mediaType {shown(other)} is not a string"
    match requested.get("encoding"):
        case encoding if encoding in (None, BASE64):
            pass
        case str() as encoding:
            yield f"format.encoding {shown(encoding)} is not {BASE64}, the one that there is"
        case other:
            yield f"format.encoding {shown(other)} is not a string"
    match requested.get("schema"):
        case None:
            pass
        case str() | dict() as wanted:
            if wanted not in _stated_schemas(schema):
                yield "format.schema is not the one that the description states"
        case _:
            yield "format.schema is neither a URL nor a schema"


def _offered_media_types(schema: Any) -> set[str] | None:
    """Return the media types in which an output may be had; None for any."""
    if not isinstance(schema, Mapping):
        return None
    alternatives = [*branches(schema, "oneOf"), *branches(schema, "anyOf")]
    own = {name: value for name, value in schema.items() if name not in ("oneOf", "anyOf")}
    if stated := stated_media_types(own):
        return stated | stated_media_types(schema)
    if alternatives:
        return _union(map(_offered_media_types, alternatives))
    if is_binary(schema):
        return None
    if parts := branches(schema, "allOf"):
        return _union(map(_offered_media_types, parts))
    if _is_geojson(schema):
        return {GEOJSON_MEDIA_TYPE, JSON_MEDIA_TYPE}
    return {essence(media_type_of_schema(schema))}


def _union(sets: Iterator[set[str] | None]) -> set[str] | None:
    found: set[str] = set()
    for one in sets:
        if one is None:
            return None
        found |= one
    return found


def _is_geojson(schema: Mapping[str, Any]) -> bool:
    named, referred_to = schema.get("format"), schema.get("$ref")
    known = (
        formats.format_named(named) if isinstance(named, str) else None,
        formats.format_referred_to(referred_to) if isinstance(referred_to, str) else None,
    )
    return any(name not in (None, "bbox") for name in known)


def _stated_schemas(schema: Any) -> Iterator[Any]:
    """Yield what a description says that its output is: the schema, its source, its parts."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    for keyword in ("$ref", "contentSchema"):
        if keyword in schema:
            yield schema[keyword]
    for keyword in ("oneOf", "anyOf", "allOf"):
        for branch in branches(schema, keyword):
            yield from _stated_schemas(branch)
