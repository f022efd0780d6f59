"""Job identity, the status table and messages for clients."""

import datetime as dt
import uuid
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import AwaitingRetry, Late, Scheduled
from pygeoapi.util import JobStatus as PygeoapiJobStatus

from pygeoapi_prefect.jobs import (
    MESSAGE_MAX_CHARACTERS,
    STATUS_OF_STATE,
    JobFilter,
    job_of_run,
    new_job_id,
    progress_labels,
    public_message,
    run_labels,
    run_name,
    run_tags,
    states_of,
)
from pygeoapi_prefect.schemas import JobStatus

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def flow_run(
    state: State[Any] | StateType | None = StateType.RUNNING, /, **members: Any
) -> FlowRun:
    if isinstance(state, StateType):
        state = State(type=state)
    return FlowRun.model_validate(
        {
            "flow_id": uuid.uuid4(),
            "name": "pygeoapi_job_abc",
            "tags": run_tags("buffer"),
            "created": NOW,
            "state": state,
            "state_type": state and state.type,
            "state_name": state and state.name,
            **members,
        }
    )


@pytest.mark.parametrize(
    ("state_type", "status", "has_ended"),
    [
        (StateType.SCHEDULED, JobStatus.accepted, False),
        (StateType.PENDING, JobStatus.accepted, False),
        (StateType.RUNNING, JobStatus.running, False),
        (StateType.PAUSED, JobStatus.running, False),
        (StateType.COMPLETED, JobStatus.successful, True),
        (StateType.FAILED, JobStatus.failed, True),
        (StateType.CRASHED, JobStatus.failed, True),
        (StateType.CANCELLING, JobStatus.dismissed, False),
        (StateType.CANCELLED, JobStatus.dismissed, True),
    ],
)
def test_each_prefect_state_is_one_ogc_status(
    state_type: StateType, status: JobStatus, has_ended: bool
) -> None:
    job = job_of_run(flow_run(state_type))

    assert (job.status, job.has_ended) == (status, has_ended)


def test_the_table_knows_every_state_that_prefect_has() -> None:
    assert set(STATUS_OF_STATE) == set(StateType)


def test_a_run_without_a_state_is_a_job_that_waits() -> None:
    job = job_of_run(flow_run(None))

    assert (job.status, job.updated) == (JobStatus.accepted, NOW)


def test_a_job_that_waits_for_its_next_try_is_running() -> None:
    job = job_of_run(flow_run(AwaitingRetry(), start_time=NOW))

    assert job.status is JobStatus.running
    assert job.message == "Job failed and will be tried again"


@pytest.mark.parametrize("status", JobStatus)
def test_states_and_statuses_lead_back_to_each_other(status: JobStatus) -> None:
    states = states_of(status)

    assert states
    assert {STATUS_OF_STATE[state] for state in states} == {status}


@pytest.mark.parametrize(
    "status",
    [
        "failed",
        JobStatus.failed,
        PygeoapiJobStatus.failed,
        [PygeoapiJobStatus.failed],
        ("failed", JobStatus.failed),
    ],
)
def test_a_status_is_understood_however_it_is_given(status: object) -> None:
    assert states_of(status) == [StateType.FAILED, StateType.CRASHED]


def test_no_status_is_any_status() -> None:
    assert states_of(None) is None


@pytest.mark.parametrize(
    ("members", "job_id"),
    [
        ({"name": "pygeoapi_job_a"}, "a"),
        ({"name": "renamed by its flow", "idempotency_key": "pygeoapi_job_b"}, "b"),
        ({"name": "pygeoapi_job_other", "idempotency_key": "pygeoapi_job_c"}, "c"),
        ({"name": "pygeoapi_job_d", "idempotency_key": "a schedule's"}, "d"),
    ],
)
def test_the_job_id_is_read_off_key_or_name(members: dict[str, str], job_id: str) -> None:
    assert job_of_run(flow_run(**members)).job_id == job_id


def test_a_run_that_nobody_named_goes_by_its_own_id() -> None:
    run = flow_run(name="sly-fox", idempotency_key=None)

    assert job_of_run(run).job_id == str(run.id)


def test_job_ids_are_fresh_and_survive_the_name_of_the_run() -> None:
    first, second = new_job_id(), new_job_id()

    assert first != second
    assert job_of_run(flow_run(name=run_name(first))).job_id == first


def test_the_process_id_comes_from_the_tag_and_not_from_the_flow() -> None:
    assert job_of_run(flow_run(tags=[*run_tags("slope: 3/4"), "mine"])).process_id == "slope: 3/4"
    assert job_of_run(flow_run(tags=["mine"])).process_id == ""


def test_labels_bring_a_jobs_facts_back() -> None:
    labels = run_labels(
        process_id="buffer",
        result_media_type="image/png",
        result_storage="memory://x",
        web_process="host:1:2.00",
    )

    job = job_of_run(flow_run(labels=labels))

    assert job.result_media_type == "image/png"
    assert job.result_storage == "memory://x"
    assert job.web_process == "host:1:2.00"


