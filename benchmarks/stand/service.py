"""The service that is measured: a Prefect server on a database, a web server, and workers."""

import contextlib
import datetime as dt
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psutil
import yaml

from benchmarks.stand.ports import free_port
from benchmarks.stand.programs import Programs

REQUEST_SECONDS = 60.0
PROCESSES = 2
"""How many jobs a worker runs at a time."""
WARM_POOL = "pygeoapi"
STOCK_POOL = "stock"
UNSERVED_POOL = "unserved"
STOCK_POLL_SECONDS = 0.2
"""Between two looks of the stock worker; it would look every 10 s by itself."""
ANSWER_POLL_SECONDS = 0.02
"""Between two looks of a client at its job."""
LOCKED_PAUSE_SECONDS = 0.05
"""Before a call of Prefect that found its database locked is made again."""
JOB_SECONDS = 120.0
PAGE_RUNS = 200
"""What one call of the Prefect API returns at most."""

LAST_STATUSES = frozenset({"successful", "failed", "dismissed"})


class Database(StrEnum):
    """Where a Prefect server keeps its runs."""

    postgresql = "postgresql"
    sqlite = "sqlite"


class Process(StrEnum):
    """The configured processes: HelloWorld, run in three ways."""

    warm = "hello-world"
    """By the worker of this package, also where the client waits."""
    web = "hello-world-in-web-server"
    """By the web server, where the client waits."""
    stock = "hello-world-in-stock-worker"
    """By Prefect's own process worker."""
    unserved = "hello-world-unserved"
    """By nobody, until the end of time."""


@dataclass(frozen=True)
class EndedRun:
    """A flow run that has ended; times in seconds since 1970."""

    state_type: str
    started: float
    ended: float


@dataclass(frozen=True)
class JobTimes:
    """When what happened to an asynchronous job, in seconds since 1970.

    Attributes:
        job_id: Which job.
        requested: The client sent its request.
        accepted: It had the answer.
        seen: It saw that the job was successful.
    """

    job_id: str
    requested: float
    accepted: float
    seen: float


