"""Short ways to say what authors say at length."""

from typing import Any

from prefect import Flow

from pygeoapi_prefect.process.base import BasePrefectProcessor
from pygeoapi_prefect.schemas import (
    ProcessDescription,
    ProcessInput,
    ProcessIOSchema,
    ProcessOutput,
)

ANYTHING = ProcessIOSchema()


def process_of(
    flow: Flow[..., Any],
    *input_ids: str,
    outputs: dict[str, ProcessIOSchema] | None = None,
) -> type[BasePrefectProcessor]:
    """A processor class for a flow, with optional inputs of any kind."""
    description = ProcessDescription(
        version="1.0.0",
        title=flow.name,
        description="A process for tests.",
        inputs={
            input_id: ProcessInput(schema_=ANYTHING, min_occurs=0, max_occurs=99)
            for input_id in input_ids
        },
        outputs={
            output_id: ProcessOutput(schema_=schema)
            for output_id, schema in (outputs or {"result": ANYTHING}).items()
        },
    )
    return type(
        flow.fn.__name__,
        (BasePrefectProcessor,),
        {"process_flow": flow, "process_description": description},
    )
