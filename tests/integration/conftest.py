"""A site as an operator has it: configuration, authors' modules beside it, a worker.

Everything is shared by the session, for a worker's job costs seconds of processor time:
one Prefect server, one deployment of each process, one worker.
"""

import asyncio
import contextlib
import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import prefect.context
import pytest
import yaml
from prefect import Flow
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.events.worker import EventsWorker
from prefect.filesystems import LocalFileSystem
from prefect.logging.handlers import APILogWorker
from prefect.settings import get_current_settings
from prefect.variables import Variable
from pygeoapi.process.shapely_functions import PROCESS_METADATA as SHAPELY_METADATA
from pygeoapi.util import RequestedProcessExecutionMode

from pygeoapi_prefect.configuration_file import load_configuration
from pygeoapi_prefect.deployments import deploy
from pygeoapi_prefect.jobs import Job, JobFilter
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.webserver import point_pygeoapi_at, read_configuration
from pygeoapi_prefect.worker import PygeoapiWorker
from tests.conftest import die_with_parent, stop
from tests.forwarder import Forwarder

WORK_POOL = "integration"
WORKER_LIMIT = 3
DEADLINE_SECONDS = 240.0

PROCESSORS = {
    "hello-world": "HelloWorld",
    "pygeoapi-echo": "Echo",
    "shapely-functions": "ShapelyFunctions",
    "flaky-flow": "site_processes.features.FlakyFlow",
    "flaky-task": "site_processes.features.FlakyTask",
    "slow-flow": "site_processes.features.SlowFlow",
    "slow-task": "site_processes.features.SlowTask",
    "cached": "site_processes.features.Cached",
    "threaded": "site_processes.features.Threaded",
    "named": "site_processes.features.Named",
    "tagged": "site_processes.features.Tagged",
    "printing": "site_processes.features.Printing",
    "hooked": "site_processes.features.Hooked",
    "persisting": "site_processes.features.Persisting",
    "outer": "site_processes.features.Outer",
    "asynchronous": "site_processes.features.Asynchronous",
    "waiting": "site_processes.features.Waiting",
    "patient": "site_processes.features.Patient",
    "storing": "site_processes.conventions.Storing",
    "four-other-parameters": "site_processes.conventions.FourOtherParameters",
    "inputs-alone": "site_processes.conventions.InputsAlone",
    "nothing-declared": "site_processes.conventions.NothingDeclared",
    "request-alone": "site_processes.conventions.RequestAlone",
    "asynchronous-request": "site_processes.conventions.AsynchronousRequest",
    "returning": "site_processes.ordinary.Returning",
    "echoing-inputs": "site_processes.ordinary.EchoingInputs",
    "measuring": "site_processes.ordinary.Measuring",
    "selective": "site_processes.ordinary.Selective",
    "failing": "site_processes.ordinary.Failing",
}
# each returns its input `value`, having got it in another way
TAKING_ANY_VALUE = (
    "four-other-parameters",
    "inputs-alone",
    "asynchronous-request",
    "echoing-inputs",
)
FOREIGN_FLOWS = ("foreign", "compressing", "pickling", "writing", "forgetting")
QUEUE_OF_ITS_OWN = "second"


def eventually[Value](
    probe: Callable[[], Value | None], deadline_seconds: float = DEADLINE_SECONDS
) -> Value:
    """The first value other than None that a function returns; fails when the time is up."""
    give_up_at = time.monotonic() + deadline_seconds
    while (value := probe()) is None:
        if time.monotonic() > give_up_at:
            pytest.fail(f"not within {deadline_seconds:g} s")
        time.sleep(0.05)
    return value