class PrefectServer:
    """A Prefect server.

    Attributes:
        url: Of its API.
        api: Client of its API.
        environment: Variables of programs that use it.
        process: It itself, once it runs.
    """

    process: psutil.Process

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.api = httpx.Client(base_url=url, timeout=REQUEST_SECONDS, trust_env=False)
        self.environment = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": url,
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
        }

    def request(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Call the API, again while its database is locked. Raises `HTTPStatusError`."""
        give_up_at = time.monotonic() + REQUEST_SECONDS
        while True:
            response = self.api.request(method, path, **content)
            is_locked = response.status_code == httpx.codes.SERVICE_UNAVAILABLE
            if not is_locked or time.monotonic() > give_up_at:
                return response.raise_for_status()
            time.sleep(LOCKED_PAUSE_SECONDS)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Call the API, and return its answer. Raises `HTTPStatusError`."""
        response = self.request("POST", path, json=dict(body))
        return response.json() if response.content else None

    def patch(self, path: str, body: Mapping[str, Any]) -> None:
        """Call the API to change something. Raises `HTTPStatusError`."""
        self.request("PATCH", path, json=dict(body))

    def deployment_id(self, process: Process) -> str:
        """Return the id of the deployment of a process."""
        deployments = {"deployments": {"name": {"any_": [process]}}}
        (deployment,) = self.post("/deployments/filter", deployments)
        return str(deployment["id"])

    def move(self, process: Process, pool: str) -> None:
        """Move the deployment of a process to another work pool."""
        self.patch(f"/deployments/{self.deployment_id(process)}", {"work_pool_name": pool})

    def keep_unserved(self, process: Process) -> None:
        """Move the deployment of a process to a work pool that no worker serves."""
        template = self.request("GET", f"/work_pools/{WARM_POOL}").json()
        pool = {name: template[name] for name in ("type", "base_job_template")}
        self.post("/work_pools/", {**pool, "name": UNSERVED_POOL})
        self.move(process, UNSERVED_POOL)

    def count_runs(self, process: Process, states: frozenset[str]) -> int:
        """Return how many runs of a process are in states of some types."""
        return int(self.post("/flow_runs/count", {"flow_runs": _runs_of(process, states)}))

    def run_id(self, job_id: str) -> str:
        """Return the id of the flow run that is a job."""
        runs = {"flow_runs": {"name": {"any_": [f"pygeoapi_job_{job_id}"]}}}
        (run,) = self.post("/flow_runs/filter", runs)
        return str(run["id"])

    def state_times(self, job_id: str) -> dict[str, float]:
        """Return when a job entered which type of state, in seconds since 1970."""
        states = self.api.get("/flow_run_states/", params={"flow_run_id": self.run_id(job_id)})
        return {state["type"]: _seconds(state["timestamp"]) for state in states.json()}

    def delete_runs(self, process: Process) -> None:
        """Delete all runs of a process."""
        filters = {"flow_runs": _runs_of(process), "limit": PAGE_RUNS}
        while runs := self.post("/flow_runs/filter", filters):
            for run in runs:
                self.request("DELETE", f"/flow_runs/{run['id']}")

    def ended_runs(self, process: Process, since: float) -> list[EndedRun]:
        """Return the runs of a process that have ended since then, in the order of their ends."""
        body = {
            "flow_runs": {**_runs_of(process), "end_time": {"after_": _iso(since)}},
            "sort": "END_TIME_DESC",
            "limit": PAGE_RUNS,
        }
        runs: list[dict[str, Any]] = []
        while len(page := self.post("/flow_runs/filter", {**body, "offset": len(runs)})):
            runs += page
        return sorted(
            (
                EndedRun(run["state_type"], _seconds(run["start_time"]), _seconds(run["end_time"]))
                for run in runs
            ),
            key=lambda run: run.ended,
        )


class Service:
    """A web server with the processes of `Process`, and the Prefect server behind it.

    Attributes:
        web: Client of the web server.
        prefect: The Prefect server.
        process: The web server, once it runs.
    """

    process: psutil.Process

    def __init__(self, programs: Programs, prefect: PrefectServer, url: str) -> None:
        self._programs = programs
        self.prefect = prefect
        self.web = httpx.Client(base_url=url, timeout=REQUEST_SECONDS, trust_env=False)

    def execute(self, process: Process, prefer: str) -> httpx.Response:
        """Send an execute request. Raises `HTTPStatusError`."""
        response = self.web.post(
            f"/processes/{process}/execution",
            json={"inputs": {"name": "World"}},
            headers={"Prefer": prefer},
        )
        response.raise_for_status()
        return response

    def execute_and_wait(self, process: Process) -> JobTimes:
        """Do what a client does that executes asynchronously: look until the job is successful.

        Raises:
            RuntimeError: It ended otherwise, or not at all.
        """
        requested = time.time()
        location = self.execute(process, "respond-async").headers["Location"]
        accepted = time.time()
        give_up_at = time.monotonic() + JOB_SECONDS
        while time.monotonic() < give_up_at:
            job = self.web.get(location, params={"f": "json"}).raise_for_status().json()
            if job["status"] == "successful":
                return JobTimes(job["jobID"], requested, accepted, time.time())
            if job["status"] in LAST_STATUSES:
                raise RuntimeError(f"a job of {process} ended as {job['status']}: {job['message']}")
            time.sleep(ANSWER_POLL_SECONDS)
        raise RuntimeError(f"a job of {process} did not end within {JOB_SECONDS} s")

    @contextlib.contextmanager
    def worker(self) -> Iterator[psutil.Process]:
        """Run the worker of this package inside the block; gives its process."""
        variables = {"PREFECT_INTEGRATIONS_PYGEOAPI_WORKER_PROCESSES": str(PROCESSES)}
        with self._worker("worker", WARM_POOL, variables) as process:
            # what a job finds warm is more than the processes: connections, caches
            for _ in range(2 * PROCESSES):
                self.execute_and_wait(Process.warm)
            yield process

    @contextlib.contextmanager
    def stock_worker(self) -> Iterator[psutil.Process]:
        """Run Prefect's process worker inside the block; gives its process."""
        variables = {"PREFECT_WORKER_QUERY_SECONDS": str(STOCK_POLL_SECONDS)}
        with self._worker("stock-worker", STOCK_POOL, variables, type="process") as process:
            self.prefect.move(Process.stock, STOCK_POOL)
            yield process

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the jobs of this package's worker waiting inside the block."""
        self.prefect.patch(f"/work_pools/{WARM_POOL}", {"is_paused": True})
        try:
            yield
        finally:
            self.prefect.patch(f"/work_pools/{WARM_POOL}", {"is_paused": False})

    @contextlib.contextmanager
    def _worker(
        self, name: str, pool: str, variables: Mapping[str, str], type: str = "pygeoapi"
    ) -> Iterator[psutil.Process]:
        command = ["-m", "prefect", "worker", "start", "--pool", pool, "--type", type]
        command += ["--name", name, "--limit", str(PROCESSES), "--install-policy", "never"]

        def is_online() -> bool:
            response = self.prefect.api.post(f"/work_pools/{pool}/workers/filter", json={})
            return response.is_success and any(one["name"] == name for one in response.json())

        environment = {**self.prefect.environment, **variables}
        with self._programs.run(name, command, environment, is_online) as child:
            yield child.process


@contextlib.contextmanager
def prefect_server(
    programs: Programs,
    home: Path,
    database_url: str | None = None,
    *,
    variables: Mapping[str, str] = MappingProxyType({}),
    options: Sequence[str] = (),
    noted_calls: Path | None = None,
) -> Iterator[PrefectServer]:
    """Run a Prefect server inside the block.

    Args:
        programs: Of which it is one.
        home: Where it keeps its files.
        database_url: Where it keeps its runs; None for SQLite below `home`.
        variables: More of its environment.
        options: Of `prefect server start`, where no calls are noted.
        noted_calls: A file in which it notes the calls of its API, if it is to do so.
    """
    port = free_port()
    server = PrefectServer(f"http://127.0.0.1:{port}/api", home)
    environment = {**server.environment, "PREFECT_SERVER_UI_ENABLED": "false", **variables}
    if database_url is not None:
        environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database_url
    if noted_calls is None:
        command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        command += ["--port", str(port), *options]
    else:
        command = ["-m", "benchmarks.stand.observed_prefect", str(port), str(noted_calls)]
    with (
        server.api,
        programs.run(
            f"prefect-{port}", command, environment, lambda: _answers(server.api, "/health")
        ) as child,
    ):
        server.process = child.process
        yield server


def deploy(programs: Programs, home: Path, prefect: PrefectServer) -> None:
    """Deploy the processes of `Process`."""
    config = home / "deployed.yml"
    config.write_text(yaml.safe_dump(_configuration(free_port(), home / "results")))
    command = ["-m", "pygeoapi_prefect.cli", "deploy", "--config", str(config)]
    programs.call(f"deploy-{home.name}", command, prefect.environment)
    prefect.keep_unserved(Process.unserved)


@contextlib.contextmanager
def service(programs: Programs, home: Path, prefect: PrefectServer) -> Iterator[Service]:
    """Run a web server inside the block. The processes must be deployed."""
    port = free_port()
    config = home / "pygeoapi-config.yml"
    config.write_text(yaml.safe_dump(_configuration(port, home / "results")))
    command = ["-m", "pygeoapi_prefect.cli", "serve", "--config", str(config)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    found = Service(programs, prefect, f"http://127.0.0.1:{port}")
    with programs.run(
        f"web-{home.name}",
        command,
        prefect.environment,
        lambda: _answers(found.web, "/conformance?f=json"),
    ) as child:
        found.process = child.process
        yield found


def _answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).is_success
    except httpx.TransportError:
        return False


def _runs_of(process: Process, states: frozenset[str] | None = None) -> dict[str, Any]:
    criteria: dict[str, Any] = {"tags": {"all_": [f"pygeoapi_process:{process}"]}}
    if states is not None:
        criteria["state"] = {"type": {"any_": sorted(states)}}
    return criteria


def _iso(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()


def _seconds(time: str) -> float:
    return dt.datetime.fromisoformat(time).timestamp()


def _configuration(port: int, results: Path) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}"
    return {
        "server": {
            "bind": {"host": "127.0.0.1", "port": port},
            "url": url,
            "mimetype": "application/json; charset=UTF-8",
            "encoding": "utf-8",
            "languages": ["en-US"],
            "limits": {"default_items": 10, "max_items": 10000},
            "map": {"url": "https://tile.openstreetmap.org/{z}/{x}/{y}.png", "attribution": "OSM"},
            "manager": {
                "name": "pygeoapi_prefect.manager.PrefectManager",
                "connection": "",
                "work_pool": WARM_POOL,
                "output_dir": str(results),
            },
        },
        "logging": {"level": "ERROR"},
        "metadata": {
            "identification": {
                "title": "Benchmarks",
                "description": "Benchmarks",
                "keywords": ["benchmark"],
                "keywords_type": "theme",
                "terms_of_service": "none",
                "url": url,
            },
            "license": {"name": "MIT", "url": "https://opensource.org/license/mit"},
            "provider": {"name": "Benchmarks", "url": url},
            "contact": {"name": "Benchmarks"},
        },
        "resources": {
            process.value: {"type": "process", "processor": _processor(process)}
            for process in Process
        },
    }


def _processor(process: Process) -> dict[str, Any]:
    if process is Process.web:
        return {"name": "HelloWorld"}
    return {"name": "HelloWorld", "prefect": {"deployment": {"name": process.value}}}
