"""What a worker needs of the Prefect server is away, and comes back."""

import os
import signal
from pathlib import Path

from prefect.client.schemas.actions import WorkPoolUpdate

from tests.forwarder import Forwarder
from tests.integration.worker.conftest import FLOWS, Site, is_running, wait_for


def test_an_api_that_is_away_loses_nothing_and_runs_nothing_twice(
    site: Site, forwarder: Forwarder, tmp_path: Path
) -> None:
    worker = site.start_worker(api_url=f"http://127.0.0.1:{forwarder.port}/api")
    deployment = site.deploy("work")
    running = site.submit(deployment, seconds=3)
    killed = site.submit(deployment, seconds=600)
    pid = killed.pid
    assert running.pid
    with forwarder.closed():
        os.kill(pid, signal.SIGKILL)
        waiting = [site.submit(deployment, into=tmp_path) for _ in range(3)]
        wait_for(lambda: running.lines("ended"), "the running job to end, with nobody to tell")
        wait_for(lambda: b"is away" in worker.log.read_bytes(), "the worker to notice")

    assert all(job.wait_until_ended().is_completed() for job in [running, *waiting])
    assert killed.wait_until_ended().is_crashed()
    assert len(running.lines("began")) == 1
    assert len(waiting[0].lines("began")) == 3


def test_a_worker_stops_while_the_api_is_away(site: Site, forwarder: Forwarder) -> None:
    worker = site.start_worker(api_url=f"http://127.0.0.1:{forwarder.port}/api")
    # it wants to read the pool again, and cannot
    site.client.update_work_pool(site.pool, WorkPoolUpdate(description="changed"))
    with forwarder.closed():
        wait_for(lambda: "is away" in site.read_worker_logs(), "the worker to miss the API")

        worker.signal(signal.SIGTERM)

        assert worker.wait() == 0


def test_a_process_that_starts_while_the_api_is_away_keeps_its_job(
    site: Site, forwarder: Forwarder, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    # what a new interpreter does first
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, time\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        f"while not pathlib.Path({str(go)!r}).exists():\n"
        "    time.sleep(0.01)\n"
    )
    worker = site.start_worker(api_url=f"http://127.0.0.1:{forwarder.port}/api")
    path = os.pathsep.join([str(tmp_path), str(FLOWS)])
    job = site.submit(site.deploy("work", job_variables={"env": {"PYTHONPATH": path}}))
    wait_for(begun.exists, "a process for the job")
    with forwarder.closed():
        go.touch()
        wait_for(lambda: b"is away; trying again" in worker.log.read_bytes(), "it to miss the API")

    assert job.wait_until_ended().is_completed()
    assert len(job.lines("began")) == 1


def test_a_worker_ends_in_time_though_it_cannot_hand_back_its_jobs(
    site: Site, forwarder: Forwarder
) -> None:
    worker = site.start_worker(
        api_url=f"http://127.0.0.1:{forwarder.port}/api", shutdown_grace_seconds=600
    )
    job = site.submit("work", seconds=600)
    pid = job.pid
    with forwarder.closed():
        wait_for(lambda: "is away" in site.read_worker_logs(), "the worker to miss the API")

        worker.signal(signal.SIGTERM)
        wait_for(lambda: "Waiting for 1 jobs" in site.read_worker_logs(), "the worker to stop")
        # cuts the grace of the job short; what the worker has to tell has its own limit
        worker.signal(signal.SIGTERM)

        assert worker.wait() == 0
    assert not is_running(pid)
    site.start_worker()
    assert job.wait_until_ended(60).is_crashed()


def test_a_job_that_is_dismissed_while_its_worker_is_cut_off_ends_when_that_is_over(
    site: Site, forwarder: Forwarder
) -> None:
    worker = site.start_worker(api_url=f"http://127.0.0.1:{forwarder.port}/api", reap_seconds=600)
    job = site.submit("work", seconds=600)
    assert job.pid
    with forwarder.closed():
        wait_for(lambda: b"is away" in worker.log.read_bytes(), "the worker to notice")
        job.dismiss()

    assert job.wait_until_ended(60).is_cancelled()


def test_the_jobs_of_a_pool_that_is_deleted_end_and_its_worker_waits_for_another(
    site: Site,
) -> None:
    # as `pygeoapi-prefect worker` starts it
    worker = site.start_worker("--no-create-pool-if-not-found")
    job = site.submit("work", seconds=5)
    assert job.pid
    site.client.request("DELETE", "/work_pools/{name}", path_params={"name": site.pool})
    wait_for(lambda: "There is no work pool" in site.read_worker_logs(), "the worker to notice")
    assert job.wait_until_ended().is_completed()
    assert worker.process.poll() is None

    site.make_pool()

    assert site.submit("work").wait_until_ended().is_completed()