def test_a_run_without_labels_is_a_job_all_the_same() -> None:
    job = job_of_run(flow_run(labels={}))

    assert job.result_media_type == "application/json"
    assert (job.result_storage, job.web_process, job.execution_request) == (None, None, None)


LATER = NOW + dt.timedelta(seconds=10)


@pytest.mark.parametrize(
    ("state", "times", "seconds"),
    [
        (StateType.SCHEDULED, {}, None),
        (StateType.RUNNING, {"start_time": NOW}, 10),
        (StateType.COMPLETED, {"start_time": NOW, "end_time": NOW + dt.timedelta(seconds=3)}, 3),
        # dismissed before it ran
        (StateType.CANCELLED, {"end_time": NOW}, None),
    ],
)
def test_a_duration_is_that_of_the_work(
    state: StateType, times: dict[str, Any], seconds: float | None
) -> None:
    assert job_of_run(flow_run(state, **times)).duration_seconds(LATER) == seconds


@pytest.mark.parametrize(
    ("job_filter", "fits"),
    [
        (JobFilter(), True),
        (JobFilter(process_ids=frozenset({"slope"})), True),
        (JobFilter(min_duration_seconds=10, max_duration_seconds=10), True),
        (JobFilter(min_duration_seconds=10.1), False),
        (JobFilter(max_duration_seconds=9.9), False),
    ],
)
def test_a_filter_lets_through_what_has_the_right_duration(
    job_filter: JobFilter, fits: bool
) -> None:
    job = job_of_run(flow_run(StateType.RUNNING, start_time=NOW))

    assert job_filter.fits_duration(job, LATER) is fits


@pytest.mark.parametrize(
    ("state_type", "message", "error_name"),
    [
        (
            StateType.FAILED,
            "Flow run encountered an exception: a.b.InvalidRequest: no zones",
            "InvalidRequest",
        ),
        (StateType.FAILED, "Flow run encountered an exception: KeyError: 'a'", "KeyError"),
        (StateType.FAILED, "no zones", None),
        (StateType.FAILED, None, None),
        (StateType.COMPLETED, "ValueError: not at all", None),
    ],
)
def test_a_failed_job_knows_the_name_of_its_error(
    state_type: StateType, message: str | None, error_name: str | None
) -> None:
    state = State[Any](type=state_type, message=message)

    assert job_of_run(flow_run(state)).error_name == error_name


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (Scheduled(), "Job accepted, waiting to run"),
        (Late(), "Job accepted; no worker has picked it up yet"),
        (
            State(type=StateType.SCHEDULED, name="AwaitingConcurrencySlot"),
            "Job accepted, waiting for other jobs to end",
        ),
        (State(type=StateType.RUNNING, message="secret"), "Job running"),
        (State(type=StateType.PAUSED, name="Suspended"), "Job paused"),
        (State(type=StateType.COMPLETED, message="All states completed."), "Job complete"),
        (State(type=StateType.CANCELLED), "Job dismissed"),
        (State(type=StateType.FAILED), "Job failed"),
        (
            State(
                type=StateType.FAILED,
                message="Flow run encountered an exception: ValueError: 'zones' is empty",
            ),
            "ValueError: 'zones' is empty",
        ),
    ],
)
def test_the_message_says_what_a_client_can_do_with(state: State[Any], message: str) -> None:
    assert job_of_run(flow_run(state)).message == message


@pytest.mark.parametrize(
    "message",
    [
        "wind of 50 m/s in zone 3/4",
        "media type image/png is not text/html; charset=utf-8",
        "see https://example.org:8080/a/@x, https://example.org/processes/buffer and http://www.opengis.net/def/crs/EPSG/0/4326",
        "GET /processes/x answered 404",
        "POST /processes/x/execution answered 400",
        "between 2020/08/10 and 1/2/3",
        "it's 5 m/s, isn't it",
        "a/b and 'c/d'",
        "ValueError: inputs.zones[0].geometry: self-intersection at (1.5, 2.5)",
        "12:30:00 / 13:00:00",
        "naïve café ☃",
    ],
)
def test_ordinary_words_stay(message: str) -> None:
    assert public_message(message) == message


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("no such file: /home/bob/secret/data.tif", "no such file: data.tif"),
        ("open('/srv/data/a/b.csv') failed", "open('b.csv') failed"),
        ("cannot read '/srv/my data/a b/c d.txt'", "cannot read 'c d.txt'"),
        (r"C:\Users\bob\data\x.txt is gone", "x.txt is gone"),
        ("~/data/secret/x.tif", "x.tif"),
        ("/etc/passwd", "passwd"),
        ("file:///srv/secret/x.tif", "x.tif"),
        ("file://localhost/srv/secret/x.tif", "x.tif"),
        ("https://bob:pw@example.org/a/b refused", "https://example.org/a/b refused"),
        ("amqp://user:p@ss@host/queue", "amqp://host/queue"),
        ("s3://key:secret@bucket/a/b.tif", "s3://bucket/a/b.tif"),
        ("s3://k:s/x@b/c refused", "s3://b/c refused"),
        ("s3://k:s?x@b/c", "s3://b/c"),
        ("https://bob:p/w@example.org/a?sig=x", "https://example.org/a"),
        ("amqp://user:1/2@host/queue", "amqp://host/queue"),
        ("https://example.org:8080/@v1/x?e=a@b", "https://example.org:8080/@v1/x"),
        ("https://example.org?e=a@b", "https://example.org"),
        ("login with password=hunter2, ok", "login with password=***, ok"),
        ("ValueError: {'api_key': 'abc def'}", "ValueError: {'api_key': ***}"),
        ("GET https://example.org/x?sig=abc&e=1 gave 403", "GET https://example.org/x gave 403"),
        ('boom\nTraceback (most recent call last):\n  File "/x/y.py", line 3\nno', "boom"),
        ("Task run encountered an exception. KeyError: 'a'", "KeyError: 'a'"),
        ("Traceback (most recent call last):\n  File x", "Job failed"),
        ("", "Job failed"),
    ],
)
def test_what_tells_about_the_server_goes(message: str, shown: str) -> None:
    assert public_message(message) == shown


