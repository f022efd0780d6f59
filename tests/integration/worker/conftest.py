"""Real workers on a real Prefect server, and the means to be cruel to them."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentFlowRunCreate, WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Suspended, to_state_create

from pygeoapi_prefect.worker import PygeoapiWorker
from tests.conftest import die_with_parent
from tests.forwarder import Forwarder

FLOWS = Path(__file__).parent
WORKER_START_TIMEOUT_SECONDS = 150.0
POLL_SECONDS = 0.05


def wait_for[T](
    find: Callable[[], T | None], what: str | Callable[[], str], seconds: float = 120.0
) -> T:
    """Call `find` until it returns something true."""
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        if found := find():
            return found
        time.sleep(POLL_SECONDS)
    pytest.fail(f"waited {seconds} s in vain for {what if isinstance(what, str) else what()}")


def is_running(pid: int) -> bool:
    """Whether a process exists that is not just waiting to be buried."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


class Job:
    """A flow run, and the directory in which its flow says what it does."""

    def __init__(self, client: SyncPrefectClient, flow_run_id: UUID, out: Path) -> None:
        self._client = client
        self.id = flow_run_id
        self.out = out

    def read(self) -> FlowRun:
        return self._client.read_flow_run(self.id)

    @property
    def state(self) -> State[Any]:
        state = self.read().state
        assert state is not None
        return state

    def lines(self, name: str) -> list[str]:
        path = self.out / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_until_ended(self, seconds: float = 120.0) -> State[Any]:
        return wait_for(
            lambda: state if (state := self.state).is_final() else None,
            lambda: f"the end of a flow run that is {self.state!r}",
            seconds,
        )

    def wait_until_it_said(self, name: str, seconds: float = 120.0) -> list[str]:
        return wait_for(lambda: self.lines(name), f"the flow to say {name!r}", seconds)

    def dismiss(self) -> None:
        cancelling: State[Any] = State(type=StateType.CANCELLING, name="Cancelling")
        self._client.set_flow_run_state(self.id, cancelling)

    @property
    def pid(self) -> int:
        return int(self.wait_until_it_said("began")[-1].split()[-1])


