"""A process that returns what it is given, for conformance tests and for trying clients.

It has every kind of input that the conformance suite of OGC API - Processes looks for
(ets-ogcapi-processes10): give the suite ``echo`` as the id of the process to test.
"""

import json
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from prefect import flow, get_run_logger
from prefect.blocks.core import Block

from pygeoapi_prefect.inputs import input_bytes, input_json
from pygeoapi_prefect.process.base import BasePrefectProcessor
from pygeoapi_prefect.schemas import (
    ExecuteRequest,
    ExecutionQualifiedInputValue,
    JobStatus,
    JobStatusInfoInternal,
    Link,
    OutputExecutionResultInternal,
    ProcessDescription,
    ProcessInput,
    ProcessIOFormat,
    ProcessIOSchema,
    ProcessIOType,
    ProcessOutput,
)

LONGEST_PAUSE_SECONDS = 600
# a job that is dismissed stops between two naps
NAP_SECONDS = 0.5
# the other outputs are JSON
TEXT_MEDIA_TYPES = {"message": "text/plain", "document": "text/markdown"}
# of inputs that need not be given; whoever asks for an output gets one
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "numbers": [],
        "area": {"bbox": [-180, -90, 180, 90]},
        "pause": 0,
        "document": "",
        "mixed": "",
    }
)


@flow(persist_result=True, log_prints=True)
def echo(
    job_id: str,
    result_storage_block: str,
    process_description: ProcessDescription,
    execution_request: ExecuteRequest,
) -> JobStatusInfoInternal:
    """Store each input that was given as the output of the same id, after an optional pause.

    An output that is asked for by name without its input is what stands for none.
    """
    pause_seconds = 0.0
    if "pause" in execution_request.inputs:
        pause_seconds = float(input_json(execution_request.inputs["pause"]))
        get_run_logger().info("Pausing for %g s", pause_seconds)
    pause(pause_seconds)
    # Any, as blocks of every type that stores files fit
    storage: Any = Block.load(result_storage_block)
    outputs = {}
    named = execution_request.outputs or {}
    defaults = {output_id: DEFAULTS[output_id] for output_id in named if output_id in DEFAULTS}
    for input_id, value in {**defaults, **execution_request.inputs}.items():
        content, media_type = echoed(input_id, value)
        location = f"{job_id}/{input_id}"
        storage.write_path(location, content)
        outputs[input_id] = OutputExecutionResultInternal(location=location, media_type=media_type)
    return JobStatusInfoInternal(
        job_id=job_id,
        process_id=process_description.id,
        status=JobStatus.successful,
        generated_outputs=outputs,
    )


def pause(seconds: float) -> None:
    """Do nothing for a while, in naps of `NAP_SECONDS`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, NAP_SECONDS))


def echoed(input_id: str, value: Any) -> tuple[bytes, str]:
    """Return content and media type of the output for an input.

    Args:
        input_id: Id of the input.
        value: Its value in an `ExecuteRequest`.

    Raises:
        InvalidRequest: The value is a link that cannot be followed, or broken base64.
    """
    media_type = TEXT_MEDIA_TYPES.get(input_id)
    if media_type is None:
        content = json.dumps(input_json(value), ensure_ascii=False)
        return content.encode(), "application/json"
    if _is_elsewhere(value):
        return input_bytes(value), media_type
    return str(input_json(value)).encode(), media_type


def _is_elsewhere(value: Any) -> bool:
    """Tell whether a text is not in the request as it reads: by reference, or in base64."""
    is_qualified = isinstance(value, ExecutionQualifiedInputValue)
    return isinstance(value, Link) or (is_qualified and value.encoding == "base64")


_MESSAGE = ProcessIOSchema(type_=ProcessIOType.STRING)
_NUMBERS = ProcessIOSchema(
    type_=ProcessIOType.ARRAY, items=ProcessIOSchema(type_=ProcessIOType.INTEGER)
)
_AREA = ProcessIOSchema(
    # the conformance suite wants the format in the first branch, and no `$ref`
    all_of=[
        ProcessIOSchema(format_=ProcessIOFormat.OGC_BBOX_SHORT_CODE),
        ProcessIOSchema(
            type_=ProcessIOType.OBJECT,
            required=["bbox"],
            properties={
                "bbox": ProcessIOSchema(
                    type_=ProcessIOType.ARRAY, items=ProcessIOSchema(type_=ProcessIOType.NUMBER)
                ),
                "crs": ProcessIOSchema(type_=ProcessIOType.STRING),
            },
        ),
    ]
)
_PAUSE = ProcessIOSchema(type_=ProcessIOType.NUMBER, minimum=0, maximum=LONGEST_PAUSE_SECONDS)
_DOCUMENT = ProcessIOSchema(
    type_=ProcessIOType.STRING, content_media_type=TEXT_MEDIA_TYPES["document"]
)
_MIXED = ProcessIOSchema(
    one_of=[
        ProcessIOSchema(type_=ProcessIOType.STRING),
        ProcessIOSchema(type_=ProcessIOType.NUMBER),
        ProcessIOSchema(type_=ProcessIOType.BOOLEAN),
    ]
)


class EchoProcessor(BasePrefectProcessor):
    """The process ``echo``."""

    process_flow = echo
    process_description = ProcessDescription(
        id="echo",
        version="1.0.0",
        title="Echo",
        description=(
            "Returns what it is given: every input that is given comes back as the output of "
            "the same id. An output that is asked for by name is there without its input too: "
            "empty, zero, or the whole world. Made for conformance tests and for trying clients."
        ),
        keywords=["echo", "example", "conformance", "test"],
        inputs={
            "message": ProcessInput(title="Message", description="Any text.", schema_=_MESSAGE),
            "numbers": ProcessInput(
                title="Numbers", description="Whole numbers.", schema_=_NUMBERS, min_occurs=0
            ),
            "area": ProcessInput(
                title="Area", description="A bounding box.", schema_=_AREA, min_occurs=0
            ),
            "pause": ProcessInput(
                title="Pause",
                description="How long the job waits before it answers, in seconds.",
                schema_=_PAUSE,
                min_occurs=0,
            ),
            "document": ProcessInput(
                title="Document", description="Text in Markdown.", schema_=_DOCUMENT, min_occurs=0
            ),
            "mixed": ProcessInput(
                title="Mixed",
                description="A text, a number, or true or false.",
                schema_=_MIXED,
                min_occurs=0,
            ),
        },
        outputs={
            "message": ProcessOutput(title="Message", description="The message.", schema_=_MESSAGE),
            "numbers": ProcessOutput(title="Numbers", description="The numbers.", schema_=_NUMBERS),
            "area": ProcessOutput(title="Area", description="The bounding box.", schema_=_AREA),
            "pause": ProcessOutput(
                title="Pause", description="The length of the pause, in seconds.", schema_=_PAUSE
            ),
            "document": ProcessOutput(
                title="Document", description="The document.", schema_=_DOCUMENT
            ),
            "mixed": ProcessOutput(title="Mixed", description="The mixed value.", schema_=_MIXED),
        },
        example={
            "inputs": {
                "message": "Is anybody there?",
                "numbers": [1, 2, 3],
                "area": {"bbox": [5.9, 45.8, 10.5, 47.8]},
            }
        },
    )
