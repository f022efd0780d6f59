"""A flow whose tasks tell how far the job is; it waits until somebody can have seen it."""

import time

from prefect import flow, task

from pygeoapi_prefect import (
    BasePrefectProcessor,
    ExecuteRequest,
    ProcessDescription,
    ProcessInput,
    ProcessIOSchema,
    ProcessIOType,
    ProcessOutput,
    report_progress,
)
from pygeoapi_prefect.inputs import input_json

SEEN_SECONDS = 60.0


@task
def resample(tile: int, tiles: int) -> int:
    report_progress(90 * tile / tiles, f"resampled tile {tile}")
    return tile


@flow
def mosaic(execution_request: ExecuteRequest) -> int:
    tiles = input_json(execution_request.inputs["tiles"])
    report_progress(0, f"resampling {tiles} tiles")
    resampled = [resample(tile, tiles) for tile in range(1, tiles + 1)]
    time.sleep(SEEN_SECONDS)
    report_progress(95, "merging")
    return sum(resampled)


class MosaicProcessor(BasePrefectProcessor):
    process_flow = mosaic
    process_description = ProcessDescription(
        id="mosaic",
        version="1.0.0",
        title="Mosaic",
        inputs={
            "tiles": ProcessInput(
                title="Tiles", schema_=ProcessIOSchema(type_=ProcessIOType.INTEGER)
            )
        },
        outputs={
            "sum": ProcessOutput(title="Sum", schema_=ProcessIOSchema(type_=ProcessIOType.INTEGER))
        },
    )
