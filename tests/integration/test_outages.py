"""What clients see when the Prefect API, a deployment or a web process is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient

from benchmarks.stand.ports import free_port
from pygeoapi_prefect.configuration_file import load_configuration
from pygeoapi_prefect.deployments import deploy
from pygeoapi_prefect.errors import BackendUnavailable, DeploymentNotFound
from pygeoapi_prefect.web_runs import UNTOLD
from tests.conftest import die_with_parent, stop
from tests.integration.conftest import DEADLINE_SECONDS, HttpClient, Jobs, Site, eventually

Serve = Callable[..., tuple[subprocess.Popen[bytes], str]]


def test_both_applications_say_that_prefect_is_down_and_go_on_when_it_is_back(
    http: HttpClient, web: Site, jobs: Jobs
) -> None:
    job_id, _, _ = jobs.run("hello-world", {"name": "Ada"})
    execution = "/processes/hello-world/execution"
    body = {"inputs": {"name": "Ada"}}
    requests: list[tuple[str, str, object, dict[str, str]]] = [
        ("POST", execution, body, {}),
        ("POST", execution, body, {"Prefer": "respond-async"}),
        ("GET", "/jobs?f=json", None, {}),
        ("GET", f"/jobs/{job_id}?f=json", None, {}),
        ("GET", f"/jobs/{job_id}/results?f=json", None, {}),
        ("GET", f"/jobs/{job_id}/results/echo", None, {}),
        ("DELETE", f"/jobs/{job_id}", None, {}),
    ]
    assert http("GET", f"/jobs/{job_id}?f=json").status == 200  # over a connection that breaks
    with web.forwarder.closed():
        down_since = time.monotonic()
        for method, path, sent, headers in requests:
            answer = http(method, path, sent, headers)
            assert answer.status == 503, (method, path, answer.body)
            assert "Prefect server cannot be reached" in answer.json["description"]
            assert b"127.0.0.1" not in answer.body
        # Prefect's client alone would retry each of them for a minute
        assert time.monotonic() - down_since < 60
        assert http("GET", "/processes?f=json").status == 200
    for method, path, sent, headers in requests:
        answer = http(method, path, sent, headers)
        assert answer.status in (200, 201), (method, path, answer.body)


def test_a_manager_that_starts_while_prefect_is_down_works_when_it_is_back(web: Site) -> None:
    manager = web.manager()
    with web.forwarder.closed(), pytest.raises(BackendUnavailable):
        manager.get_jobs(limit=1)
    assert manager.get_jobs(limit=1)["numberMatched"] >= 0
    assert Jobs(manager).run("hello-world", {"name": "Ada"})


def test_a_process_whose_deployment_nobody_made_says_which_command_does(jobs: Jobs) -> None:
    with pytest.raises(DeploymentNotFound, match="`pygeoapi-prefect deploy`"):
        jobs.submit("undeployed", {})


def test_a_deployment_that_was_removed_is_missed_and_found_again(
    web: Site, jobs: Jobs, prefect_client: SyncPrefectClient
) -> None:
    jobs.manager.delete_job(jobs.submit("tagged", {}))  # the manager knows its id now
    deployment = prefect_client.read_deployment_by_name("tagged/tagged")
    prefect_client.delete_deployment(deployment.id)
    with pytest.raises(DeploymentNotFound, match="`pygeoapi-prefect deploy`"):
        jobs.submit("tagged", {})
    changes = {
        change.process_id: change.action for change in deploy(load_configuration(web.config_path))
    }
    assert changes["tagged"] == "created"
    assert changes["hello-world"] == "unchanged"
    jobs.manager.delete_job(jobs.submit("tagged", {}))


def test_a_job_goes_on_when_its_client_has_waited_long_enough(web: Site, folder: Path) -> None:
    jobs = Jobs(web.manager(sync_job_execution_timeout_seconds=0.5))
    job_id, _, _, status, headers = jobs.manager.execute_process("patient", {"folder": str(folder)})
    assert (status.value, headers["Preference-Applied"]) == ("accepted", "respond-async")
    eventually(lambda: (folder / "alive").exists() or None)
    assert jobs.manager.get_job(job_id)["status"] == "running"
    (folder / "go").touch()
    assert json.loads(jobs.result(job_id)) == "went on"


@pytest.mark.parametrize("runs_in", ["worker", "web process"])
def test_who_waits_while_prefect_is_away_gets_the_result(
    web: Site, worker: None, folder: Path, caplog: pytest.LogCaptureFixture, runs_in: str
) -> None:
    jobs = Jobs(web.manager(sync_through_deployments=runs_in == "worker"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(jobs.run, "patient", {"folder": str(folder)})
        eventually(lambda: (folder / "alive").exists() or None)
        with web.forwarder.closed():
            # the wait, or the watch over jobs of the web process, has met it
            eventually(lambda: "the Prefect API cannot be reached" in caplog.text or None)
            (folder / "go").touch()
        _, _, body = waiting.result(timeout=DEADLINE_SECONDS)
    assert json.loads(body) == "went on"


def test_who_waits_for_too_long_while_prefect_is_away_gets_the_job(
    web: Site, worker: None, folder: Path
) -> None:
    jobs = Jobs(web.manager(sync_through_deployments=True, sync_job_execution_timeout_seconds=3))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(jobs.manager.execute_process, "patient", {"folder": str(folder)})
        eventually(lambda: (folder / "alive").exists() or None)
        with web.forwarder.closed():
            job_id, _, _, status, _ = waiting.result(timeout=DEADLINE_SECONDS)
    assert status.value == "accepted"
    (folder / "go").touch()
    assert json.loads(jobs.result(job_id)) == "went on"


@pytest.fixture
def serve(web: Site) -> Iterator[Serve]:
    """Returns a function that starts a web server, as an operator does, and its address."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(**environment: str) -> tuple[subprocess.Popen[bytes], str]:
        port = free_port()
        command = Path(sys.executable).with_name("pygeoapi-prefect")
        with (web.folder / "serve.log").open("ab") as log:
            process = subprocess.Popen(
                [command, "serve", "--config", web.config_path.name, "--port", str(port)],
                cwd=web.folder,
                env=os.environ | {"PREFECT_API_URL": web.prefect_api_url} | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        processes.append(process)

        def look() -> bool | None:
            assert process.poll() is None, (web.folder / "serve.log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0 or None

        eventually(look)
        return process, f"http://127.0.0.1:{port}"

    yield start
    for process in processes:
        stop(process)


def test_a_synchronous_job_whose_end_could_not_be_told_fails_when_prefect_is_back(
    web: Site, jobs: Jobs, folder: Path, serve: Serve
) -> None:
    # Prefect's engine would try for a minute
    _, url = serve(PREFECT_API_URL=web.forwarded_api_url, PREFECT_CLIENT_MAX_RETRIES="0")
    log = web.folder / "serve.log"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            httpx.post,
            f"{url}/processes/patient/execution",
            json={"inputs": {"folder": str(folder)}},
            timeout=DEADLINE_SECONDS,
        )
        eventually(lambda: (folder / "alive").exists() or None)
        job_id = jobs.newest("patient").job_id
        with web.forwarder.closed():
            (folder / "go").touch()
            eventually(lambda: "broke off" in log.read_text() or None)
            answer = waiting.result(timeout=DEADLINE_SECONDS)
    assert (answer.status_code, answer.json()["jobID"]) == (201, job_id)
    job = jobs.ended(job_id)
    assert (job.status, job.message) == ("failed", UNTOLD)


def test_the_job_of_a_web_process_that_was_killed_fails(
    web: Site,
    jobs: Jobs,
    folder: Path,
    serve: Serve,
) -> None:
    server, url = serve()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            httpx.post,
            f"{url}/processes/patient/execution",
            json={"inputs": {"folder": str(folder)}},
            timeout=DEADLINE_SECONDS,
        )
        # the process is a module beside the configuration, which only the folder leads to
        eventually(lambda: (folder / "alive").exists() or None)
        job_id = jobs.newest("patient").job_id
        server.send_signal(signal.SIGKILL)
        server.wait()
        with pytest.raises(httpx.TransportError):
            waiting.result(timeout=DEADLINE_SECONDS)
    successor = web.manager()
    job = successor.get_job(job_id)
    assert job["status"] == "failed"
    assert job["message"] == "The web server process that ran the job has ended"


def test_jobs_of_web_processes_that_live_are_left_alone(web: Site, folder: Path) -> None:
    jobs = Jobs(web.manager(sync_job_execution_timeout_seconds=0.5))
    job_id, *_ = jobs.manager.execute_process("patient", {"folder": str(folder)})
    eventually(lambda: (folder / "alive").exists() or None)
    assert web.manager().get_job(job_id)["status"] == "running"
    (folder / "go").touch()
    assert json.loads(jobs.result(job_id)) == "went on"