@contextlib.contextmanager
def prefect_api_at(url: str, directory: Path) -> Iterator[None]:
    """Make this process one that was started in a directory, with this ``PREFECT_API_URL``.

    `temporary_settings` would not reach threads, in which jobs and requests run.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", url)
        patch.chdir(directory)
        prefect.context.refresh_global_settings_context()
        yield
    prefect.context.refresh_global_settings_context()


@dataclasses.dataclass(frozen=True)
class Site:
    """A folder with configuration and processors, and what is deployed from it.

    Attributes:
        forwarder: What this process has to go through to reach the Prefect API.
        prefect_api_url: The Prefect API itself.
    """

    folder: Path
    forwarder: Forwarder
    prefect_api_url: str
    _managers: list[PrefectManager] = dataclasses.field(default_factory=list)

    @property
    def config_path(self) -> Path:
        return self.folder / "pygeoapi-config.yml"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def forwarded_api_url(self) -> str:
        return f"http://127.0.0.1:{self.forwarder.port}/api"

    def configuration(self) -> dict[str, Any]:
        content: dict[str, Any] = yaml.safe_load(self.config_path.read_text())
        return content

    def manager(self, **settings: Any) -> PrefectManager:
        """A new manager as pygeoapi makes it, with other settings where they are given."""
        configuration = self.configuration()
        definition = {**configuration["server"]["manager"], **settings}
        manager = PrefectManager({**definition, "processes": configuration["resources"]})
        self._managers.append(manager)
        return manager

    def close_managers(self) -> None:
        while self._managers:
            self._managers.pop().close()


class Jobs:
    """Runs jobs through a manager, as pygeoapi's API layer does."""

    def __init__(self, manager: PrefectManager) -> None:
        self.manager = manager

    def run(self, process_id: str, inputs: Any, **request: Any) -> tuple[str, str, Any]:
        """Execute synchronously; returns job id, media type and body."""
        job_id, media_type, body, status, _ = self.manager.execute_process(
            process_id, inputs, **request
        )
        assert status.value == "successful"
        return job_id, media_type, body

    def submit(self, process_id: str, inputs: Any, **request: Any) -> str:
        """Execute asynchronously; returns the job id."""
        job_id, _, _, status, headers = self.manager.execute_process(
            process_id,
            inputs,
            execution_mode=RequestedProcessExecutionMode.respond_async,
            **request,
        )
        assert status.value == "accepted"
        assert headers["Preference-Applied"] == "respond-async"
        return job_id

    def ended(self, job_id: str, deadline_seconds: float = DEADLINE_SECONDS) -> Job:
        def look() -> Job | None:
            job = self.manager.gateway.find(job_id)
            return job if job.has_ended else None

        return eventually(look, deadline_seconds)

    def result(self, job_id: str) -> bytes:
        """The result of a job that must have ended well."""
        job = self.ended(job_id)
        assert job.status == "successful", job.message
        _, body = self.manager.get_job_result(job_id)
        return bytes(body)

    def newest(self, process_id: str) -> Job:
        """The job of a process that was created last; schedules make jobs of others meanwhile."""
        of_process = JobFilter(process_ids=frozenset({process_id}))
        (job,) = self.manager.gateway.page(of_process, limit=1).jobs
        return job

    def number_of(self, process_id: str) -> int | None:
        """How many jobs a process has."""
        of_process = JobFilter(process_ids=frozenset({process_id}))
        return self.manager.gateway.page(of_process, limit=0).number_matched


@dataclasses.dataclass(frozen=True)
class Request:
    """An asynchronous request; those of the session are submitted together."""

    process_id: str
    inputs: Any = dataclasses.field(default_factory=dict)
    outputs: Any = None
    response: str = "raw"


_SHAPELY: dict[str, Any] = {**SHAPELY_METADATA}

LARGE_TEXT = "grebe " * 3_500_000
"""21 MB, which is more than the Prefect API takes and than one part of anything is."""

