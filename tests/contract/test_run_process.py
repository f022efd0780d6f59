"""A process in a test of its author: under Prefect's engine, with tasks."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_run_logger, task
from prefect.filesystems import LocalFileSystem
from pygeoapi.process.hello_world import HelloWorldProcessor

from pygeoapi_prefect.errors import InvalidRequest
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
from pygeoapi_prefect.testing import run_process

pytestmark = pytest.mark.usefixtures("prefect_api")

TEXT = ProcessIOSchema(type_=ProcessIOType.STRING, content_media_type="text/plain")
attempts: list[str] = []


@task(retries=1)
def shouted(text: str) -> str:
    attempts.append(text)
    if len(attempts) == 1:
        raise ConnectionError("try again")
    return text.upper()


@flow(persist_result=True)
def shouting(
    job_id: str, result_storage_block: str, execution_request: ExecuteRequest
) -> JobStatusInfoInternal:
    text: Any = execution_request.inputs["text"]
    get_run_logger().info("shouting %s", text.root)
    if not text.root:
        raise ValueError("there is nothing to shout")
    location = f"{job_id}/shouted.txt"
    content = shouted(text.root).encode()
    block: Any = LocalFileSystem.load(result_storage_block.partition("/")[2])
    block.write_path(location, content)
    return JobStatusInfoInternal(
        job_id=job_id,
        status=JobStatus.successful,
        generated_outputs={
            "shouted": OutputExecutionResultInternal(location=location, media_type="text/plain")
        },
    )


class Shouting(BasePrefectProcessor):
    process_flow = shouting
    process_description = ProcessDescription(
        id="shouting",
        version="1",
        inputs={"text": ProcessInput(schema_=TEXT)},
        outputs={"shouted": ProcessOutput(schema_=TEXT)},
    )


@flow
async def counting(inputs: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"length": len(inputs["text"]), "text": inputs["text"]}


class Counting(BasePrefectProcessor):
    process_flow = counting
    process_description = ProcessDescription(
        id="counting",
        version="1",
        inputs={"text": ProcessInput(schema_=TEXT)},
        outputs={
            "length": ProcessOutput(schema_=ProcessIOSchema()),
            "text": ProcessOutput(schema_=TEXT),
        },
    )


def test_a_flow_with_tasks_and_a_block_runs(tmp_path: Path) -> None:
    attempts.clear()

    outputs = run_process(Shouting, {"text": "ü"}, folder=tmp_path)

    assert outputs == {"shouted": ("text/plain", "Ü".encode())}
    assert attempts == ["ü", "ü"]


def test_an_asynchronous_flow_gives_the_outputs_that_are_wanted(tmp_path: Path) -> None:
    assert run_process(Counting, {"text": "abc"}, folder=tmp_path) == {
        "length": ("application/json", b"3"),
        "text": ("text/plain", b"abc"),
    }
    wanted = run_process(Counting, {"text": "abc"}, folder=tmp_path, outputs={"length": {}})
    assert wanted == {"length": ("application/json", b"3")}


def test_an_ordinary_processor_runs(tmp_path: Path) -> None:
    outputs = run_process(HelloWorldProcessor, {"name": "x"}, folder=tmp_path)

    assert outputs == {
        "echo": ("application/json", b'{"id": "echo", "value": "Hello x!"}'),
    }


def test_inputs_are_checked_as_those_of_clients(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="text"):
        run_process(Shouting, {"text": 5}, folder=tmp_path)


def test_what_a_process_raises_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing to shout"):
        run_process(Shouting, {"text": ""}, folder=tmp_path)
