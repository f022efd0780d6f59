"""The ways in which flows are written to be processes."""

import json
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.filesystems import LocalFileSystem

from pygeoapi_prefect.schemas import (
    ExecuteRequest,
    ExecutionQualifiedInputValue,
    JobStatus,
    JobStatusInfoInternal,
    Link,
    OutputExecutionResultInternal,
    ProcessDescription,
    ProcessIOSchema,
    ProcessIOType,
)

from .declare import process_of

TEXT = ProcessIOSchema(type_=ProcessIOType.STRING, content_media_type="text/plain")


@flow(persist_result=True)
def storing(
    job_id: str,
    result_storage_block: str,
    process_description: ProcessDescription,
    execution_request: ExecuteRequest,
) -> JobStatusInfoInternal:
    """Store `content` through the block, and report it as the input `reported_as` says."""
    inputs: Any = execution_request.inputs
    content, reported_as = inputs["content"].__root__, inputs["reported_as"].__root__
    storage_type, _, block_name = result_storage_block.partition("/")
    assert storage_type == "local-file-system"
    block: Any = LocalFileSystem.load(block_name)
    key = f"{job_id}/result.txt"
    written = block.write_path(key, content.encode())
    location = {
        "absolute": str(Path(block.basepath, key)),
        "written": str(written or Path(block.basepath, key)),
        "relative": key,
        "url": Path(block.basepath, key).as_uri(),
        "outside": "/etc/hostname",
        "climbing": f"{job_id}/../../../etc/hostname",
        "absent": f"{job_id}/other.txt",
    }[reported_as]
    return JobStatusInfoInternal(
        job_id=job_id,
        process_id=process_description.id,
        status=JobStatus.successful,
        generated_outputs={
            "result": OutputExecutionResultInternal(location=location, media_type="text/plain")
        },
    )


@flow
def four_other_parameters(
    processor_id: str,
    pygeoapi_job_id: str,
    inputs: dict[str, Any],
    outputs: dict[str, Any] | None = None,
) -> tuple[str, Any]:
    return "application/json", {
        "processor_id": processor_id,
        "pygeoapi_job_id": pygeoapi_job_id,
        "inputs": inputs,
        "outputs": outputs,
    }


@flow
def inputs_alone(inputs: dict[str, Any]) -> Any:
    return inputs["value"]


@flow
def nothing_declared() -> str:
    return "I know nothing"


@flow
def request_alone(execution_request: ExecuteRequest) -> str:
    """Say what the models have made of each input."""
    kinds = {}
    inputs: dict[str, Any] = {**execution_request.inputs}
    for input_id, value in inputs.items():
        match value:
            case Link():
                kinds[input_id] = {"link": value.href}
            case ExecutionQualifiedInputValue():
                kinds[input_id] = {"qualified": value.model_dump(mode="json")["value"]}
            case _:
                root = value.__root__
                kinds[input_id] = {"inline": getattr(root, "__root__", root)}
    return json.dumps(kinds, default=lambda model: model.model_dump(mode="json"))


@flow
async def asynchronous_request(job_id: str, execution_request: ExecuteRequest) -> Any:
    return execution_request.model_dump(mode="json")["inputs"]["value"]


Storing = process_of(storing, "content", "reported_as", outputs={"result": TEXT})
FourOtherParameters = process_of(four_other_parameters, "value", "more")
InputsAlone = process_of(inputs_alone, "value")
NothingDeclared = process_of(nothing_declared)
RequestAlone = process_of(request_alone, "text", "object", "qualified", "list", "box")
AsynchronousRequest = process_of(asynchronous_request, "value")
