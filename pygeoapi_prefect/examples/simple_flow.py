"""The smallest process: one flow, no tasks."""

from typing import Any

from prefect import flow
from prefect.blocks.core import Block

from pygeoapi_prefect.inputs import input_json
from pygeoapi_prefect.process.base import BasePrefectProcessor
from pygeoapi_prefect.schemas import (
    ExecuteRequest,
    JobStatus,
    JobStatusInfoInternal,
    OutputExecutionResultInternal,
    ProcessDescription,
    ProcessInput,
    ProcessIOSchema,
    ProcessIOType,
    ProcessOutput,
)


@flow(persist_result=True, log_prints=True)
def simple_flow(
    job_id: str,
    result_storage_block: str,
    process_description: ProcessDescription,
    execution_request: ExecuteRequest,
) -> JobStatusInfoInternal:
    """Greet someone, and store the greeting as the output ``result``."""
    name = input_json(execution_request.inputs["name"])
    greeting = f"Hello {name}!"
    if "message" in execution_request.inputs:
        greeting += f" {input_json(execution_request.inputs['message'])}"

    location = f"{job_id}/result.txt"
    # Any, as blocks of every type that stores files fit; in a flow that is not async both
    # calls return when they are done
    storage: Any = Block.load(result_storage_block)
    storage.write_path(location, greeting.encode())
    return JobStatusInfoInternal(
        job_id=job_id,
        process_id=process_description.id,
        status=JobStatus.successful,
        generated_outputs={
            "result": OutputExecutionResultInternal(location=location, media_type="text/plain")
        },
    )


class SimpleFlowProcessor(BasePrefectProcessor):
    """The process ``simple-flow``."""

    process_flow = simple_flow
    process_description = ProcessDescription(
        id="simple-flow",
        version="1.0.0",
        title="Simple flow",
        description="Greets someone. The smallest process that is a Prefect flow.",
        keywords=["hello", "example", "prefect"],
        inputs={
            "name": ProcessInput(
                title="Name",
                description="Who is greeted.",
                schema_=ProcessIOSchema(type_=ProcessIOType.STRING, min_length=1),
            ),
            "message": ProcessInput(
                title="Message",
                description="What else there is to say.",
                schema_=ProcessIOSchema(type_=ProcessIOType.STRING),
                min_occurs=0,
            ),
        },
        outputs={
            "result": ProcessOutput(
                title="Greeting",
                description="The greeting, followed by the message.",
                schema_=ProcessIOSchema(
                    type_=ProcessIOType.STRING, content_media_type="text/plain"
                ),
            )
        },
        example={"inputs": {"name": "Ada", "message": "How do you do?"}},
    )
