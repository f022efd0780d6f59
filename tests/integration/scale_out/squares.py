"""A process whose tasks run in a cluster of Dask that the job has for itself."""

import os
from typing import Any

from prefect import flow, task
from prefect_dask.task_runners import DaskTaskRunner

from pygeoapi_prefect import BasePrefectProcessor, ProcessDescription


@task
def square(number: int) -> tuple[int, int]:
    """The square, and the process that computed it."""
    return number**2, os.getpid()


@flow(
    task_runner=DaskTaskRunner(  # type: ignore[arg-type]  # its futures are of its own type
        cluster_kwargs={"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    )
)
def squares(inputs: dict[str, Any]) -> dict[str, Any]:
    found = square.map(inputs["numbers"]).result()
    return {
        "squares": [number for number, _ in found],
        "elsewhere": os.getpid() not in {process for _, process in found},
    }


class Squares(BasePrefectProcessor):
    process_flow = squares
    process_description = ProcessDescription.model_validate(
        {
            "version": "1.0.0",
            "title": "Squares",
            "description": "Squares numbers, several at a time.",
            "jobControlOptions": ["sync-execute", "async-execute"],
            "inputs": {"numbers": {"schema": {"type": "array", "items": {"type": "integer"}}}},
            "outputs": {"result": {"schema": {"type": "object"}}},
        }
    )
