"""What the package offers to the tests of applications and authors."""

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from prefect import flow
from prefect.states import Completed
from pygeoapi.process.base import BaseProcessor

from pygeoapi_prefect.errors import BackendUnavailable, ConfigurationError, JobNotFound
from pygeoapi_prefect.gateway import ApiGateway
from pygeoapi_prefect.jobs import Job
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.process.base import BasePrefectProcessor
from pygeoapi_prefect.schemas import JobStatus, ProcessDescription, ProcessIOSchema, ProcessOutput
from pygeoapi_prefect.testing import InMemoryGateway, run_job


class Failing(BaseProcessor):
    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, {"version": "1"})

    def execute(self, data: dict[str, Any], outputs: Any = None) -> tuple[str, Any]:
        raise KeyError(f"{sorted(data)} {outputs}")


@flow
async def answering() -> int:
    return 42


class Answering(BasePrefectProcessor):
    process_flow = answering
    process_description = ProcessDescription(
        version="1", outputs={"answer": ProcessOutput(schema_=ProcessIOSchema())}
    )


EXISTING = {
    "prefect": {
        "deployment": {"name": "slope-flow/main"},
        "metadata": {"version": "1", "outputs": {"a": {"schema": {}}}},
    }
}


@pytest.fixture
def manager(make_manager: Callable[..., PrefectManager]) -> PrefectManager:
    return make_manager(
        {
            "hello-world": "HelloWorld",
            "failing": f"{__name__}.Failing",
            "answering": f"{__name__}.Answering",
            "existing": EXISTING,
        },
        sync_through_deployments=True,
    )


def submit(manager: PrefectManager, process_id: str, **inputs: Any) -> Job:
    return manager.gateway.submit(
        job_id=str(uuid.uuid4()),
        process_id=process_id,
        deployment="any/one",
        parameters={"execution_request": '{"inputs": {"name": "x"}}'},
        labels={},
    )


def test_an_application_is_tested_without_a_server(
    manager: PrefectManager,
    gateway: InMemoryGateway,
    client_of: Callable[[PrefectManager], FlaskClient],
) -> None:
    client = client_of(manager)

    accepted = client.post(
        "/processes/hello-world/execution",
        json={"inputs": {"name": "x"}},
        headers={"Prefer": "respond-async"},
    )
    assert accepted.status_code == 201
    job_id = accepted.headers["Location"].rpartition("/")[2]
    assert client.get(f"/jobs/{job_id}/results").status_code == 404

    run_job(manager, gateway.find(job_id))

    assert client.get(f"/jobs/{job_id}/results").get_json()["value"] == "Hello x!"


def test_a_job_runs_and_ends(manager: PrefectManager) -> None:
    job = run_job(manager, submit(manager, "hello-world"))

    assert job.status is JobStatus.successful
    assert job.started is not None
    assert job.finished is not None
    assert manager.gateway.find(job.job_id) == job


def test_a_job_of_an_asynchronous_flow_runs(manager: PrefectManager) -> None:
    job = run_job(manager, submit(manager, "answering"))

    assert job.status is JobStatus.successful


def test_a_job_fails_as_prefect_lets_it_fail(manager: PrefectManager) -> None:
    job = run_job(manager, submit(manager, "failing"))

    assert job.status is JobStatus.failed
    assert job.message == "KeyError: \"['name'] None\""


def test_a_job_that_has_no_class_cannot_be_run(manager: PrefectManager) -> None:
    with pytest.raises(ConfigurationError, match="process existing has no Python class"):
        run_job(manager, submit(manager, "existing"))


def test_a_job_of_a_real_server_is_left_to_its_workers(manager: PrefectManager) -> None:
    job = submit(manager, "hello-world")
    manager.gateway = ApiGateway()

    with pytest.raises(TypeError, match="have workers"):
        run_job(manager, job)


def test_nobody_gives_a_state_to_a_job_that_is_not_there(gateway: InMemoryGateway) -> None:
    with pytest.raises(JobNotFound):
        gateway.set_state("nobody", Completed())


def test_a_wait_ends_in_another_thread(manager: PrefectManager, gateway: InMemoryGateway) -> None:
    job = submit(manager, "hello-world")
    ended: list[Job] = []
    waiting = threading.Thread(target=lambda: ended.append(gateway.wait(job, 120)))
    waiting.start()

    gateway.set_state(job.job_id, Completed())
    waiting.join()

    assert [job.status for job in ended] == [JobStatus.successful]


def test_a_worker_is_told_of_jobs_that_somebody_waits_for(
    manager: PrefectManager, gateway: InMemoryGateway
) -> None:
    told: list[str] = []
    gateway.worker = lambda job: told.append(job.job_id)
    first, _ = submit(manager, "hello-world"), submit(manager, "hello-world")

    gateway.wait(first, 0)

    assert told == [first.job_id]


def test_a_gateway_comes_back(gateway: InMemoryGateway) -> None:
    gateway.unavailable = True
    with pytest.raises(BackendUnavailable):
        gateway.page(limit=1)

    gateway.unavailable = False

    assert gateway.page(limit=1).jobs == []
