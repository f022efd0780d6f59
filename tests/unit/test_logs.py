"""Logs of jobs: paging, following, and what clients see of them."""

import dataclasses
import datetime as dt
import logging
import time
from typing import Any

import pytest
from flask.testing import FlaskClient
from prefect.states import Completed, Running

from pygeoapi_prefect.config import LogPublication
from pygeoapi_prefect.errors import InvalidParameter
from pygeoapi_prefect.jobs import Job
from pygeoapi_prefect.logs import LATE_SECONDS, LogLine, LogPage, LogPosition, page_of
from pygeoapi_prefect.testing import InMemoryGateway

from .conftest import MakeManager

NOW = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
LONG_AGO = NOW - dt.timedelta(hours=1)


def line(message: str = "resampling", **members: Any) -> LogLine:
    defaults = {
        "line_id": message,
        "time": LONG_AGO,
        "level": logging.INFO,
        "logger": "prefect.flow_runs",
    }
    return LogLine(**{**defaults, "message": message, **members})


def seconds_ago(seconds: float) -> dt.datetime:
    return NOW - dt.timedelta(seconds=seconds)


@pytest.fixture
def job(gateway: InMemoryGateway) -> Job:
    job = gateway.submit(job_id="a", process_id="echo", deployment="", parameters={}, labels={})
    return gateway.set_state(job.job_id, Running())


def page(job: Job, lines: list[LogLine], **members: Any) -> LogPage:
    options = {"limit": 200, "publication": LogPublication.REDACTED, "now": NOW, **members}
    return page_of(job, lines, options.pop("position", LogPosition()), **options)


def follow(gateway: InMemoryGateway, job: Job, limit: int) -> list[str]:
    """What a client that drops lines with ids it knows has after it has followed for a while."""
    seen: dict[str, LogLine] = {}
    position = LogPosition()
    for _ in range(20):
        part = page(job, gateway.log(job, position, limit), position=position, limit=limit)
        seen |= {shown.line_id: shown for shown in part.lines}
        position = part.following or position
    return list(seen)


def test_following_a_job_gives_each_line_once(gateway: InMemoryGateway, job: Job) -> None:
    same_time = [line(f"tile {number}") for number in range(5)]
    later = [line(f"late {number}", time=seconds_ago(100 - number)) for number in range(6)]
    gateway.logs[job.job_id] = [*same_time, *later]
    assert follow(gateway, job, limit=3) == [one.message for one in (*same_time, *later)]


def test_lines_of_the_last_seconds_come_again_for_others_may_come_before_them(
    gateway: InMemoryGateway, job: Job
) -> None:
    settled = line("settled", time=seconds_ago(LATE_SECONDS + 1))
    newest = line("newest", time=seconds_ago(1))
    overtaken = line("overtaken", time=seconds_ago(2))
    gateway.logs[job.job_id] = [settled, newest]
    first = page(job, gateway.log(job, LogPosition(), 200))
    gateway.logs[job.job_id].append(overtaken)
    assert first.following is not None
    second = page(job, gateway.log(job, first.following, 200), position=first.following)
    assert [one.message for one in first.lines] == ["settled", "newest"]
    assert [one.message for one in second.lines] == ["overtaken", "newest"]


def test_a_running_job_is_followed_also_where_it_wrote_nothing_yet(job: Job) -> None:
    empty = page(job, [])
    assert empty.following == LogPosition()
    assert not empty.has_more


def test_a_log_is_complete_some_seconds_after_the_end_of_the_job(
    gateway: InMemoryGateway, job: Job
) -> None:
    ended = gateway.set_state(job.job_id, Completed())
    just = dataclasses.replace(ended, finished=seconds_ago(2))
    assert page(just, [line()]).following is not None
    assert page(dataclasses.replace(just, finished=LONG_AGO), [line()]).following is None
    full = page(dataclasses.replace(just, finished=LONG_AGO), [line()], limit=1)
    assert full.following is not None
    assert full.has_more


def test_positions_survive_their_way_through_a_url() -> None:
    position = LogPosition(dt.datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=dt.UTC), 3)
    assert LogPosition.parse(str(position)) == position
    assert LogPosition.parse(None) == LogPosition()


@pytest.mark.parametrize("text", ["", "-", "yesterday", "1-2-3", "-5-0", "1.5-0", "9" * 40 + "-0"])
def test_other_positions_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="after"):
        LogPosition.parse(text)


