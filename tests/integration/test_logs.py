"""Logs of jobs as a real Prefect server keeps them."""

import time
from collections.abc import Iterator

import prefect.runtime.flow_run
import pytest
from prefect import flow, get_run_logger, tags, task
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from pygeoapi_prefect.gateway import ApiGateway
from pygeoapi_prefect.jobs import JOB_TAG
from pygeoapi_prefect.logs import LogLine, LogPosition

DEADLINE_SECONDS = 120.0


@task
def resample() -> None:
    get_run_logger().warning("no data in tile 3")


@flow
def mosaic() -> None:
    get_run_logger().info("merging")


@flow(log_prints=True)
def compute() -> str:
    print("reading")  # noqa: T201
    resample()
    mosaic()
    get_run_logger().debug("details")
    return str(prefect.runtime.flow_run.get_id())


@pytest.fixture(scope="module")
def gateway(prefect_server: str) -> Iterator[ApiGateway]:
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        gateway = ApiGateway()
        yield gateway
        gateway.close()


@pytest.fixture(scope="module")
def lines(gateway: ApiGateway) -> list[LogLine]:
    """The whole log of a job."""
    with tags(JOB_TAG):
        job = gateway.find(compute())
    APILogWorker.drain_all()
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    # the task's name comes from events, a little later
    while time.monotonic() < give_up_at:
        lines = gateway.log(job, LogPosition(), 200)
        if any(line.task for line in lines):
            break
        time.sleep(0.1)
    first = gateway.log(job, LogPosition(), 2)
    assert first == lines[:2]
    assert first + gateway.log(job, LogPosition().after(first), 200) == lines
    return lines


def test_flow_tasks_sub_flows_and_prints_are_in_the_log_in_their_order(
    lines: list[LogLine],
) -> None:
    wanted = ["reading", "no data in tile 3", "merging"]
    assert [line.message for line in lines if line.message in wanted] == wanted
    assert lines == sorted(lines, key=lambda line: line.time)


def test_lines_of_a_task_name_it_and_have_their_level(lines: list[LogLine]) -> None:
    (line,) = [line for line in lines if line.message.startswith("no data")]
    assert (line.level_name, line.logger) == ("WARNING", "prefect.task_runs")
    assert (line.task or "").startswith("resample")
