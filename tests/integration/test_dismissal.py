"""Dismissing a job stops its work, wherever it runs, and removes what has ended."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from pygeoapi_prefect.errors import ExecutionError, JobNotFound, JobWasDismissed
from tests.integration.conftest import (
    DEADLINE_SECONDS,
    QUEUE_OF_ITS_OWN,
    WORK_POOL,
    HttpClient,
    Jobs,
    Site,
    eventually,
)

FlowRunOf = Callable[[str], FlowRun]

STOP_SECONDS = 15.0  # of which an idle machine takes one or two


def wait_until_alive(folder: Path) -> None:
    eventually(lambda: (folder / "alive").exists() or None)


def seconds_until_stopped(folder: Path, since: float) -> float:
    """How long after a moment the last sign of life came; there is one every 50 ms."""

    def look() -> float | None:
        last = os.stat(folder / "alive").st_mtime
        return last if time.time() - last > 1.5 else None

    return eventually(look) - since


def hooks_called(site: Site, run: FlowRun) -> set[str]:
    prefix = f"{run.name} "
    return {path.name.removeprefix(prefix) for path in (site.folder / "hooks").glob(f"{prefix}*")}


def test_a_running_job_of_a_worker_stops(
    web: Site, jobs: Jobs, worker: None, folder: Path, flow_run_of: FlowRunOf
) -> None:
    job_id = jobs.submit("hooked", {"end": "wait", "folder": str(folder)})
    wait_until_alive(folder)
    # what was known when it was submitted may hold for a moment
    eventually(lambda: jobs.manager.get_job(job_id)["status"] == "running" or None)
    dismissed_at = time.time()
    assert jobs.manager.delete_job(job_id)
    assert jobs.manager.get_job(job_id)["status"] == "dismissed"
    assert seconds_until_stopped(folder, dismissed_at) < STOP_SECONDS
    assert jobs.ended(job_id).status == "dismissed"
    run = flow_run_of(job_id)
    eventually(lambda: "cancellation" in hooks_called(web, run) or None)
    with pytest.raises(JobWasDismissed):
        jobs.manager.get_job_result(job_id)


def test_a_queued_job_never_runs(
    jobs: Jobs, worker: None, folder: Path, prefect_client: SyncPrefectClient
) -> None:
    queue = prefect_client.read_work_queue_by_name(QUEUE_OF_ITS_OWN, work_pool_name=WORK_POOL)
    first, second = folder / "first", folder / "second"
    first.mkdir()
    second.mkdir()
    prefect_client.update_work_queue(queue.id, is_paused=True)
    try:
        job_id = jobs.submit("queued", {"folder": str(first), "failures": 0})
        assert jobs.manager.get_job(job_id)["status"] == "accepted"
        assert jobs.manager.delete_job(job_id)
        assert jobs.ended(job_id).status == "dismissed"
    finally:
        prefect_client.update_work_queue(queue.id, is_paused=False)
    # the queue is in order: what comes later runs later
    jobs.result(jobs.submit("queued", {"folder": str(second), "failures": 0}))
    assert (second / "attempts").exists()
    assert not (first / "attempts").exists()
    assert jobs.manager.get_job(job_id)["status"] == "dismissed"


def test_a_running_job_of_the_web_process_stops_at_another_request(
    web: Site, jobs: Jobs, folder: Path, flow_run_of: FlowRunOf
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(jobs.run, "hooked", {"end": "wait", "folder": str(folder)})
        wait_until_alive(folder)
        job_id = jobs.newest("hooked").job_id
        dismissed_at = time.time()
        jobs.manager.delete_job(job_id)
        assert seconds_until_stopped(folder, dismissed_at) < STOP_SECONDS
        with pytest.raises(ExecutionError, match="dismissed"):
            waiting.result(timeout=DEADLINE_SECONDS)
    assert jobs.manager.get_job(job_id)["status"] == "dismissed"
    assert hooks_called(web, flow_run_of(job_id)) == {"running", "cancellation"}


def test_a_running_job_of_the_web_process_stops_when_another_process_dismisses_it(
    web: Site, jobs: Jobs, folder: Path
) -> None:
    other = web.manager()  # knows nothing of the threads of the first
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(jobs.run, "patient", {"folder": str(folder)})
        wait_until_alive(folder)
        job_id = jobs.newest("patient").job_id
        dismissed_at = time.time()
        other.delete_job(job_id)
        assert seconds_until_stopped(folder, dismissed_at) < STOP_SECONDS
        with pytest.raises(ExecutionError, match="dismissed"):
            waiting.result(timeout=DEADLINE_SECONDS)
    assert jobs.manager.get_job(job_id)["status"] == "dismissed"


def test_a_running_async_job_of_the_web_process_stops(
    web: Site, jobs: Jobs, folder: Path, flow_run_of: FlowRunOf
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(jobs.run, "waiting", {"folder": str(folder)})
        wait_until_alive(folder)
        job_id = jobs.newest("waiting").job_id
        jobs.manager.delete_job(job_id)
        with pytest.raises(ExecutionError, match="dismissed"):
            waiting.result(timeout=DEADLINE_SECONDS)
    assert jobs.manager.get_job(job_id)["status"] == "dismissed"
    assert (folder / "interrupted").exists()
    assert hooks_called(web, flow_run_of(job_id)) == {"cancellation"}


def test_a_finished_job_loses_its_files_and_its_run(
    web: Site, jobs: Jobs, flow_run_of: FlowRunOf, prefect_client: SyncPrefectClient
) -> None:
    job_id, _, _ = jobs.run("hello-world", {"name": "x" * 100_000})
    folder = web.results / job_id
    assert {path.name for path in folder.iterdir()} >= {"request.json", "outputs.json"}
    run_id = flow_run_of(job_id).id
    jobs.manager.delete_job(job_id)
    assert not folder.exists()
    with pytest.raises(JobNotFound):
        jobs.manager.get_job(job_id)
    with pytest.raises(ObjectNotFound):
        prefect_client.read_flow_run(run_id)


def test_both_applications_dismiss(http: HttpClient, jobs: Jobs, folder: Path) -> None:
    thread = threading.Thread(
        target=http,
        args=("POST", "/processes/patient/execution", {"inputs": {"folder": str(folder)}}),
    )
    thread.start()
    wait_until_alive(folder)
    job_id = jobs.newest("patient").job_id
    answer = http("DELETE", f"/jobs/{job_id}")
    assert (answer.status, answer.json["status"]) == (200, "dismissed")
    assert "application/json" in answer.headers["Content-Type"]
    thread.join(timeout=DEADLINE_SECONDS)
    assert not thread.is_alive()
    assert http("GET", f"/jobs/{job_id}?f=json").json["status"] == "dismissed"
    assert http("DELETE", f"/jobs/{job_id}").status == 200
    assert http("GET", f"/jobs/{job_id}?f=json").status == 404
    assert http("DELETE", f"/jobs/{job_id}").status == 404
