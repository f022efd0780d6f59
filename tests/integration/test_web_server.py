"""The web servers behind `pygeoapi-prefect serve`, with what clients ask of them."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.stand.ports import free_port
from tests.conftest import die_with_parent

REPOSITORY = Path(__file__).parents[2]
DEADLINE_SECONDS = 180.0
MEETING_SIZE = 12
BODY_BYTES = 24_000_000

MEETING = f"""
import threading
from pygeoapi.process.base import BaseProcessor

BARRIER = threading.Barrier({MEETING_SIZE})


class Meeting(BaseProcessor):
    '''Ends when as many jobs as the barrier counts run at the same time.'''

    def __init__(self, processor_def):
        super().__init__(processor_def, {{
            "id": "meeting", "version": "1.0.0", "title": "Meeting",
            "jobControlOptions": ["sync-execute"], "inputs": {{}},
            "outputs": {{"met": {{"schema": {{"type": "object"}}}}}},
        }})

    def execute(self, data, outputs=None):
        BARRIER.wait({DEADLINE_SECONDS})
        return "application/json", {{"met": True}}
"""


@dataclasses.dataclass(frozen=True)
class WebServer:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def request(self, method: str, path: str, **content: Any) -> httpx.Response:
        return httpx.request(method, f"{self.url}{path}", timeout=DEADLINE_SECONDS, **content)

    def execute(self, process_id: str, inputs: dict[str, object]) -> httpx.Response:
        return self.request("POST", f"/processes/{process_id}/execution", json={"inputs": inputs})


@pytest.fixture(scope="module", params=["flask", "starlette"])
def web_server(
    request: pytest.FixtureRequest,
    prefect_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WebServer]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "meeting.py").write_text(MEETING)
    configuration = yaml.safe_load((REPOSITORY / "pygeoapi-config.yml").read_text())
    configuration["server"]["cors"] = True
    configuration["resources"] = {
        "hello-world": {"type": "process", "processor": {"name": "HelloWorld"}},
        "meeting": {"type": "process", "processor": {"name": "meeting.Meeting"}},
    }
    (folder / "pygeoapi-config.yml").write_text(yaml.safe_dump(configuration))
    log = folder / "serve.log"
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(Path(sys.executable).parent / "pygeoapi-prefect", "serve"),
                *("--app", request.param, "--port", str(port)),
            ],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "PYGEOAPI_OPENAPI"}
            | {"PREFECT_API_URL": prefect_server, "PYTHONPATH": str(folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
    server = WebServer(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait_for(server)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_for(server: WebServer) -> None:
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while server.process.poll() is None and time.monotonic() < give_up_at:
        try:
            if server.request("GET", "/conformance").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(server.log.read_text())


def test_the_openapi_document_is_generated_and_served(web_server: WebServer) -> None:
    document = web_server.request("GET", "/openapi", params={"f": "json"}).json()
    assert "/processes/meeting/execution" in document["paths"]


def test_a_large_request_and_a_large_answer_pass(web_server: WebServer) -> None:
    response = web_server.execute("hello-world", {"name": "x" * BODY_BYTES})
    assert response.status_code == 200, response.text[:1000]
    assert response.json()["value"] == f"Hello {'x' * BODY_BYTES}!"


def test_pages_of_other_sites_may_execute_processes(web_server: WebServer) -> None:
    path = "/processes/hello-world/execution"
    origin = {"Origin": "https://elsewhere.example"}
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, prefer",
    }

    preflight = web_server.request("OPTIONS", path, headers=origin | asked)

    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] in ("*", origin["Origin"])
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower()
    assert {name.strip() for name in allowed.split(",")} >= {"content-type", "prefer"}
    answer = web_server.request("POST", path, headers=origin, json={"inputs": {"name": "Ada"}})
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] in ("*", origin["Origin"])
    # where the job is, and which preferences were met
    assert answer.headers["Access-Control-Expose-Headers"] == "*"


def test_each_address_tells_its_methods(web_server: WebServer) -> None:
    answer = web_server.request("OPTIONS", "/jobs/1")
    assert answer.status_code == 200
    assert {"GET", "HEAD", "DELETE"} <= set(answer.headers["Allow"].split(", "))


def test_many_requests_are_worked_on_at_once(web_server: WebServer) -> None:
    with ThreadPoolExecutor(MEETING_SIZE) as clients:
        answers = list(
            clients.map(lambda _: web_server.execute("meeting", {}), range(MEETING_SIZE))
        )
    assert [answer.text for answer in answers] == ['{"met": true}'] * MEETING_SIZE


def test_nothing_is_warned_of_when_nothing_is_wrong(web_server: WebServer) -> None:
    for path in ("/jobs", "/processes/hello-world"):
        web_server.request("GET", path, params={"f": "json"}).raise_for_status()
    log = web_server.log.read_text()
    assert "WARNING" not in log
    assert "ERROR" not in log


def test_a_signal_ends_it_well(web_server: WebServer) -> None:
    web_server.process.send_signal(signal.SIGTERM)
    assert web_server.process.wait(DEADLINE_SECONDS) == 0
    assert "Traceback" not in web_server.log.read_text()