# What Prefect would replace in parameters: on its server, or in the engine of a flow.
HOSTILE_INPUT: dict[str, Any] = {
    "none": {"__prefect_kind": "none", "value": {"a": 1}},
    "json": {"__prefect_kind": "json", "value": "[1, 2]"},
    "jinja": {"__prefect_kind": "jinja", "template": "{{ 1 + 1 }} {{ flow_run.id }}"},
    "variable": {"__prefect_kind": "workspace_variable", "variable_name": "tide"},
    "nested": [{"deep": [{"__prefect_kind": "workspace_variable", "variable_name": "tide"}]}],
    "text": "{{ prefect.variables.tide }} {{ prefect.blocks.secret.harbour }} {{ 1 + 1 }}",
    "block by slug": {"$ref": {"block_document_slug": "secret/harbour"}},
    "block by name": {"$ref": {"block_type_slug": "secret", "block_document_name": "harbour"}},
}


def _requests(site: Site) -> dict[str, Request]:
    def folder(name: str) -> str:
        path = site.folder / "deployed" / name
        path.mkdir(parents=True)
        return str(path)

    hostile = {**HOSTILE_INPUT, "block by id": {"$ref": {"block_document_id": _secret_id()}}}
    return {
        "pause": Request("pygeoapi-echo", {"echoInput": "Test", "pause": 5.5}),
        "retries": Request("flaky-flow", {"folder": folder("retries"), "failures": 2}),
        "timeout": Request("slow-flow", {"folder": folder("timeout")}),
        "name": Request("named", {"name": "Ada"}),
        "prints": Request("printing", {"word": "merganser"}),
        "success": Request("hooked", {"end": "success"}),
        "failure": Request("hooked", {"end": "failure"}),
        "crash": Request("hooked", {"end": "crash"}),
        "threads": Request("threaded"),
        "sub-flows": Request("outer", {"number": 1}),
        "async flow": Request("asynchronous", {"numbers": [1, 2, 3]}),
        "stores": Request("storing", {"content": "by a worker", "reported_as": "written"}),
        "hello": Request("hello-world", {"name": "Ada"}),
        "shapely": Request("shapely-functions", _SHAPELY["example"]["inputs"]),
        "bytes": Request("returning", {"kind": "bytes"}),
        "document": Request("selective", outputs={"table": {}, "told": {}}, response="document"),
        "message": Request("failing", {"kind": "user"}),
        "large": Request("measuring", {"value": LARGE_TEXT}),
        **{
            f"hostile {process_id}": Request(process_id, {"value": hostile})
            for process_id in TAKING_ANY_VALUE
        },
        "existing": Request("existing-foreign", {"value": [1]}, outputs={"first": {}}),
        "existing pair": Request("existing-foreign", {"kind": "pair"}),
        "existing outputs": Request(
            "existing-foreign", {"kind": "outputs"}, outputs={"second": {}}, response="document"
        ),
        "existing files": Request("existing-foreign", {"kind": "files"}, outputs=["first"]),
        "existing compressed": Request("existing-compressing", {"value": "x" * 1000}),
        "existing pickle": Request("existing-pickling", {"path": folder("pickle") + "/loaded"}),
        "existing key": Request("existing-writing", {"value": {"a": None}}),
        "existing nothing": Request("existing-forgetting"),
    }


def _secret_id() -> str:
    secret: Any = Secret.load("harbour")
    return str(secret._block_document_id)


def _processes() -> dict[str, Any]:
    processes: dict[str, Any] = {
        process_id: {"type": "process", "processor": {"name": name}}
        for process_id, name in PROCESSORS.items()
    }
    # the same flow twice, the second time in a queue that tests can pause
    processes["queued"] = {
        "type": "process",
        "processor": {
            "name": PROCESSORS["flaky-flow"],
            "prefect": {"deployment": {"name": "queued", "queue": QUEUE_OF_ITS_OWN}},
        },
    }
    for name in FOREIGN_FLOWS:
        deployment: dict[str, Any] = {"name": f"{name}/by-hand"}
        if name in ("foreign", "writing", "compressing"):
            deployment["result_storage_block"] = "local-file-system/foreign-results"
        if name == "writing":
            deployment["result_storage_key_template"] = "written/{parameters[pygeoapi_job_id]}.json"
        processes[f"existing-{name}"] = {
            "type": "process",
            "processor": {
                "prefect": {
                    "deployment": deployment,
                    "metadata": {
                        "version": "1.0.0",
                        "title": f"Existing: {name}",
                        "inputs": {
                            input_id: {"schema": {}, "minOccurs": 0}
                            for input_id in ("kind", "value", "path")
                            if name != "forgetting"  # whose flow takes none
                        },
                        "outputs": {"first": {"schema": {}}, "second": {"schema": {}}}
                        if name == "foreign"
                        else {"result": {"schema": {}}},
                    },
                }
            },
        }
    processes["undeployed"] = {
        "type": "process",
        "processor": {
            "prefect": {
                "deployment": {"name": "nobody/made-it"},
                "metadata": {"version": "1.0.0", "title": "Undeployed"},
            }
        },
    }
    return processes


