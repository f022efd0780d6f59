"""Jobs over HTTP: status, list, end."""

import datetime as dt
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Failed, Running

from pygeoapi_prefect.jobs import Job

from .conftest import FRAMEWORKS, URL, Service

pytestmark = pytest.mark.parametrize("service", FRAMEWORKS, indirect=True)


def relations(document: Any) -> dict[str, str]:
    return {link["rel"]: link["href"] for link in document["links"]}


def test_a_job_that_waits_has_no_times_that_it_has_not_had(service: Service) -> None:
    job_id = service.submit("table", {})

    status = service.send("GET", f"/jobs/{job_id}").json

    assert status["id"] == status["jobID"] == job_id
    assert (status["processID"], status["type"], status["status"]) == (
        "table",
        "process",
        "accepted",
    )
    assert "started" not in status
    assert "finished" not in status
    assert None not in status.values()
    assert not any(relation.endswith("/results") for relation in relations(status))


def test_a_job_that_is_done_links_to_its_results(service: Service) -> None:
    job_id = service.submit("table", {})
    service.run(job_id)

    status = service.send("GET", f"/jobs/{job_id}").json

    assert (status["status"], status["progress"]) == ("successful", 100)
    assert status["created"] <= status["started"] <= status["finished"]
    links = relations(status)
    assert links["http://www.opengis.net/def/rel/ogc/1.0/results"] == f"{URL}/jobs/{job_id}/results"
    assert links["monitor"] == f"{URL}/jobs/{job_id}"
    assert links["up"] == f"{URL}/jobs"
    addresses = [link["href"] for link in status["links"] if link["rel"] != "monitor"]
    assert f"{URL}/jobs/{job_id}?f=html" in addresses
    assert len(set(addresses)) == len(addresses)


def test_a_job_that_failed_says_why_in_its_status(service: Service) -> None:
    job_id = service.submit("table", {"fail": "input"})
    service.run(job_id)

    status = service.send("GET", f"/jobs/{job_id}").json

    assert status["status"] == "failed"
    assert status["exception"]["status"] == 400
    assert "the link leads nowhere" in status["exception"]["detail"]


@pytest.mark.parametrize("path", ["/jobs/none", "/jobs/none/results", "/jobs/none/results/csv"])
def test_an_unknown_job_is_not_found(service: Service, path: str) -> None:
    answer = service.send("GET", path)

    assert answer.status == 404
    assert answer.json["type"].endswith("/1.0/no-such-job")
    assert answer.json["instance"] == path


def listed(service: Service, query: str) -> list[str]:
    answer = service.send("GET", f"/jobs?{query}")
    assert answer.status == 200, answer.body
    return [job["jobID"] for job in answer.json["jobs"]]


def test_the_list_has_the_newest_jobs_first(service: Service) -> None:
    jobs = [service.submit("table", {}) for _ in range(3)]

    assert listed(service, "") == jobs[::-1]


def test_the_list_is_filtered_by_what_the_query_says(service: Service) -> None:
    waiting = service.submit("table", {})
    done = service.submit("table", {})
    service.run(done)
    hello = service.submit("hello-world", {"name": "you"})
    service.gateway.set_state(hello, Running())
    created = service.send("GET", f"/jobs/{done}").json["created"]

    assert listed(service, "processID=table") == [done, waiting]
    assert listed(service, "processID=table,hello-world") == [hello, done, waiting]
    assert listed(service, "processID=table&processID=none") == [done, waiting]
    assert listed(service, "processID=none") == []
    assert listed(service, "status=accepted") == [waiting]
    assert listed(service, "status=running&status=successful") == [hello, done]
    assert listed(service, "type=process") == [hello, done, waiting]
    assert done in listed(service, f"datetime={created}")
    assert done in listed(service, f"datetime={created}/{created}")
    assert listed(service, "datetime=../2000-01-01T00:00:00Z") == []
    assert listed(service, "minDuration=0") == [hello, done]
    assert listed(service, "minDuration=1000") == []
    assert listed(service, "minDuration=1000,0") == [hello, done]
    assert listed(service, "maxDuration=0&maxDuration=1000&status=successful") == [done]
    assert listed(service, "maxDuration=1000&status=successful") == [done]


@pytest.mark.parametrize(
    "query",
    ["status=done", "type=service", "limit=0", "offset=-1", "datetime=now", "minDuration=x", "f=x"],
)
def test_a_parameter_without_meaning_is_refused(service: Service, query: str) -> None:
    answer = service.send("GET", f"/jobs?{query}")

    assert answer.status == 400
    assert answer.json["detail"].startswith(query.partition("=")[0] + ":")


def test_a_parameter_that_there_is_not_is_refused(service: Service) -> None:
    log = f"/jobs/{service.submit('table', {})}/logs"

    for path, known in (
        ("/jobs?lang=en&f=json&statuss=failed", "type, processID, status, datetime,"),
        (f"{log}?lang=en&f=json&statuss=failed", "known: after, limit, f, lang"),
    ):
        answer = service.send("GET", path)
        assert (answer.status, answer.json["code"]) == (400, "InvalidParameterValue")
        assert "unknown query parameter 'statuss'" in answer.json["detail"]
        assert known in answer.json["detail"]