def test_the_last_time_that_a_position_can_have_is_one() -> None:
    with pytest.raises(InvalidParameter, match="after"):
        LogPosition.parse("9" * 18 + "-0")
    assert LogPosition.parse("9" * 17 + "-0").time is not None


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("resampled 12 tiles", "resampled 12 tiles"),
        ("wrote /srv/results/a/b.tif", "wrote b.tif"),
        ("reading https://user:pw@host/x.tif?sig=abc", "reading https://host/x.tif"),
        ("login with password=hunter2, ok", "login with password=***, ok"),
        ('{"api_key": "abc def"}', '{"api_key": ***}'),
        ("Authorization: Bearer eyJhbGciOi.x.y", "Authorization: Bearer ***"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtn", "AWS_SECRET_ACCESS_KEY=***"),
        ("failed\nTraceback (most recent call last):\n  File x", "failed"),
    ],
)
def test_redacted_lines_hold_no_paths_traces_and_secrets(
    job: Job, written: str, shown: str
) -> None:
    assert [one.message for one in page(job, [line(written)]).lines] == [shown]


@pytest.mark.parametrize(
    "hidden",
    [
        line("x = 3", level=logging.DEBUG),
        line("Worker 'host-1' starts flow run", logger="prefect.flow_runs.worker"),
        line("GET http://10.0.0.3/", logger="httpx"),
        line("View at http://10.0.0.3:4200/runs/flow-run/1"),
    ],
)
def test_redacted_logs_leave_out_what_is_about_the_server(job: Job, hidden: LogLine) -> None:
    assert page(job, [hidden]).lines == []
    assert page(job, [hidden], publication=LogPublication.VERBATIM).lines == [hidden]


@pytest.mark.parametrize("unit", ["password", "token:", "secret_", "bearer ", "a/", "'", "key= '"])
def test_redaction_takes_linear_time(job: Job, unit: str) -> None:
    def seconds(count: int) -> float:
        """Of the processor, whatever else goes on; the least of some, for each has its hiccups."""
        spent = []
        for _ in range(3):
            started_at = time.thread_time()
            page(job, [line(unit * count)])
            spent.append(time.thread_time() - started_at)
        return min(spent)

    # ten times as much takes about ten times as long; a hundred times, if it were quadratic
    assert seconds(20_000) < 30 * seconds(2_000) + 0.01


@pytest.mark.usefixtures("job")
class TestOverHttp:
    @pytest.fixture
    def client(
        self, make_manager: MakeManager, client_of: Any, gateway: InMemoryGateway
    ) -> FlaskClient:
        gateway.logs["a"] = [line("one"), line("two", task="resample-1", level=logging.WARNING)]
        client: FlaskClient = client_of(make_manager())
        return client

    def test_a_log_is_json(self, client: FlaskClient) -> None:
        document = client.get("/jobs/a/logs").get_json()
        assert document["logs"] == [
            {
                "id": "one",
                "timestamp": "2026-01-02T11:00:00.000Z",
                "level": "INFO",
                "message": "one",
            },
            {
                "id": "two",
                "timestamp": "2026-01-02T11:00:00.000Z",
                "level": "WARNING",
                "message": "two",
                "task": "resample-1",
            },
        ]
        assert (document["jobID"], document["complete"], document["hasMore"]) == ("a", False, False)

    def test_its_next_link_leads_on(self, client: FlaskClient) -> None:
        first = client.get("/jobs/a/logs?limit=1").get_json()
        (following,) = [one["href"] for one in first["links"] if one["rel"] == "next"]
        path = following[following.index("/jobs/") :]
        second = client.get(path).get_json()
        assert [one["id"] for one in (*first["logs"], *second["logs"])] == ["one", "two"]

    def test_a_log_is_text_for_who_accepts_it_best(self, client: FlaskClient) -> None:
        answer = client.get("/jobs/a/logs", headers={"Accept": "text/plain"})
        assert answer.content_type == "text/plain; charset=utf-8"
        assert answer.text == (
            "2026-01-02T11:00:00.000Z INFO     one\n"
            "2026-01-02T11:00:00.000Z WARNING  resample-1: two\n"
        )
        assert 'rel="next"' in answer.headers["Link"]

    def test_the_status_links_to_it(self, client: FlaskClient) -> None:
        links = client.get("/jobs/a").get_json()["links"]
        (log,) = [one for one in links if one["rel"].endswith("/rel/ogc/1.0/log")]
        assert log["href"].endswith("/jobs/a/logs")

    @pytest.mark.parametrize(
        ("path", "status"),
        [("/jobs/b/logs", 404), ("/jobs/a/logs?after=x", 400), ("/jobs/a/logs?limit=0", 400)],
    )
    def test_wrong_requests_are_refused(self, client: FlaskClient, path: str, status: int) -> None:
        assert client.get(path).status_code == status

    def test_an_operator_can_keep_logs_to_themselves(
        self, make_manager: MakeManager, client_of: Any
    ) -> None:
        client = client_of(make_manager(publish_logs="none"))
        assert client.get("/jobs/a/logs").status_code == 403
        rels = [one["rel"] for one in client.get("/jobs/a").get_json()["links"]]
        assert not any(rel.endswith("/log") for rel in rels)