def _configuration(folder: Path) -> dict[str, Any]:
    template = Path(__file__).parents[2] / "pygeoapi-config.yml"
    configuration: dict[str, Any] = yaml.safe_load(template.read_text())
    configuration["server"]["manager"] = {
        "name": "pygeoapi_prefect.manager.PrefectManager",
        "connection": "",
        "output_dir": str(folder / "results"),
        "work_pool": WORK_POOL,
        # the layers deploy to one Prefect server, in turn
        "service": "tests",
        "sync_job_execution_timeout_seconds": DEADLINE_SECONDS,
    }
    configuration["resources"] = _processes()
    return configuration


def _deploy_with_prefect_alone(folder: Path) -> None:
    Variable.set("tide", "high")
    secret_type: Any = Secret  # with its type of value, it would be another type of block
    secret_type(value="a key").save("harbour")
    LocalFileSystem(basepath=str(folder / "foreign-results")).save("foreign-results")
    for name in FOREIGN_FLOWS:
        flow: Any = Flow.from_source(str(folder), entrypoint=f"site_processes/foreign.py:{name}")
        deployment = flow.to_deployment("by-hand", work_pool_name=WORK_POOL)
        deployment.apply()


@pytest.fixture(scope="session")
def site(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site").resolve()
    shutil.copytree(Path(__file__).parents[1] / "processes", folder / "site_processes")
    (folder / "results").mkdir()
    port = urlsplit(prefect_server).port
    assert port is not None
    site = Site(folder, Forwarder(port), prefect_server)
    site.config_path.write_text(yaml.safe_dump(_configuration(folder)))
    with prefect_api_at(site.forwarded_api_url, folder):
        with get_client(sync_client=True) as client:
            client.create_work_pool(
                WorkPoolCreate(
                    name=WORK_POOL,
                    type=PygeoapiWorker.type,
                    base_job_template=PygeoapiWorker.get_default_base_job_template(),
                )
            )
        _deploy_with_prefect_alone(folder)
        problems = {
            change.process_id: change.problem
            for change in deploy(load_configuration(site.config_path))
        }
    assert {process_id for process_id, problem in problems.items() if problem} == {"undeployed"}
    yield site
    # what is still to be sent would be tried for a minute after the server is gone
    APILogWorker.drain_all()
    EventsWorker.drain_all()
    site.forwarder.close()


@contextlib.contextmanager
def running_worker(
    site: Site, work_pool: str, folder: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    """Run a worker that has its home and its log in a folder."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", work_pool]
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--type", PygeoapiWorker.type, "--limit", str(WORKER_LIMIT)],
            cwd=folder,
            env={
                **os.environ,
                "PREFECT_API_URL": site.prefect_api_url,
                "PREFECT_HOME": str(folder / "home"),
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                **environment,
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    try:
        yield
    finally:
        stop(process)


@pytest.fixture(scope="session")
def worker(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A worker of the work pool, started anywhere but at the site."""
    # in which the web server of this machine looks for results of flows that are not ours
    path = str(get_current_settings().results.local_storage_path)
    environment = {"PREFECT_RESULTS_LOCAL_STORAGE_PATH": path}
    with running_worker(site, WORK_POOL, tmp_path_factory.mktemp("worker"), environment):
        yield


@pytest.fixture(scope="session")
def deployed(site: Site, worker: None) -> Mapping[str, str]:
    """Job ids of `_requests`, all submitted before the first of them is looked at."""
    with prefect_api_at(site.forwarded_api_url, site.folder):
        manager = site.manager()
        job_ids = {
            name: Jobs(manager).submit(
                request.process_id,
                request.inputs,
                requested_outputs=request.outputs,
                requested_response=request.response,
            )
            for name, request in _requests(site).items()
        }
        site.close_managers()
    return job_ids


@pytest.fixture(scope="module")
def web(site: Site) -> Iterator[Site]:
    """The site, seen from this process as from a web server that was started there."""
    with prefect_api_at(site.forwarded_api_url, site.folder):
        yield site
        site.close_managers()


@pytest.fixture(scope="module")
def manager(web: Site) -> PrefectManager:
    return web.manager()


@pytest.fixture(scope="module")
def jobs(manager: PrefectManager) -> Jobs:
    return Jobs(manager)


@pytest.fixture(scope="module")
def prefect_client(web: Site) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="module")
def flow_run_of(jobs: Jobs, prefect_client: SyncPrefectClient) -> Callable[[str], FlowRun]:
    """Returns a function that reads the flow run of a job."""
    return lambda job_id: prefect_client.read_flow_run(
        jobs.manager.gateway.find(job_id).flow_run_id
    )


@pytest.fixture
def folder(web: Site) -> Path:
    """A folder that test and job share."""
    path = web.folder / "work" / uuid.uuid4().hex
    path.mkdir(parents=True)
    return path


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a web application answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class HttpClient(Protocol):
    """Sends requests to one of the web applications."""

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer: ...


class _FlaskClient:
    def __init__(self, module: ModuleType) -> None:
        self._client = module.APP.test_client()

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = None if body is None else json.dumps(body)
        with self._client.open(path, method=method, data=sent, headers=headers) as answer:
            return Answer(answer.status_code, answer.headers, answer.data)


class _StarletteClient:
    def __init__(self, module: ModuleType) -> None:
        self._transport = httpx.ASGITransport(module.APP, raise_app_exceptions=False)

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = None if body is None else json.dumps(body)

        async def send() -> httpx.Response:
            # an address of this site: no request leaves the process
            async with httpx.AsyncClient(
                transport=self._transport, base_url="http://localhost", timeout=None
            ) as client:
                return await client.request(method, path, content=sent, headers=headers)

        answer = asyncio.run(send())
        return Answer(answer.status_code, answer.headers, answer.content)


_APPLICATIONS: dict[str, Callable[[ModuleType], HttpClient]] = {
    "flask": _FlaskClient,
    "starlette": _StarletteClient,
}


@pytest.fixture(scope="module")
def config_path(web: Site) -> Path:
    """The configuration that the web applications serve."""
    return web.config_path


@pytest.fixture(scope="module", params=list(_APPLICATIONS))
def http(web: Site, config_path: Path, request: pytest.FixtureRequest) -> Iterator[HttpClient]:
    """Each of the two web applications in turn."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PYGEOAPI_CONFIG", "PYGEOAPI_OPENAPI"):
            patch.setenv(name, "")  # remembers that there was none, whoever sets it then
            patch.delenv(name)
        point_pygeoapi_at(read_configuration(config_path), web.folder / "openapi.yml")
        names = (f"pygeoapi.{request.param}_app", f"pygeoapi_prefect.api.{request.param}_app")
        # they read their configuration on import, which another test may have caused; their
        # packages remember them too
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
            package, _, module = name.rpartition(".")
            patch.delattr(importlib.import_module(package), module, raising=False)
        application = importlib.import_module(names[1])
        api = sys.modules[names[0]].api_
        yield _APPLICATIONS[request.param](application)
        api.manager.close()
        for name in names:
            sys.modules.pop(name, None)