def test_links_lead_through_all_pages_and_keep_the_query(service: Service) -> None:
    jobs = [service.submit("table", {}) for _ in range(5)]
    url, seen = f"{URL}/jobs?status=accepted,running&limit=2&lang=en", []
    pages = []

    while url:
        answer = service.send("GET", url.removeprefix(URL)).json
        seen += [job["jobID"] for job in answer["jobs"]]
        assert answer["numberMatched"] == 5
        pages.append(relations(answer))
        for link in answer["links"]:
            query = parse_qs(urlsplit(link["href"]).query)
            assert (query["status"], query["limit"]) == (["accepted,running"], ["2"])
            assert query["lang"] == ["en"]
        url = pages[-1].get("next", "")

    assert seen == jobs[::-1]
    assert ["prev" in page for page in pages] == [False, True, True]
    back = service.send("GET", pages[1]["prev"].removeprefix(URL)).json
    assert [job["jobID"] for job in back["jobs"]] == jobs[:-3:-1]


@pytest.mark.parametrize(
    ("query", "accept", "media_type"),
    [
        ("", "text/plain", "text/plain; charset=utf-8"),
        ("?f=json", "text/plain", "application/json"),
        ("?f=html", "text/plain", "text/html"),
        ("", "", "application/json"),
    ],
)
def test_of_a_log_the_address_says_more_than_the_header(
    service: Service, query: str, accept: str, media_type: str
) -> None:
    path = f"/jobs/{service.submit('table', {})}/logs{query}"

    answer = service.send("GET", path, headers={"Accept": accept})

    assert (answer.status, answer.headers["Content-Type"]) == (200, media_type)


def test_a_list_by_duration_leads_on_and_to_its_beginning_and_not_back(service: Service) -> None:
    for _ in range(5):
        service.run(service.submit("table", {}))

    path = "/jobs?minDuration=0&limit=2&offset=2"
    page = relations(service.send("GET", path).json)

    assert {"next", "first"} <= page.keys()
    assert "prev" not in page
    first = parse_qs(urlsplit(page["first"]).query)
    assert first == {"minDuration": ["0"], "limit": ["2"], "offset": ["0"]}
    assert b"Newest</a>" in service.send("GET", f"{path}&f=html").body
    assert b"Newest</a>" not in service.send("GET", "/jobs?limit=2&offset=2&f=html").body


def test_a_job_that_goes_on_is_dismissed(service: Service) -> None:
    job_id = service.submit("table", {})
    service.gateway.set_state(job_id, Running())

    answer = service.send("DELETE", f"/jobs/{job_id}")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert (answer.json["jobID"], answer.json["status"]) == (job_id, "dismissed")
    assert service.send("GET", f"/jobs/{job_id}").json["status"] == "dismissed"
    assert service.send("GET", f"/jobs/{job_id}/results").status == 410


def test_a_job_that_is_being_dismissed_is_not_removed(service: Service) -> None:
    job_id = service.submit("table", {})
    service.gateway.set_state(job_id, Cancelling())

    assert service.send("DELETE", f"/jobs/{job_id}").json["status"] == "dismissed"
    assert service.gateway.runs[job_id].state_type is StateType.CANCELLING


def test_a_job_that_ended_while_it_was_being_dismissed_is_shown_as_it_is(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = service.submit("table", {})
    cancel = service.gateway.cancel

    def cancel_late(job: Job) -> Job:
        service.run(job_id)
        return cancel(job)

    monkeypatch.setattr(service.gateway, "cancel", cancel_late)

    answer = service.send("DELETE", f"/jobs/{job_id}")

    assert (answer.status, answer.json["status"]) == (200, "successful")
    assert any(relation.endswith("/results") for relation in relations(answer.json))
    assert service.send("GET", f"/jobs/{job_id}").json["status"] == "successful"


def test_a_job_whose_work_nobody_stops_can_be_removed_after_a_while(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = service.submit("table", {})
    service.gateway.set_state(job_id, Running())
    for _ in range(2):
        assert service.send("DELETE", f"/jobs/{job_id}").json["status"] == "dismissed"
        assert service.gateway.find(job_id).stopping

    monkeypatch.setattr("pygeoapi_prefect.manager.STOP_TIME", dt.timedelta(0))
    assert service.send("DELETE", f"/jobs/{job_id}").json["status"] == "dismissed"

    assert service.gateway.find(job_id).has_ended
    assert service.send("DELETE", f"/jobs/{job_id}").status == 200
    assert service.send("GET", f"/jobs/{job_id}").status == 404


def test_a_job_that_has_ended_is_removed_with_its_results(service: Service) -> None:
    job_id = service.submit("table", {})
    service.run(job_id)

    answer = service.send("DELETE", f"/jobs/{job_id}")

    assert answer.json["status"] == "dismissed"
    assert list(relations(answer.json)) == ["up"]
    assert service.send("GET", f"/jobs/{job_id}").status == 404
    assert service.send("DELETE", f"/jobs/{job_id}").status == 404


def test_results_of_a_job_whose_worker_is_gone_say_so_without_its_paths(service: Service) -> None:
    job_id = service.submit("table", {})
    service.gateway.set_state(job_id, Failed(message="worker gone at /srv/x/y"))

    answer = service.send("GET", f"/jobs/{job_id}/results")

    assert answer.status == 500
    assert "worker gone" in answer.json["detail"]
    assert "/srv" not in answer.json["detail"]


def test_times_are_utc_to_the_millisecond(service: Service) -> None:
    job_id = service.submit("table", {})

    created = service.send("GET", f"/jobs/{job_id}").json["created"]

    assert created.endswith("Z")
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(created)
    assert dt.timedelta(0) <= age < dt.timedelta(minutes=5)