class WorkerProcess:
    """A worker as an operator starts it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_until_warm(self) -> None:
        give_up_at = time.monotonic() + WORKER_START_TIMEOUT_SECONDS
        while b"Processes are warm" not in self.log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > give_up_at:
                pytest.fail(f"the worker did not start:\n{self.log.read_text()}")
            time.sleep(POLL_SECONDS)

    def wait(self, seconds: float = 90.0) -> int:
        return self.process.wait(timeout=seconds)


class Site:
    """A work pool, its deployments and its workers."""

    def __init__(self, client: SyncPrefectClient, api_url: str, directory: Path) -> None:
        self.client = client
        self.api_url = api_url
        self.directory = directory
        self.pool = f"pool-{uuid.uuid4().hex[:8]}"
        self._workers: list[WorkerProcess] = []
        self._outs = 0
        self.make_pool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_workers()

    def make_pool(self) -> None:
        """Make the work pool; also again, after it was deleted."""
        template = PygeoapiWorker.get_default_base_job_template()
        self.client.create_work_pool(
            WorkPoolCreate(name=self.pool, type="pygeoapi", base_job_template=template)
        )

    def deploy(self, flow_name: str, entrypoint: str | None = None, **options: Any) -> UUID:
        """Deploy a flow of `flows_for_worker`, or of another entrypoint."""
        response = self.client.request("POST", "/flows/", json={"name": flow_name})
        return self.client.create_deployment(
            flow_id=UUID(response.json()["id"]),
            name=f"{flow_name}-{uuid.uuid4().hex[:8]}",
            entrypoint=entrypoint or f"flows_for_worker.{flow_name}",
            work_pool_name=self.pool,
            **options,
        )

    def submit(self, deployment: UUID | str, **parameters: Any) -> Job:
        """Create a flow run; a name of a flow is deployed first."""
        scheduled = parameters.pop("state", None)
        if isinstance(deployment, str):
            deployment = self.deploy(deployment)
        out = parameters.pop("into", None)
        if out is None:
            self._outs += 1
            out = self.directory / f"out-{self._outs}"
            out.mkdir()
        run = DeploymentFlowRunCreate(
            parameters={"out": str(out), **parameters},
            state=None if scheduled is None else to_state_create(scheduled),
        )
        path = f"{self.api_url}/deployments/{deployment}/create_flow_run"
        body = run.model_dump(mode="json", exclude_unset=True)

        def create() -> httpx.Response | None:
            answer = httpx.post(path, json=body, timeout=120)
            return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer

        # where SQLite is locked for a moment, Prefect's own client waits for seconds
        answer = wait_for(create, "a flow run to be made").raise_for_status()
        return Job(self.client, UUID(answer.json()["id"]), out)

    def suspend(self, job: Job) -> None:
        suspended: State[Any] = Suspended(timeout_seconds=600)
        answer = self.client.set_flow_run_state(job.id, suspended)
        assert answer.status is SetStateStatus.ACCEPT, answer

    def start_worker(self, *options: str, **settings: Any) -> WorkerProcess:
        """Start `prefect worker start --type pygeoapi` and wait until it is warm."""
        worker = self.launch_worker(*options, **settings)
        worker.wait_until_warm()
        return worker

    def launch_worker(
        self,
        *options: str,
        name: str = "worker",
        api_url: str | None = None,
        **settings: object,
    ) -> WorkerProcess:
        log = self.directory / f"{name}-{len(self._workers)}.log"
        tuning = {"processes": 2, "reap_seconds": 1, "shutdown_grace_seconds": 5} | settings
        environment = {
            **os.environ,
            "PREFECT_API_URL": api_url or self.api_url,
            "PREFECT_HOME": str(self.directory / "worker-home"),
            "PYTHONPATH": str(FLOWS),
            "PREFECT_LOGGING_LEVEL": "DEBUG",
            **{
                f"PREFECT_INTEGRATIONS_PYGEOAPI_WORKER_{key.upper()}": str(value)
                for key, value in tuning.items()
            },
        }
        # as on the machine of an operator who has not heard of it
        environment.pop("PYTHONUNBUFFERED", None)
        command = [sys.executable, "-m", "prefect", "worker", "start"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--type", "pygeoapi", "--pool", self.pool, "--name", name, *options],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        worker = WorkerProcess(process, log)
        self._workers.append(worker)
        return worker

    def read_worker_logs(self) -> str:
        return "\n".join(worker.log.read_text() for worker in self._workers)

    def stop_workers(self) -> None:
        """Let what they are about to begin begin, and end."""
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.signal(signal.SIGTERM)
        for worker in self._workers:
            worker.wait()
        self._workers.clear()

    def kill_workers(self) -> None:
        """Waste no time on jobs that nobody looks at any more."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.wait()
        self._workers.clear()


@pytest.fixture(scope="module")
def prefect_client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: prefect_server}), get_client(sync_client=True) as c:
        yield c


@pytest.fixture
def site(prefect_client: SyncPrefectClient, prefect_server: str, tmp_path: Path) -> Iterator[Site]:
    """A work pool of this test alone, without a worker."""
    with Site(prefect_client, prefect_server, tmp_path) as site:
        yield site


@pytest.fixture(scope="module")
def served_site(
    prefect_client: SyncPrefectClient,
    prefect_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A work pool with one worker, for all tests of a module."""
    with Site(prefect_client, prefect_server, tmp_path_factory.mktemp("site")) as site:
        site.start_worker()
        yield site


@pytest.fixture
def forwarder(prefect_server: str) -> Iterator[Forwarder]:
    """The way of a worker to the Prefect server."""
    port = httpx.URL(prefect_server).port
    assert port is not None
    forwarder = Forwarder(port)
    yield forwarder
    forwarder.close()


def read_logs(site: Site, job: Job) -> str:
    filter_: Mapping[str, Any] = {"logs": {"flow_run_id": {"any_": [str(job.id)]}}}
    response = site.client.request("POST", "/logs/filter", json=dict(filter_))
    return "\n".join(entry["message"] for entry in response.json())
