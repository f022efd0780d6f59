"""Outputs that are made in pieces, and results that Prefect keeps."""

from collections.abc import Iterator
from typing import Any

from prefect import flow, task
from pygeoapi.process.base import BaseProcessor

from pygeoapi_prefect import BasePrefectProcessor, JobStatusInfoInternal, ProcessDescription
from pygeoapi_prefect.storage import open_storage

MIB = 1024**2
METADATA: dict[str, Any] = {
    "version": "1.0.0",
    "id": "streaming",
    "title": "Streaming",
    "description": "Makes an output in pieces.",
    "jobControlOptions": ["sync-execute", "async-execute"],
    "inputs": {
        "mib": {"schema": {"type": "integer"}},
        "fails": {"schema": {"type": "boolean", "default": False}, "minOccurs": 0},
    },
    "outputs": {
        "zeros": {
            "schema": {
                "type": "string",
                "contentEncoding": "binary",
                "contentMediaType": "application/octet-stream",
            }
        }
    },
}


def zeros(mib: int) -> Iterator[bytes]:
    for _ in range(mib):
        yield bytes(MIB)
    yield b"the end"


class Streaming(BaseProcessor):
    """Returns an iterator of bytes, which may break off before its end."""

    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, METADATA)

    def execute(self, data: dict[str, Any], outputs: Any = None) -> tuple[str, Any]:
        return "application/octet-stream", self._pieces(data["mib"], data.get("fails", False))

    @staticmethod
    def _pieces(mib: int, fails: bool) -> Iterator[bytes]:
        yield from zeros(mib)
        if fails:
            raise RuntimeError("the well ran dry")


@task(persist_result=True)
def count(mib: int) -> int:
    return mib * MIB + len(b"the end")


@flow(persist_result=True)
def written_by_flow(
    job_id: str, result_storage_block: str, inputs: dict[str, Any]
) -> JobStatusInfoInternal:
    """Write an output in pieces, and leave results of flow and task to Prefect."""
    count(inputs["mib"])
    key = f"{job_id}/zeros.bin"
    with open_storage(result_storage_block).create(key) as file:
        for piece in zeros(inputs["mib"]):
            file.write(piece)
    return JobStatusInfoInternal.model_validate(
        {
            "jobID": job_id,
            "status": "successful",
            "generated_outputs": {
                "zeros": {"location": key, "media_type": "application/octet-stream"}
            },
        }
    )


class WrittenByFlow(BasePrefectProcessor):
    """The process `written-by-flow`."""

    process_flow = written_by_flow
    process_description = ProcessDescription.model_validate(
        {**METADATA, "id": "", "title": "Written by a flow"}
    )
