"""Processes whose jobs say in Redis on which machine they start."""

import os
import time
from typing import Any

from prefect import flow
from redis import Redis

from pygeoapi_prefect import BasePrefectProcessor, ProcessDescription

LARGE_CHARACTERS = 3_000_000
LONGEST_SECONDS = 600.0
RELEASE = "release"
"""What held jobs wait for."""


@flow
def work(inputs: dict[str, Any]) -> Any:
    with Redis.from_url(os.environ["NOTES_URL"]) as notes:
        notes.rpush(f"starts {inputs['label']}", os.environ["MACHINE"])
        match inputs["kind"]:
            case "failing":
                raise ValueError(f"no good: {inputs['label']}")
            case "large":
                return "x" * LARGE_CHARACTERS
            case "held":
                wait_for(lambda: notes.exists(RELEASE))
            case "endless":
                wait_for(lambda: False)
    return inputs["label"]


def wait_for(is_over: Any) -> None:
    give_up_at = time.monotonic() + LONGEST_SECONDS
    while not is_over() and time.monotonic() < give_up_at:
        time.sleep(0.05)


class Work(BasePrefectProcessor):
    process_flow = work
    process_description = ProcessDescription.model_validate(
        {
            "version": "1.0.0",
            "title": "Work",
            "description": "Ends in the way that it is asked to.",
            "jobControlOptions": ["sync-execute", "async-execute", "dismiss"],
            "inputs": {
                "label": {"schema": {"type": "string"}},
                "kind": {"schema": {"type": "string"}},
            },
            "outputs": {"result": {"schema": {"type": "string"}}},
        }
    )
