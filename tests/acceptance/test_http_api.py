"""The HTTP API over real jobs, beyond what the conformance suite asks for."""

import datetime as dt
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from .conftest import Service, Stack
from .ogc import EXCEPTIONS

GIBIBYTE = 1024**3
LARGE_BYTES = 2 * GIBIBYTE
END = b"the end"
# of one application all is read, of the other enough to see its memory grow
READ_BYTES = {"flask": LARGE_BYTES, "starlette": GIBIBYTE // 2}
SPARE_BYTES = 96 * 1024**2


def test_a_wait_that_runs_out_is_answered_with_the_job_which_goes_on(
    service: Service, gate: Path
) -> None:
    response = service.execute("held", {"name": "late", "until": str(gate)}, prefer="wait=1")

    assert response.status_code == 201
    assert response.headers["Preference-Applied"] == "wait=1"
    job = service.path_of(response.headers["Location"])
    assert service.client.get(f"{job}/results").status_code == 404
    gate.touch()
    assert service.ended(job)["status"] == "successful"
    # what went in came out
    assert b"late" in service.client.get(f"{job}/results").content


def test_preferences_stand_on_several_lines(service: Service) -> None:
    headers = [("Prefer", "respond-async"), ("Prefer", "wait=100")]
    body = {"inputs": {"message": "soon"}, "outputs": ["message"]}

    response = service.client.post("/processes/echo/execution", json=body, headers=headers)

    assert (response.status_code, response.text) == (200, "soon")
    assert response.headers["Preference-Applied"] == "wait=100"


@pytest.mark.parametrize(("reason", "status"), [("input", 400), ("bug", 500)])
def test_results_of_a_job_that_failed_say_why(service: Service, reason: str, status: int) -> None:
    job = service.submit("failing", {"for": reason})

    ended = service.ended(job)
    response = service.client.get(f"{job}/results")

    assert ended["status"] == "failed"
    assert response.status_code == status
    assert ended["exception"]["detail"] == response.json()["detail"]
    assert "secret" not in response.text
    assert "/etc" not in response.text
    if reason == "input":
        assert "leads nowhere" in response.json()["detail"]


def test_a_running_job_is_stopped_and_an_ended_one_removed(service: Service) -> None:
    job = service.submit("echo", {"message": "", "pause": 500})

    assert service.client.delete(job).json()["status"] == "dismissed"
    assert service.client.get(job).json()["status"] == "dismissed"
    assert service.client.get(f"{job}/results").status_code == 410

    done = service.submit("echo", {"message": "x"})
    service.ended(done)
    removed = service.client.delete(done)
    assert [link["rel"] for link in removed.json()["links"]] == ["up"]
    for path in (done, f"{done}/results", f"{done}/results/message"):
        response = service.client.get(path)
        assert (response.status_code, response.json()["type"]) == (404, f"{EXCEPTIONS}/no-such-job")


def seconds_of(status: dict[str, Any]) -> float:
    """How long a job ran that has ended."""
    started, finished = (dt.datetime.fromisoformat(status[at]) for at in ("started", "finished"))
    return (finished - started).total_seconds()


def test_jobs_are_listed_as_the_prefect_server_finds_them(service: Service) -> None:
    long = service.submit("echo", {"message": "", "pause": 2.5})
    short = service.submit("hello-world", {"name": "you"})
    ended = {job: service.ended(job) for job in (long, short)}
    assert {status["status"] for status in ended.values()} == {"successful"}
    # on a busy machine, the short one too
    took_two_seconds = {job for job, status in ended.items() if seconds_of(status) >= 2}
    waiting = service.submit("echo", {"message": "", "pause": 600})
    created = service.client.get(short).json()["created"]

    def found(**query: Any) -> set[str]:
        url = httpx.URL("/jobs", params={"limit": 1000, **query})
        jobs = service.client.get(url).json()["jobs"]
        return {f"/jobs/{job['jobID']}" for job in jobs} & {long, short, waiting}

    try:
        assert found() == {long, short, waiting}
        assert found(processID="hello-world") == {short}
        assert found(processID="hello-world,echo", status="successful") == {long, short}
        assert found(status=["accepted", "running"]) == {waiting}
        assert found(datetime=created) == {short}
        assert found(datetime=f"{created}/..") == {short, waiting}
        assert found(datetime=f"../{created}") == {long, short}
        assert found(minDuration=2, status="successful") == took_two_seconds
        assert found(maxDuration=2, status="successful", processID="echo") == set()
        assert found(minDuration=100_000) == set()
    finally:
        service.client.delete(waiting)


def test_pages_are_linked(service: Service) -> None:
    for _ in range(5):
        assert service.execute("echo", {"message": ""}).status_code == 200
    seen: list[str] = []
    url = "/jobs?limit=2&status=successful"

    for _ in range(2):
        page = service.client.get(url).json()
        seen += [job["jobID"] for job in page["jobs"]]
        assert page["numberMatched"] >= 5
        (url,) = [link["href"] for link in page["links"] if link["rel"] == "next"]
        url = service.path_of(url)

    assert len(set(seen)) == len(seen) == 4


@pytest.fixture(scope="module")
def zeros(stack: Stack) -> str:
    """Path of an output of 2 GiB, on each of the applications."""
    service = stack.services["flask"]
    job = service.submit("large", {"bytes": LARGE_BYTES})
    ended = service.ended(job)
    assert ended["status"] == "successful", ended["message"]
    return f"{job}/results/zeros"


def resident_bytes(service: Service) -> int:
    return int(psutil.Process(service.process_id).memory_info().rss)


def test_a_large_output_is_served_with_flat_memory(service: Service, zeros: str) -> None:
    before, highest, received, last = resident_bytes(service), 0, 0, b""
    wanted = READ_BYTES[service.application]

    with service.client.stream("GET", zeros) as got:
        assert got.headers["Content-Length"] == str(LARGE_BYTES)
        for chunk in got.iter_raw(4 * 1024**2):
            received += len(chunk)
            last = chunk
            highest = max(highest, resident_bytes(service))
            if wanted < LARGE_BYTES and received >= wanted:
                break

    assert received == wanted
    assert last.endswith(END) is (wanted == LARGE_BYTES)
    assert highest - before < SPARE_BYTES


def test_parts_of_a_large_output_are_served(service: Service, zeros: str) -> None:
    head = service.client.head(zeros)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(LARGE_BYTES)

    end = service.client.get(zeros, headers={"Range": f"bytes=-{len(END)}"})
    assert (end.status_code, end.content) == (206, END)
    first = LARGE_BYTES - len(END)
    assert end.headers["Content-Range"] == f"bytes {first}-{LARGE_BYTES - 1}/{LARGE_BYTES}"

    middle = service.client.get(zeros, headers={"Range": f"bytes={GIBIBYTE}-{GIBIBYTE + 4}"})
    assert (middle.status_code, middle.content) == (206, bytes(5))

    beyond = service.client.get(zeros, headers={"Range": f"bytes={LARGE_BYTES}-"})
    assert beyond.status_code == 416
    assert beyond.headers["Content-Range"] == f"bytes */{LARGE_BYTES}"

    tag = {"If-None-Match": head.headers["ETag"]}
    assert service.client.get(zeros, headers=tag).status_code == 304


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing/here", 404),
        ("PUT", "/jobs", 405),
        ("GET", "/processes/echo/execution", 405),
    ],
)
def test_what_the_framework_refuses_is_a_problem_too(
    service: Service, method: str, path: str, status: int
) -> None:
    response = service.client.request(method, path)

    assert (response.status_code, response.json()["status"]) == (status, status)
    assert ("Allow" in response.headers) is (status == 405)
    page = service.client.request(method, path, headers={"Accept": "text/html"})
    assert page.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize(
    "accept", ["text/html;q=0", "a/b;q=x", "*/*;q=0.1", ";", "text/html;q=1e9"]
)
def test_no_accept_field_is_too_odd(service: Service, accept: str) -> None:
    assert service.client.get("/jobs", headers={"Accept": accept}).status_code == 200


def test_the_document_that_is_served_is_the_one_that_was_made(service: Service) -> None:
    made = yaml.safe_load(service.openapi_document.read_text())

    response = service.client.get("/openapi")

    assert response.headers["Content-Type"] == "application/vnd.oai.openapi+json;version=3.0"
    assert response.json()["paths"].keys() == made["paths"].keys()
