"""Flows deployed with Prefect alone, for processes that are described in YAML."""

import enum
import time
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.filesystems import LocalFileSystem
from pydantic import BaseModel, Field


@flow(persist_result=True, result_serializer="json")
def foreign(
    processor_id: str,
    pygeoapi_job_id: str,
    inputs: dict[str, Any],
    outputs: Any = None,
) -> Any:
    """Return what the input `kind` asks for, in one of the forms that such flows have."""
    match inputs.get("kind"):
        case "pair":
            return "text/csv", "a,b\n1,2\n"
        case "outputs":
            return {"first": {"number": 1}, "second": "two"}
        case "files":
            folder: Any = LocalFileSystem.load("foreign-results")
            folder.write_path(f"{pygeoapi_job_id}-first.txt", b"stored by the flow")
            return {
                "status": "successful",
                "generated_outputs": {
                    "first": {
                        "location": f"{pygeoapi_job_id}-first.txt",
                        "media_type": "text/plain",
                    }
                },
            }
    return {
        "processor_id": processor_id,
        "pygeoapi_job_id": pygeoapi_job_id,
        "inputs": inputs,
        "outputs": outputs,
    }


@flow(
    persist_result=True,
    result_serializer="compressed/json",
    result_storage="local-file-system/foreign-results",
)
def compressing(pygeoapi_job_id: str, inputs: dict[str, Any]) -> Any:
    return inputs


class MakesFile:
    """Its pickle, once loaded, leaves a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(self.path).touch, ()


@flow(persist_result=True, result_serializer="pickle", cache_result_in_memory=False)
def pickling(pygeoapi_job_id: str, inputs: dict[str, Any]) -> Any:
    return MakesFile(inputs["path"])


@task(
    persist_result=True,
    result_serializer="json",
    result_storage="local-file-system/foreign-results",
    result_storage_key="written/{parameters[pygeoapi_job_id]}.json",
)
def write(pygeoapi_job_id: str, inputs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "application/json", inputs


@flow
def writing(pygeoapi_job_id: str, inputs: dict[str, Any]) -> None:
    """Keeps its result where the configuration says, and its flow run does not."""
    write(pygeoapi_job_id, inputs)


class Unit(enum.Enum):
    METRES = "m"
    KILOMETRES = "km"


class Track(BaseModel):
    """Where somebody went."""

    name: str
    metres: list[Annotated[float, Field(ge=0)]]


@flow(
    persist_result=True,
    result_serializer="json",
    result_storage="local-file-system/foreign-results",
)
def adding(
    track: Track,
    pygeoapi_job_id: str,
    unit: Unit = Unit.METRES,
    pause: float = 0,
    key: str | None = None,
) -> dict[str, Any]:
    """Add up the parts of a track.

    Args:
        track: The track.
        pygeoapi_job_id: The job.
        unit: That of the sum.
        pause: Seconds to wait before.
        key: Something that a deployment knows.
    """
    time.sleep(pause)
    factor = 1 if unit is Unit.METRES else 1000
    return {
        "name": track.name,
        "sum": sum(track.metres) / factor,
        "unit": unit.value,
        "job": pygeoapi_job_id,
        "key": key,
    }


@flow
def forgetting(pygeoapi_job_id: str) -> str:
    return "lost"
