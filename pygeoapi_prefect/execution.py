"""From an execute request to a plan: what runs how, and what is wanted of it.

Pure: nothing is fetched or stored.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pygeoapi_prefect.errors import InvalidRequest, StorageError
from pygeoapi_prefect.input_checks import check_inputs
from pygeoapi_prefect.input_contents import bare_inputs_without_links
from pygeoapi_prefect.jobs import new_job_id
from pygeoapi_prefect.media_types import JSON_MEDIA_TYPE, described_media_type
from pygeoapi_prefect.schemas import (
    ProcessExecutionMode,
    ProcessJobControlOption,
    ProcessResponseType,
    RequestedProcessExecutionMode,
)
from pygeoapi_prefect.wishes import REQUEST_MEMBER, Wishes, check_outputs, wanted_media_type

# What a flow run carries in place of a request that is too large for its parameters.
# No JSON text starts like this.
STORED_REQUEST_PREFIX: Final = "stored:"

PARAMETERS_FILLED_IN: Final = frozenset({"processor_id", "pygeoapi_job_id"})
"""Parameters of flows in existing deployments whose values no client gives."""
_INPUT_IDS: Final = "inputIds"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked execute request, and how it will run.

    Attributes:
        request: The execute request as the job gets it: ``inputs`` and ``outputs`` verbatim,
            ``response`` and ``subscriber``; and the wishes, as `Wishes.of_request` reads them.
        wishes: What the client wants of the outputs.
    """

    job_id: str
    process_id: str
    mode: ProcessExecutionMode
    request: dict[str, Any]
    wishes: Wishes
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
    response = response_type(request)
    check_inputs(description, request.get("inputs"))
    wishes = check_outputs(description, request.get("outputs"))
    return Plan(
        job_id=new_job_id(),
        process_id=process_id,
        mode=choose_mode(description.get("jobControlOptions", ()), requested_mode),
        request={
            "inputs": request.get("inputs") or {},
            "outputs": request.get("outputs"),
            "response": response.value,
            "subscriber": request.get("subscriber"),
            REQUEST_MEMBER: wishes.for_request(),
        },
        wishes=wishes,
        response=response,
        result_media_type=announced_media_type(description, wishes, response),
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


def parameters_of_existing_deployment(plan: Plan, description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters for a deployment whose flow takes inputs as Prefect parameters.

    A parameter gets the input of its name, as the bare value. Those of the names that flows
    for other managers have get what these hand them, unless the process has an input of that
    name.

    Args:
        plan: The plan.
        description: That of the process.

    Raises:
        InvalidRequest: The inputs hold what Prefect would replace with something else, on its
            server (``__prefect_kind``) or in the flow's engine (``$ref``): inputs arrive
            verbatim or not at all. Or a link is in the place of a value: nothing between the
            client and the flow follows it.
    """
    inputs = bare_inputs_without_links(description, plan.request["inputs"])
    outputs = plan.request["outputs"]
    if _has_member([inputs, outputs], {"__prefect_kind", "$ref"}):
        raise InvalidRequest("inputs: members named $ref or __prefect_kind are not allowed here")
    handed = {
        "processor_id": plan.process_id,
        "pygeoapi_job_id": plan.job_id,
        "inputs": inputs,
        "outputs": outputs,
    }
    return {
        name: value for name, value in handed.items() if name not in description["inputs"]
    } | inputs


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
    description: Mapping[str, Any], wishes: Wishes, response: ProcessResponseType
) -> str:
    """Return the media type that the whole result will have if outputs keep to the description."""
    if response is ProcessResponseType.document:
        return JSON_MEDIA_TYPE
    if len(wishes.outputs) > 1:
        return "multipart/related"
    declared = description.get("outputs") or {}
    for output_id, wish in wishes.outputs.items():
        return wanted_media_type(wish) or described_media_type(declared.get(output_id, {}))
    return JSON_MEDIA_TYPE


def response_type(request: Mapping[str, Any]) -> ProcessResponseType:
    """Return the form in which a request wants its result. Raises `InvalidRequest`."""
    try:
        return ProcessResponseType(str(request.get("response") or ProcessResponseType.raw))
    except ValueError:
        known = " or ".join(ProcessResponseType)
        raise InvalidRequest(f"response: must be {known}") from None


def _has_member(value: Any, names: set[str]) -> bool:
    if isinstance(value, Mapping):
        return bool(names & value.keys()) or any(_has_member(v, names) for v in value.values())
    return isinstance(value, list) and any(_has_member(item, names) for item in value)
