"""Progress, logs and callbacks of jobs in a worker, as clients of both applications see them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..receiver import Receiver, receiving
from .conftest import ALLOWED_HOST, Service, eventually
from .ogc import violations

STEPS = 10


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving(ALLOWED_HOST) as running:
        yield running


def pages(service: Service, path: str) -> Iterator[dict[str, Any]]:
    """The pages of a log, as a client gets them that follows each `next` link."""
    following: str | None = f"{path}/logs?limit=50"
    while following is not None:
        page: dict[str, Any] = service.client.get(following).json()
        yield page
        links = [one["href"] for one in page["links"] if one["rel"] == "next"]
        following = service.path_of(links[0]) if links else None


def test_progress_and_message_of_a_running_job_are_those_that_its_flow_reports(
    service: Service, gate: Path
) -> None:
    path = service.submit("held", {"name": "Ada", "until": str(gate)})

    def under_way() -> dict[str, Any] | None:
        status: dict[str, Any] = service.client.get(path).json()
        return status if 0 < status["progress"] < 100 else None

    status = eventually(under_way)
    assert status["status"] == "running"
    assert status["message"].startswith(f"Step {status['progress'] // STEPS + 1} ")
    jobs = service.client.get("/jobs", params={"status": "running,successful"}).json()["jobs"]
    (listed,) = [job for job in jobs if job["jobID"] == status["jobID"]]
    assert listed["progress"] >= status["progress"]
    service.client.delete(path)


def test_tasks_of_a_flow_report_for_their_job(service: Service) -> None:
    path = service.submit("mosaic", {"tiles": 4})

    def reported() -> dict[str, Any] | None:
        status: dict[str, Any] = service.client.get(path).json()
        return status if status["message"] == "resampled tile 4" else None

    assert eventually(reported)["progress"] == 90
    service.client.delete(path)


def test_a_client_that_follows_a_log_from_the_start_has_all_of_it_in_the_end(
    service: Service,
) -> None:
    path = service.submit("showcase", {"name": "Ada", "seconds": 1})
    lines: dict[str, dict[str, Any]] = {}
    for page in pages(service, path):
        lines |= {line["id"]: line for line in page["logs"]}
    steps = [line for line in lines.values() if line["message"].startswith("Step ")]
    assert [line["message"].split()[1] for line in steps] == [str(n + 1) for n in range(STEPS)]
    assert {line["level"] for line in steps} == {"INFO"}
    text = service.client.get(f"{path}/logs", headers={"Accept": "text/plain"}).text
    assert text.count("Step ") == STEPS
    # what the worker and Prefect say of themselves is not for clients
    assert "http://" not in text


def test_a_subscriber_is_told_by_the_worker(service: Service, receiver: Receiver) -> None:
    path = service.submit("echo", {"message": "Ada"}, subscriber=receiver.subscriber)
    success = receiver.wait_for("/success")
    assert success["message"] == "Ada"
    assert violations(success, "results") == []
    (in_progress,) = receiver.of("/inProgress")
    assert violations(in_progress, "statusInfo") == []
    assert (path.endswith(in_progress["jobID"]), in_progress["status"]) == (True, "running")
    assert receiver.of("/failed") == []


def test_a_subscriber_is_told_of_a_failure(service: Service, receiver: Receiver) -> None:
    service.submit("failing", {"for": "bug"}, subscriber=receiver.subscriber)
    failure = receiver.wait_for("/failed")
    assert violations(failure, "statusInfo") == []
    assert failure["status"] == "failed"
    assert "secret" not in failure["message"]


def test_a_subscriber_that_must_not_be_called_is_refused(service: Service) -> None:
    response: httpx.Response = service.execute(
        "echo", {"message": "Ada"}, subscriber={"successUri": "http://127.0.0.1:5000/"}
    )
    assert response.status_code == 400
    assert "not a public address" in response.json()["detail"]
