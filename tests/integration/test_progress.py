"""Progress that flows report, as the web side sees it through a real Prefect server."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import prefect.runtime.flow_run
import pytest
from prefect import flow, tags, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings

from pygeoapi_prefect import report_progress
from pygeoapi_prefect.errors import JobNotFound
from pygeoapi_prefect.gateway import ApiGateway
from pygeoapi_prefect.jobs import JOB_TAG, Job
from pygeoapi_prefect.progress import flush_progress
from pygeoapi_prefect.schemas import JobStatus

DEADLINE_SECONDS = 120.0


@pytest.fixture(autouse=True, scope="module")
def _impatient_reporter() -> Iterator[None]:
    """The thread that reports waits for more only as long as tests do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pygeoapi_prefect.progress.IDLE_SECONDS", 1.0)
        yield


@pytest.fixture
def patient_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a job waits for as long as it takes to send what was reported."""
    monkeypatch.setattr("pygeoapi_prefect.progress.FLUSH_SECONDS", DEADLINE_SECONDS)


@pytest.fixture
def gateway(prefect_server: str) -> Iterator[ApiGateway]:
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        gateway = ApiGateway()
        yield gateway
        gateway.close()


def current_job(gateway: ApiGateway) -> Job:
    return gateway.find(str(prefect.runtime.flow_run.get_id()))


def await_job(gateway: ApiGateway, is_as_wanted: Callable[[Job], bool]) -> Job:
    """The current job as soon as it is as wanted, or as it is when the time is up."""
    job_id = str(prefect.runtime.flow_run.get_id())
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while not is_as_wanted(job := gateway.find(job_id)) and time.monotonic() < give_up_at:
        time.sleep(0.02)
    return job


def test_a_report_is_seen_while_the_job_runs_by_the_call_that_reads_the_job(
    gateway: ApiGateway,
) -> None:
    seen: list[Job] = []

    @flow
    def compute() -> None:
        report_progress(30, "resampling")
        seen.append(await_job(gateway, lambda job: job.progress == 30))

    with tags(JOB_TAG):
        compute()
    (job,) = seen
    assert (job.status, job.progress, job.message) == (JobStatus.running, 30, "resampling")
    assert job.updated > job.started  # type: ignore[operator]


def test_tasks_of_a_thread_pool_report_for_their_job_and_the_message_stays(
    gateway: ApiGateway,
) -> None:
    seen: list[Job] = []

    @task
    def part() -> None:
        report_progress(40, "first half")
        report_progress(55.7)

    @flow
    def compute() -> None:
        part.submit().wait()
        seen.append(await_job(gateway, lambda job: job.progress == 55))

    with tags(JOB_TAG):
        compute()
    assert (seen[0].progress, seen[0].message) == (55, "first half")


def test_a_sub_flow_reports_for_the_job_above_it(gateway: ApiGateway) -> None:
    seen: list[Job] = []

    @flow
    def inner() -> None:
        report_progress(70, "in the sub-flow")

    @flow
    def middle() -> None:
        inner()

    @flow
    def outer() -> None:
        middle()
        report_progress(71)
        seen.append(await_job(gateway, lambda job: job.progress == 71))

    with tags(JOB_TAG):
        outer()
    assert (seen[0].progress, seen[0].message) == (71, "in the sub-flow")


def test_an_async_flow_reports(gateway: ApiGateway) -> None:
    seen: list[Job] = []

    @task
    async def part() -> None:
        report_progress(12)

    @flow
    async def compute() -> None:
        await part()
        seen.append(await_job(gateway, lambda job: job.progress == 12))

    async def run() -> None:
        with tags(JOB_TAG):
            await compute()

    asyncio.run(run())
    assert seen[0].progress == 12


def test_many_reports_cost_the_flow_nothing_and_the_last_one_counts(
    gateway: ApiGateway,
) -> None:
    seconds: list[float] = []
    seen: list[Job] = []

    @flow
    def compute() -> None:
        started_at = time.monotonic()
        for number in range(20_000):
            report_progress(number / 20_000 * 100, f"{number}")
        seconds.append(time.monotonic() - started_at)
        seen.append(await_job(gateway, lambda job: job.message == "19999"))

    with tags(JOB_TAG):
        compute()
    # with a call of the API for each, it would be a minute or more
    assert seconds[0] < 30
    assert seen[0].message == "19999"


@pytest.mark.usefixtures("patient_flush")
def test_a_failed_job_keeps_how_far_it_came(gateway: ApiGateway) -> None:
    run_ids: list[str] = []

    @flow
    def compute() -> None:
        run_ids.append(str(prefect.runtime.flow_run.get_id()))
        report_progress(80)
        flush_progress()
        raise RuntimeError("no more tiles")

    with tags(JOB_TAG):
        compute(return_state=True)
    job = gateway.find(run_ids[0])
    assert (job.status, job.progress) == (JobStatus.failed, 80)
    assert "no more tiles" in job.message


def test_tasks_ended_of_tasks_known_stand_in_where_a_flow_reports_nothing(
    gateway: ApiGateway,
) -> None:
    seen: list[Job] = []

    @task
    def part() -> None:
        return

    @flow
    def compute() -> None:
        for _ in range(3):
            part()
        job = current_job(gateway)
        give_up_at = time.monotonic() + DEADLINE_SECONDS
        # Prefect records task runs from events, a little later
        while (tasks := gateway.count_tasks(job)).ended < 3 and time.monotonic() < give_up_at:
            time.sleep(0.05)
        seen.append(job.with_tasks(ended=tasks.ended, known=tasks.known))

    with tags(JOB_TAG):
        compute()
    assert seen[0].progress == 99


@pytest.mark.usefixtures("patient_flush")
def test_the_prefect_ui_gets_one_progress_artifact_which_goes_with_the_job(
    gateway: ApiGateway,
) -> None:
    @flow
    def inner() -> None:
        return

    @flow
    def compute() -> str:
        inner()
        report_progress(10, "begun")
        flush_progress()
        report_progress(100, "done")
        flush_progress()
        return str(prefect.runtime.flow_run.get_id())

    with tags(JOB_TAG):
        run_id = compute()
    assert artifacts_of(run_id) == [(100.0, "done")]

    jobs_before = {job.job_id for job in gateway.page(limit=100_000).jobs}
    gateway.delete(gateway.find(run_id))
    assert artifacts_of(run_id) == []
    with pytest.raises(JobNotFound):
        gateway.find(run_id)
    # a sub-flow has the tags of its job, and must not become one
    assert {job.job_id for job in gateway.page(limit=100_000).jobs} == jobs_before - {run_id}


def test_the_bar_in_the_prefect_ui_catches_up_while_the_job_is_silent(
    gateway: ApiGateway,
) -> None:
    bars: list[list[tuple[Any, str | None]]] = []

    @flow
    def compute() -> None:
        run_id = str(prefect.runtime.flow_run.get_id())
        for percent, message in ((10, "begun"), (60, None)):
            report_progress(percent, message)
            give_up_at = time.monotonic() + DEADLINE_SECONDS
            while (bar := artifacts_of(run_id)) != [(percent, "begun")]:
                assert time.monotonic() < give_up_at, bar
                time.sleep(0.05)
            bars.append(bar)

    with tags(JOB_TAG):
        compute()
    assert len(bars) == 2


def test_a_report_to_a_server_that_is_gone_leaves_the_flow_alone(prefect_server: str) -> None:
    @flow
    def compute() -> str:
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            report_progress(50)
            started_at = time.monotonic()
            flush_progress()
            # Prefect's client alone would try for a minute
            assert time.monotonic() - started_at < 30
        return "done"

    with temporary_settings({PREFECT_API_URL: prefect_server}), tags(JOB_TAG):
        state: State[Any] = compute(return_state=True)
    assert state.is_completed()


def artifacts_of(run_id: str) -> list[tuple[Any, str | None]]:
    body = {"artifacts": {"flow_run_id": {"any_": [run_id]}}}
    with get_client(sync_client=True) as client:
        artifacts = client.request("POST", "/artifacts/filter", json=body).json()
    return [(artifact["data"], artifact["description"]) for artifact in artifacts]
