"""A process whose output is larger than what a server should hold in memory."""

from pathlib import Path
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

MARK = b"the end"


@flow
def large(
    job_id: str, result_storage_block: str, execution_request: ExecuteRequest
) -> JobStatusInfoInternal:
    """Store a file of zeros with a mark at its end; the disk does not keep the zeros."""
    block: Any = Block.load(result_storage_block)
    path = Path(block.basepath, job_id, "zeros")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.seek(int(input_json(execution_request.inputs["bytes"])) - len(MARK))
        file.write(MARK)
    return JobStatusInfoInternal(
        job_id=job_id,
        status=JobStatus.successful,
        generated_outputs={
            "zeros": OutputExecutionResultInternal(
                location=f"{job_id}/zeros", media_type="application/octet-stream"
            )
        },
    )


class Large(BasePrefectProcessor):
    """The process ``large``."""

    process_flow = large
    process_description = ProcessDescription(
        id="large",
        version="1.0.0",
        title="Large",
        inputs={"bytes": ProcessInput(schema_=ProcessIOSchema(type_=ProcessIOType.INTEGER))},
        outputs={
            "zeros": ProcessOutput(
                schema_=ProcessIOSchema(
                    type_=ProcessIOType.STRING,
                    content_media_type="application/octet-stream",
                    content_encoding="binary",
                )
            )
        },
    )
