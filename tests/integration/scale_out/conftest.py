"""A site on several machines: what they share is the network, and nothing else.

An office, with the web server, and two machines with a worker each. Behind them two processes
of the Prefect API on PostgreSQL and Redis, and an S3 server.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx
import psutil
import pytest
import yaml
from prefect.filesystems import RemoteFileSystem
from prefect.settings import PREFECT_API_URL, temporary_settings
from redis import Redis

from benchmarks.stand.api_processes import PrefectServers, prefect_servers, shared_through
from benchmarks.stand.ports import free_port
from benchmarks.stand.postgres import postgres
from benchmarks.stand.programs import Programs
from benchmarks.stand.redis_server import redis_server
from benchmarks.stand.service import PrefectServer, prefect_server
from tests.object_storage import ACCESS_KEY, SECRET_KEY, ObjectStorage

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
POOL = "pygeoapi"
BUCKET = "scale-out"
WORKER_PROCESSES = 2
REQUEST_SECONDS = 600.0
GONE_AFTER_SECONDS = 40
"""A machine that is very busy may not hear of a worker for a while."""
HEARTBEAT_SECONDS = 5
SERVER_VARIABLES = {
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_FOREMAN_INACTIVITY_HEARTBEAT_MULTIPLE": str(
        GONE_AFTER_SECONDS // HEARTBEAT_SECONDS
    ),
}
MODULES = {"installed_work": "work.py", "uploaded_work": "work.py", "squares": "squares.py"}


@dataclass(frozen=True)
class Machine:
    """A directory that stands for a machine: all that its programs find on a disk.

    Attributes:
        directory: Home, working directory, and what is in it the installed modules.
    """

    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def modules(self) -> Path:
        return self.directory / "modules"

    @property
    def configuration(self) -> Path:
        return self.directory / "pygeoapi-config.yml"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.directory),
            "PREFECT_HOME": str(self.directory / "prefect"),
            "TMPDIR": str(self.directory / "tmp"),
            "PYTHONPATH": str(self.modules),
            "MACHINE": self.name,
        }

    def install(self, *modules: str) -> None:
        for module in modules:
            shutil.copy(HERE / MODULES[module], self.modules / f"{module}.py")

    def command(self, *arguments: str) -> list[str]:
        """What an interpreter runs a module with, on this machine."""
        return [str(HERE / "machine.py"), str(self.directory), *arguments]


@dataclass
class Site:
    """Everything, as it runs.

    Attributes:
        web: Client of the web server.
        notes: What jobs say of themselves.
        workers: By the names of their machines.
    """

    prefect: PrefectServers
    web: httpx.Client
    notes: Redis
    storage: ObjectStorage
    machines: list[Machine]
    workers: dict[str, psutil.Process]

    def starts(self, label: str) -> list[str]:
        """The names of the machines on which a job has started, one for each start."""
        return [str(name) for name in self.notes.lrange(f"starts {label}", 0, -1)]


def missing(error: Exception) -> NoReturn:
    """Skip, but not where everything has to be tested."""
    if os.environ.get("CI"):
        pytest.fail(str(error))
    pytest.skip(f"NOT TESTED: {error}")


@pytest.fixture(scope="module")
def site(s3: ObjectStorage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    office, first, second = (make_machine(root / name) for name in ("office", "first", "second"))
    for machine in (first, second):
        machine.install("installed_work", "squares")
    programs = Programs(root / "logs")
    with programs.running(), contextlib.ExitStack() as exits:
        try:
            cluster = exits.enter_context(postgres(programs.environment))
            redis = exits.enter_context(redis_server(programs))
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            missing(error)
        cluster.create_database("prefect")
        servers = exits.enter_context(
            prefect_servers(
                programs,
                root,
                cluster.url("prefect"),
                redis.url,
                # it makes the tables; the other one starts beside the rest
                apis=1,
                variables=SERVER_VARIABLES,
            )
        )
        (near,) = servers.apis
        notes = exits.enter_context(Redis.from_url(f"{redis.url}/2", decode_responses=True))
        note = {"NOTES_URL": f"{redis.url}/2"}
        with ThreadPoolExecutor() as threads:
            starting_far = threads.submit(
                exits.enter_context,
                another_api(programs, root, cluster.url("prefect"), redis.url),
            )
            make_blocks(near.url, s3)
            port = deploy(programs, office, near)
            starting_web = threads.submit(
                exits.enter_context, web_server(programs, office, near, port)
            )
            starting_second = threads.submit(
                exits.enter_context, a_worker(programs, second, near, note)
            )
            far = starting_far.result()
            workers = {
                "first": exits.enter_context(a_worker(programs, first, far, note)),
                "second": starting_second.result(),
            }
            web = starting_web.result()
        prefect = PrefectServers([near, far], servers.services)
        yield Site(prefect, web, notes, s3, [office, first, second], workers)


def another_api(
    programs: Programs, root: Path, database_url: str, redis_url: str
) -> contextlib.AbstractContextManager[PrefectServer]:
    """One more process of the Prefect API."""
    folder = root / "prefect-far"
    folder.mkdir()
    variables = {**shared_through(redis_url), **SERVER_VARIABLES}
    return prefect_server(
        programs, folder, database_url, variables=variables, options=["--no-services"]
    )


def make_machine(directory: Path) -> Machine:
    machine = Machine(directory)
    for path in (machine.modules, directory / "tmp"):
        path.mkdir(parents=True)
    return machine


def make_blocks(api_url: str, storage: ObjectStorage) -> None:
    """Make blocks for code and results; nobody but Prefect is told the credentials."""
    storage.create_bucket(BUCKET)
    with temporary_settings({PREFECT_API_URL: api_url}):
        for name in ("code", "results"):
            block = RemoteFileSystem(
                basepath=f"s3://{BUCKET}/{name}",
                settings={
                    "key": ACCESS_KEY,
                    "secret": SECRET_KEY,
                    "client_kwargs": {
                        "endpoint_url": storage.endpoint,
                        "region_name": "us-east-1",
                    },
                },
            )
            block.save(name)


def deploy(programs: Programs, office: Machine, prefect: PrefectServer) -> int:
    """Deploy the processes, where all code is installed; the port that they are to be served at."""
    office.install(*MODULES)
    port = free_port()
    office.configuration.write_text(yaml.safe_dump(configuration(port)))
    command = office.command(
        "pygeoapi_prefect.cli", "deploy", "--config", str(office.configuration)
    )
    programs.call("deploy", command, {**office.environment, "PREFECT_API_URL": prefect.url})
    return port


@contextlib.contextmanager
def web_server(
    programs: Programs, office: Machine, prefect: PrefectServer, port: int
) -> Iterator[httpx.Client]:
    """Serve the processes that are deployed."""
    environment = {**office.environment, "PREFECT_API_URL": prefect.url}
    config = office.configuration
    command = office.command("pygeoapi_prefect.cli", "serve", "--config", str(config))
    command += ["--host", "127.0.0.1", "--port", str(port)]
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", timeout=REQUEST_SECONDS, limits=limits
    ) as client:

        def answers() -> bool:
            try:
                return client.get("/conformance", params={"f": "json"}).is_success
            except httpx.TransportError:
                return False

        with programs.run("web", command, environment, answers):
            yield client


@contextlib.contextmanager
def a_worker(
    programs: Programs, machine: Machine, prefect: PrefectServer, variables: dict[str, str]
) -> Iterator[psutil.Process]:
    environment = {
        **machine.environment,
        **variables,
        "PREFECT_API_URL": prefect.url,
        "PREFECT_WORKER_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
        "PREFECT_INTEGRATIONS_PYGEOAPI_WORKER_PROCESSES": str(WORKER_PROCESSES),
        "PREFECT_INTEGRATIONS_PYGEOAPI_WORKER_REAP_SECONDS": "3",
    }
    command = machine.command("prefect", "worker", "start", "--type", "pygeoapi")
    command += ["--pool", POOL, "--name", machine.name, "--install-policy", "never"]

    def is_online() -> bool:
        answer = prefect.post(f"/work_pools/{POOL}/workers/filter", {})
        return any(one["name"] == machine.name for one in answer)

    with programs.run(f"worker-{machine.name}", command, environment, is_online) as child:
        yield child.process


def configuration(port: int) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load((REPOSITORY / "pygeoapi-config.yml").read_text())
    server = content["server"]
    assert isinstance(server, dict)
    server["url"] = f"http://127.0.0.1:{port}"
    server["bind"] = {"host": "127.0.0.1", "port": port}
    server["manager"] = {
        "name": "pygeoapi_prefect.manager.PrefectManager",
        "connection": "",
        "work_pool": POOL,
        # pygeoapi asks for it; nobody may use it
        "output_dir": "/nowhere",
        "result_storage": "remote-file-system/results",
        "sync_job_execution_timeout_seconds": REQUEST_SECONDS,
    }
    content["resources"] = {
        process_id: {"type": "process", "processor": {"name": name, "prefect": {"deployment": to}}}
        for process_id, name, to in (
            ("installed", "installed_work.Work", {}),
            ("squares", "squares.Squares", {}),
            ("uploaded", "uploaded_work.Work", {"storage_block": "remote-file-system/code"}),
        )
    }
    return content