def test_a_long_message_is_cut() -> None:
    shown = public_message("é" * 10_000)

    assert len(shown) == MESSAGE_MAX_CHARACTERS
    assert shown.endswith("é…")


@pytest.mark.parametrize(
    "message",
    ["x" * 3_000_000, "'" + "/" * 1_000_000, " " * 3_000_000, "a://" * 500_000, "'/a" * 500_000],
    ids=["base64", "slashes", "blanks", "schemes", "quotes"],
)
def test_a_message_that_quotes_a_large_input_takes_linear_time(message: str) -> None:
    # a quadratic pattern would run into the time limit of the test suite
    assert len(public_message(message)) <= MESSAGE_MAX_CHARACTERS


def test_a_running_job_shows_what_it_reports() -> None:
    reported_at = NOW + dt.timedelta(minutes=5)
    labels = progress_labels(41.9, "resampling")
    job = job_of_run(flow_run(StateType.RUNNING, labels=labels, updated=reported_at))
    assert (job.progress, job.message, job.updated) == (41, "resampling", reported_at)


def test_a_job_that_says_it_is_done_is_so_only_when_it_has_ended() -> None:
    labels = progress_labels(100, "done")
    assert job_of_run(flow_run(StateType.RUNNING, labels=labels)).progress == 99
    ended = job_of_run(flow_run(StateType.COMPLETED, labels=labels))
    assert (ended.progress, ended.message) == (100, "Job complete")


def test_a_job_that_waits_shows_nothing_of_an_earlier_attempt() -> None:
    job = job_of_run(flow_run(Scheduled(), labels=progress_labels(60, "nearly")))
    assert (job.progress, job.message) == (0, "Job accepted, waiting to run")


@pytest.mark.parametrize("label", ["60", True, -5, 1e9])
def test_a_label_that_somebody_else_wrote_gives_a_percentage(label: Any) -> None:
    job = job_of_run(flow_run(labels={"pygeoapi.progress": label}))
    assert 0 <= job.progress <= 99


def test_a_report_without_a_message_keeps_the_last_one() -> None:
    assert "pygeoapi.message" not in progress_labels(10)


def test_long_progress_messages_are_cut() -> None:
    job = job_of_run(flow_run(labels=progress_labels(1, "x" * 10_000)))
    assert len(job.message) == 500


@pytest.mark.parametrize(
    ("ended", "known", "progress"), [(0, 0, 0), (0, 3, 0), (1, 3, 33), (3, 3, 99)]
)
def test_task_runs_stand_in_for_reports(ended: int, known: int, progress: int) -> None:
    job = job_of_run(flow_run(StateType.RUNNING))
    assert job.with_tasks(ended=ended, known=known).progress == progress


def test_task_runs_do_not_overrule_a_report_or_an_end() -> None:
    reporting = job_of_run(flow_run(labels=progress_labels(5)))
    successful = job_of_run(flow_run(StateType.COMPLETED))
    assert reporting.with_tasks(ended=3, known=4).progress == 5
    assert successful.with_tasks(ended=3, known=4).progress == 100


def test_a_job_of_a_schedule_is_created_when_it_is_due() -> None:
    due = NOW + dt.timedelta(hours=3)
    run = flow_run(
        State(type=StateType.SCHEDULED, timestamp=NOW),
        name="eager-heron",
        idempotency_key=f"scheduled {uuid.uuid4()}",
        auto_scheduled=True,
        expected_start_time=due,
    )
    job = job_of_run(run)
    assert (job.job_id, job.process_id) == (str(run.id), "buffer")
    assert (job.created, job.updated) == (due, due)


def test_a_job_that_a_concurrency_limit_dismissed_says_so() -> None:
    message = "Deployment concurrency limit reached."
    job = job_of_run(flow_run(State(type=StateType.CANCELLED, message=message)))
    assert job.message == "Job dismissed, for too many others of the process were running"
