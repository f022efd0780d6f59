"""A greeting that shows what Prefect adds: tasks with names, retries and logs."""

from typing import Any

from prefect import flow, get_run_logger, task
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


@task(task_run_name="greet-{name}")
def compose_greeting(name: str, message: str | None) -> str:
    """Return a greeting, followed by a message if there is one."""
    greeting = f"Hi {name}, this is Prefect!"
    return greeting if message is None else f"{greeting} {message}"


# storage may be at the other end of a network: a short outage is no reason to fail
@task(retries=3, retry_delay_seconds=[1, 5, 20])
def store_text(result_storage_block: str, location: str, text: str) -> None:
    """Write text to the result storage.

    Args:
        result_storage_block: Name of a Prefect block, ``<type>/<name>``.
        location: Path within the storage.
        text: What to write; stored as UTF-8.
    """
    # Any, as blocks of every type that stores files fit
    storage: Any = Block.load(result_storage_block)
    storage.write_path(location, text.encode())
    get_run_logger().info("Stored %d characters", len(text))


@flow(persist_result=True, log_prints=True)
def hi_prefect_world(
    job_id: str,
    result_storage_block: str,
    process_description: ProcessDescription,
    execution_request: ExecuteRequest,
) -> JobStatusInfoInternal:
    """Greet someone in two tasks, and store the greeting as the output ``result``."""
    inputs = {name: input_json(value) for name, value in execution_request.inputs.items()}
    get_run_logger().info("Greeting %s in job %s", inputs["name"], job_id)
    greeting = compose_greeting(inputs["name"], inputs.get("message"))
    location = f"{job_id}/result.txt"
    store_text(result_storage_block, location, greeting)
    return JobStatusInfoInternal(
        job_id=job_id,
        process_id=process_description.id,
        status=JobStatus.successful,
        generated_outputs={
            "result": OutputExecutionResultInternal(location=location, media_type="text/plain")
        },
    )


class HiPrefectWorldProcessor(BasePrefectProcessor):
    """The process ``hi-prefect-world``."""

    process_flow = hi_prefect_world
    process_description = ProcessDescription(
        id="hi-prefect-world",
        version="1.0.0",
        title="Hi Prefect world",
        description=(
            "Greets someone in two Prefect tasks, which can be watched in the Prefect UI: one "
            "composes the greeting, one stores it and tries again if the storage is away."
        ),
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
        example={"inputs": {"name": "Ada", "message": "Nice to meet you."}},
    )
