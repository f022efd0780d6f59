"""The whole stack: Prefect server, worker, and a web server for each application."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.stand.ports import free_port
from tests.conftest import die_with_parent, stop

from . import ogc

REPOSITORY = Path(__file__).parents[2]
DEADLINE_SECONDS = 120.0
STACK_TIMEOUT_SECONDS = 900
APPLICATIONS = ("flask", "starlette")
WORK_POOL = "acceptance"
# of this machine, like 127.0.0.1, which is refused
ALLOWED_HOST = "127.0.0.2"

PROCESSORS = {
    "echo": "pygeoapi_prefect.examples.echo.EchoProcessor",
    "hello-world": "HelloWorld",
    "simple-flow": "pygeoapi_prefect.examples.simple_flow.SimpleFlowProcessor",
    "large": "acceptance_processes.large.Large",
    "failing": "acceptance_processes.failing.Failing",
    "showcase": "acceptance_processes.showcase.Showcase",
    "held": "acceptance_processes.showcase.Held",
    "mosaic": "acceptance_processes.mosaic.MosaicProcessor",
    "zonal-statistics": "pygeoapi_prefect.examples.zonal_statistics.ZonalStatisticsProcessor",
}


def eventually[Value](probe: Callable[[], Value | None]) -> Value:
    """The first value other than None that a function returns; fails when the time is up."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while (value := probe()) is None:
        if time.monotonic() > give_up_at:
            pytest.fail(f"not within {DEADLINE_SECONDS:g} s")
        time.sleep(0.05)
    return value


@dataclasses.dataclass(frozen=True)
class Service:
    """One application of the stack, as clients reach it.

    Attributes:
        client: Holds every response against the schemas of the standard.
        process_id: The operating system's number of the server.
    """

    application: str
    url: str
    client: httpx.Client
    process_id: int
    openapi_document: Path

    def execute(
        self, process_id: str, inputs: Any, *, prefer: str | None = None, **members: Any
    ) -> httpx.Response:
        headers = {"Accept": "application/json"} | ({"Prefer": prefer} if prefer else {})
        body = {"inputs": inputs, **members}
        return self.client.post(f"/processes/{process_id}/execution", json=body, headers=headers)

    def submit(self, process_id: str, inputs: Any, **members: Any) -> str:
        """Execute asynchronously; the path of the job."""
        response = self.execute(process_id, inputs, prefer="respond-async", **members)
        assert response.status_code == 201, response.text
        return self.path_of(response.headers["Location"])

    def path_of(self, url: str) -> str:
        """The path of one of our addresses."""
        assert url.startswith(self.url)
        return url.removeprefix(self.url)

    def ended(self, job: str) -> dict[str, Any]:
        """The status of a job, as soon as it has ended."""

        def look() -> dict[str, Any] | None:
            status: dict[str, Any] = self.client.get(job).json()
            return None if status["status"] in ("accepted", "running") else status

        return eventually(look)


class Stack:
    """Starts what belongs together, and ends it."""

    def __init__(self, folder: Path, prefect_api_url: str) -> None:
        self._folder = folder
        self._environment = os.environ | {
            "PREFECT_API_URL": prefect_api_url,
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        self._exits = contextlib.ExitStack()
        self.services: dict[str, Service] = {}

    def start(self) -> None:
        processes = Path(__file__).parent / "processes"
        shutil.copytree(processes, self._folder / "acceptance_processes")
        configs = {
            application: self._write_config(application, free_port())
            for application in APPLICATIONS
        }
        deployed = subprocess.run(
            self._command("deploy", "--config", str(configs["flask"][0])),
            cwd=self._folder,
            env=self._environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert deployed.returncode == 0, deployed.stdout
        self._start("worker", "worker", "--config", str(configs["flask"][0]))
        servers = {
            application: self._start(
                application, "serve", "--config", str(config), "--app", application
            )
            for application, (config, _) in configs.items()
        }
        for application, (_, port) in configs.items():
            self.services[application] = self._serving(application, servers[application], port)

    def stop(self) -> None:
        self._exits.close()

    def _write_config(self, application: str, port: int) -> tuple[Path, int]:
        configuration = yaml.safe_load((REPOSITORY / "pygeoapi-config.yml").read_text())
        configuration["server"] |= {
            "bind": {"host": "127.0.0.1", "port": port},
            "url": f"http://127.0.0.1:{port}",
            "manager": {
                "name": "pygeoapi_prefect.manager.PrefectManager",
                "connection": "",
                "output_dir": str(self._folder / "results"),
                "work_pool": WORK_POOL,
                # the layers deploy to one Prefect server, in turn
                "service": "tests",
                "references": {"allow_hosts": [ALLOWED_HOST]},
            },
        }
        configuration["resources"] = {
            process_id: {"type": "process", "processor": {"name": name}}
            for process_id, name in PROCESSORS.items()
        }
        folder = self._folder / application
        folder.mkdir()
        path = folder / "pygeoapi-config.yml"
        path.write_text(yaml.safe_dump(configuration))
        return path, port

    def _serving(self, application: str, server: subprocess.Popen[bytes], port: int) -> Service:
        """Wait until a server answers."""
        url = f"http://127.0.0.1:{port}"
        client = httpx.Client(
            base_url=url, timeout=DEADLINE_SECONDS, event_hooks={"response": [ogc.check]}
        )
        self._exits.callback(client.close)

        def look() -> bool | None:
            log = (self._folder / f"{application}.log").read_text()
            assert server.poll() is None, log
            try:
                return client.get("/", params={"f": "json"}).is_success or None
            except httpx.TransportError:
                return None

        eventually(look)
        document = self._folder / application / ".pygeoapi-prefect" / "openapi.yml"
        return Service(application, url, client, server.pid, document)

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                self._command(*arguments),
                cwd=folder,
                env=self._environment | {"PYTHONPATH": str(self._folder)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._exits.callback(stop, process)
        return process

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pygeoapi_prefect.cli", *arguments]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test with a stack, whichever it is, the time to start it too."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(STACK_TIMEOUT_SECONDS))


@pytest.fixture(scope="session")
def stack(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack, started anew for the session."""
    running = Stack(tmp_path_factory.mktemp("stack").resolve(), prefect_server)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that is not there yet: the input `until` of the process `held`."""
    return tmp_path / "gate"


@pytest.fixture(scope="module", params=APPLICATIONS)
def service(stack: Stack, request: pytest.FixtureRequest) -> Service:
    """Each of the applications."""
    return stack.services[request.param]
