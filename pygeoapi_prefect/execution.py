"""From an execute request to a plan, and from stored outputs to the client's response.

Pure: what must be read or linked is handed in.
"""

import base64
import dataclasses
import json
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from pygeoapi_prefect.errors import InvalidRequest, StorageError
from pygeoapi_prefect.inputs import check_inputs, check_outputs
from pygeoapi_prefect.jobs import new_job_id
from pygeoapi_prefect.schemas import (
    ExecutionOutput,
    Link,
    ProcessExecutionMode,
    ProcessJobControlOption,
    ProcessOutputTransmissionMode,
    ProcessResponseType,
    RequestedProcessExecutionMode,
    kind_of_input,
)

# What a flow run carries in place of a request that is too large for its parameters.
# No JSON text starts like this.
STORED_REQUEST_PREFIX: Final = "stored:"

PARAMETERS_FILLED_IN: Final = frozenset({"processor_id", "pygeoapi_job_id"})
"""Parameters of flows in existing deployments whose values no client gives."""
_INPUT_IDS: Final = "inputIds"

JSON_MEDIA_TYPE: Final = "application/json"
# pygeoapi rewrites what it knows to be JSON: it quotes text anew and escapes < and >.
# It knows only this exact media type, so ours says the same in other words.
VERBATIM_JSON_MEDIA_TYPE: Final = "application/json; charset=utf-8"

# Up to here, a document has JSON as JSON and text as text; what is larger is not parsed.
INLINE_VALUE_MAX_BYTES: Final = 8 * 1024**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked execute request, and how it will run.

    Attributes:
        request: The execute request as the job gets it: ``inputs`` verbatim, ``outputs``,
            ``response`` and ``subscriber``.
        outputs: What the client wants of each output that it wants.
    """

    job_id: str
    process_id: str
    mode: ProcessExecutionMode
    request: dict[str, Any]
    outputs: dict[str, ExecutionOutput]
    response: ProcessResponseType
    result_media_type: str

    @property
    def request_text(self) -> str:
        """The request as JSON text: Prefect rewrites objects in parameters, but no strings."""
        return json.dumps(self.request, ensure_ascii=False, allow_nan=False)

    @property
    def request_text_without_inputs(self) -> str:
        """What of the request concerns its result, for runs that carry the inputs alone."""
        wishes = {name: value for name, value in self.request.items() if name != "inputs"}
        wishes[_INPUT_IDS] = [*self.request["inputs"]]
        return json.dumps(wishes, ensure_ascii=False, allow_nan=False)


class Content(Protocol):
    """Stored bytes, of which any part can be read without the rest."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Return the bytes from `start` up to `stop`, in pieces."""


@dataclasses.dataclass(frozen=True)
class HeldContent:
    """Content that is in memory already."""

    data: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Return the bytes from `start` up to `stop`, in one piece."""
        yield self.data[start:stop]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """One output of a job, as the result storage holds it.

    Attributes:
        content: The stored bytes.
        url: Returns an address from which a client can fetch them; raises `InvalidRequest`
            where there is none.
    """

    output_id: str
    media_type: str
    content: Content
    url: Callable[[], str]

    def read(self) -> bytes:
        """Return the whole content."""
        return b"".join(self.content.chunks(0, self.content.size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """The body of a result, and the links that belong to it.

    Attributes:
        segments: The body: bytes, and stored content that is read when it is sent.
    """

    media_type: str
    segments: Sequence[bytes | Content] = ()
    links: Sequence[Link] = ()

    @property
    def size(self) -> int:
        """Length of the body in bytes."""
        return sum(
            len(segment) if isinstance(segment, bytes) else segment.size
            for segment in self.segments
        )

    @property
    def stored_content(self) -> Content | None:
        """The one stored content that is the whole body, if it is."""
        match self.segments:
            case [segment] if not isinstance(segment, bytes):
                return segment
        return None

    def chunks(self) -> Iterator[bytes]:
        """Return the body in pieces, few of which are in memory at once."""
        for segment in self.segments:
            if isinstance(segment, bytes):
                yield segment
            else:
                yield from segment.chunks(0, segment.size)

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())


def plan(
    process_id: str,
    description: Mapping[str, Any],
    request: Mapping[str, Any],
    requested_mode: RequestedProcessExecutionMode | None,
) -> Plan:
    """Check an execute request against the description of its process.

    Raises:
        InvalidRequest: The request does not fit; the message names every problem.
    """
    response = _response_type(request.get("response"))
    check_inputs(description, request.get("inputs"))
    outputs = check_outputs(description, request.get("outputs"))
    return Plan(
        job_id=new_job_id(),
        process_id=process_id,
        mode=choose_mode(description.get("jobControlOptions", ()), requested_mode),
        request={
            "inputs": request.get("inputs") or {},
            "outputs": request.get("outputs"),
            "response": response.value,
            "subscriber": request.get("subscriber"),
        },
        outputs=outputs,
        response=response,
        result_media_type=announced_media_type(description, outputs, response),
    )


def choose_mode(
    job_control_options: Iterable[str], requested: RequestedProcessExecutionMode | None
) -> ProcessExecutionMode:
    """Choose how a job runs (/req/core/process-execute-default-execution-mode, -auto-...).

    Where both are possible, the client gets what it asks for, and waits if it does not ask.

    Raises:
        InvalidRequest: The process can be executed in neither mode on this server.
    """
    offered = {str(option) for option in job_control_options}
    can_wait = ProcessJobControlOption.SYNC_EXECUTE in offered
    can_respond_async = ProcessJobControlOption.ASYNC_EXECUTE in offered
    if not (can_wait or can_respond_async):
        raise InvalidRequest("this server does not execute the process, in any mode")
    wants_async = requested is RequestedProcessExecutionMode.respond_async
    if can_respond_async and (wants_async or not can_wait):
        return ProcessExecutionMode.async_execute
    return ProcessExecutionMode.sync_execute


def parse_request(text: str) -> dict[str, Any]:
    """Read back what `Plan.request_text` wrote.

    Raises:
        StorageError: The text is no execute request.
    """
    try:
        request = json.loads(text)
    except ValueError as error:
        raise StorageError("the job's execute request is no JSON") from error
    if not isinstance(request, dict):
        raise StorageError("the job's execute request is no JSON object")
    return request


def requested_outputs(
    request: Mapping[str, Any], stored: Iterable[str]
) -> tuple[dict[str, ExecutionOutput], ProcessResponseType]:
    """Return what a job's request asked for, limited to what the job stored."""
    asked = request.get("outputs") or list(stored)
    wishes = asked if isinstance(asked, Mapping) else {}
    outputs = {
        output_id: ExecutionOutput.model_validate(wishes.get(output_id) or {})
        for output_id in stored
        if output_id in asked
    }
    return outputs, _response_type(request.get("response"))


def by_reference(requested: Mapping[str, ExecutionOutput]) -> dict[str, ExecutionOutput]:
    """Return requested outputs as references, except those expressly wanted by value."""
    return {
        output_id: wish
        if "transmission_mode" in wish.model_fields_set
        else wish.model_copy(update={"transmission_mode": ProcessOutputTransmissionMode.REFERENCE})
        for output_id, wish in requested.items()
    }


def parameters_of_existing_deployment(plan: Plan, description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters for a deployment whose flow takes inputs as Prefect parameters.

    A parameter gets the input of its name. Those of the names that flows for other managers
    have get what these hand them, unless the process has an input of that name.

    Args:
        plan: The plan.
        description: That of the process.

    Raises:
        InvalidRequest: The inputs hold what Prefect would replace with something else, on its
            server (``__prefect_kind``) or in the flow's engine (``$ref``). Inputs arrive
            verbatim or not at all.
    """
    if _has_member(plan.request, {"__prefect_kind", "$ref"}):
        raise InvalidRequest("inputs: members named $ref or __prefect_kind are not allowed here")
    inputs = plan.request["inputs"]
    handed = {
        "processor_id": plan.process_id,
        "pygeoapi_job_id": plan.job_id,
        "inputs": inputs,
        "outputs": plan.request["outputs"],
    }
    return {name: value for name, value in handed.items() if name not in description["inputs"]} | {
        input_id: value["value"] if kind_of_input(value) == "qualified" else value
        for input_id, value in inputs.items()
    }


def inputs_in_parameters(
    request: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the inputs of a job from what `parameters_of_existing_deployment` has made of them.

    Values that the deployment has for other parameters are not among them.

    Args:
        request: What `Plan.request_text_without_inputs` wrote.
        parameters: Those of the flow run.
    """
    input_ids = request.get(_INPUT_IDS) or ()
    if input_ids and parameters.keys() >= {*input_ids}:
        return {input_id: parameters[input_id] for input_id in input_ids}
    inputs = parameters.get("inputs")
    return inputs if isinstance(inputs, Mapping) else {}


def announced_media_type(
    description: Mapping[str, Any],
    outputs: Mapping[str, ExecutionOutput],
    response: ProcessResponseType,
) -> str:
    """Return the media type that the whole result will have if outputs keep to the description."""
    if response is ProcessResponseType.document:
        return JSON_MEDIA_TYPE
    if len(outputs) > 1:
        return "multipart/related"
    declared = description.get("outputs") or {}
    for output_id in outputs:
        return described_media_type(declared.get(output_id, {}))
    return JSON_MEDIA_TYPE


def described_media_type(output_description: Mapping[str, Any]) -> str:
    """Return the media type that a description states for an output, or the fitting default."""
    schema = output_description.get("schema") or {}
    if media_type := schema.get("contentMediaType"):
        return str(media_type)
    is_text = schema.get("type") == "string" and not schema.get("format")
    return "text/plain" if is_text else JSON_MEDIA_TYPE


def is_json(media_type: str) -> bool:
    """Tell whether content of a media type is JSON."""
    essence = media_type.partition(";")[0].strip().lower()
    return essence == JSON_MEDIA_TYPE or essence.endswith("+json")


def shape(
    outputs: Sequence[Output],
    requested: Mapping[str, ExecutionOutput],
    response: ProcessResponseType,
) -> Response:
    """Give outputs the form that the request asked for (/req/core/process-execute-sync-...).

    Args:
        outputs: What the job stored. Those not in `requested` are left out.
        requested: Outputs that the client asked for, with their transmission mode.
        response: ``document`` is one JSON object; ``raw`` is the value itself, or
            ``multipart/related`` where there are several.
    """
    chosen = [output for output in outputs if output.output_id in requested]
    references = {
        output.output_id: Link(href=output.url(), rel="item", type_=output.media_type)
        for output in chosen
        if requested[output.output_id].transmission_mode is ProcessOutputTransmissionMode.REFERENCE
    }
    if response is ProcessResponseType.document or not chosen:
        return _document(chosen, references)
    if len(chosen) == 1:
        (output,) = chosen
        if link := references.get(output.output_id):
            return Response(media_type=output.media_type, links=[link])
        return Response(media_type=_verbatim(output.media_type), segments=[output.content])
    return _multipart(chosen, references)


def _has_member(value: Any, names: set[str]) -> bool:
    if isinstance(value, Mapping):
        return bool(names & value.keys()) or any(_has_member(v, names) for v in value.values())
    return isinstance(value, list) and any(_has_member(item, names) for item in value)


def _verbatim(media_type: str) -> str:
    return VERBATIM_JSON_MEDIA_TYPE if media_type == JSON_MEDIA_TYPE else media_type


def _response_type(response: object) -> ProcessResponseType:
    try:
        return ProcessResponseType(str(response or ProcessResponseType.raw))
    except ValueError:
        known = " or ".join(ProcessResponseType)
        raise InvalidRequest(f"response: must be {known}") from None


def _document(outputs: Sequence[Output], references: Mapping[str, Link]) -> Response:
    segments: list[bytes | Content] = []
    for output in outputs:
        name = json.dumps(output.output_id, ensure_ascii=False)
        segments.append(f"{',' if segments else '{'}{name}:".encode())
        if link := references.get(output.output_id):
            segments.append(link.model_dump_json(by_alias=True, exclude_none=True).encode())
        elif output.content.size > INLINE_VALUE_MAX_BYTES:
            segments += _large_inline(output)
        else:
            segments.append(json.dumps(_inline(output), ensure_ascii=False).encode())
    segments.append(b"}" if segments else b"{}")
    return Response(media_type=VERBATIM_JSON_MEDIA_TYPE, segments=segments)


def _inline(output: Output) -> Any:
    """Return an output as ``inlineOrRefData.yaml``: objects and other media types qualified."""
    content = output.read()
    if is_json(output.media_type):
        try:
            value = json.loads(content)
        except ValueError:
            pass  # no JSON after all: sent like any other bytes
        else:
            if isinstance(value, dict) or value is None:
                return {"value": value, "mediaType": output.media_type}
            return value
    if output.media_type.startswith("text/"):
        try:
            text = content.decode()
        except UnicodeDecodeError:
            pass  # not text after all: sent like any other bytes
        else:
            if output.media_type.partition(";")[0] == "text/plain":
                return text
            return {"value": text, "mediaType": output.media_type}
    return {
        "value": base64.b64encode(content).decode(),
        "mediaType": output.media_type,
        "encoding": "base64",
    }


@dataclasses.dataclass(frozen=True)
class _Base64:
    """Content as base64, which is read as a whole only."""

    content: Content

    @property
    def size(self) -> int:
        return (self.content.size + 2) // 3 * 4

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        if (start, stop) != (0, self.size):
            raise ValueError("base64 is not encoded in parts")
        rest = b""
        for chunk in self.content.chunks(0, self.content.size):
            chunk = rest + chunk
            whole = len(chunk) // 3 * 3
            rest = chunk[whole:]
            yield base64.b64encode(chunk[:whole])
        yield base64.b64encode(rest)


def _large_inline(output: Output) -> list[bytes | Content]:
    """Return an output as `_inline` does, but in base64, so that nothing has to be parsed."""
    media_type = json.dumps(output.media_type)
    head = f'{{"mediaType":{media_type},"encoding":"base64","value":"'
    return [head.encode(), _Base64(output.content), b'"}']


def _multipart(outputs: Sequence[Output], references: Mapping[str, Link]) -> Response:
    """Return ``multipart/related`` (RFC 2387), one part per output, named by ``Content-ID``."""
    boundary = uuid.uuid4().hex
    segments: list[bytes | Content] = []
    for output in outputs:
        headers = [
            f"Content-ID: <{urllib.parse.quote(output.output_id)}>",
            f"Content-Type: {output.media_type}",
        ]
        link = references.get(output.output_id)
        if link is not None:
            headers.append(f"Content-Location: {link.href}")
        segments.append("\r\n".join([f"--{boundary}", *headers, "", ""]).encode())
        if link is None:
            segments.append(output.content)
        segments.append(b"\r\n")
    segments.append(f"--{boundary}--\r\n".encode())
    return Response(
        media_type=f'multipart/related; boundary="{boundary}"', segments=tuple(segments)
    )
