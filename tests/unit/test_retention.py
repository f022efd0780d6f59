"""Removal of old jobs: which go, which stay, and what a failure means."""

import datetime as dt
import threading
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Crashed, Failed, Running

from pygeoapi_prefect.config import parse_manager
from pygeoapi_prefect.errors import (
    BackendUnavailable,
    ConfigurationError,
    JobNotFound,
    StorageError,
)
from pygeoapi_prefect.gateway import PAGE_MAX_RUNS
from pygeoapi_prefect.jobs import CALLBACK_TAG, Job, run_labels
from pygeoapi_prefect.retention import (
    Removal,
    RetentionRule,
    expired_jobs,
    prune,
)
from pygeoapi_prefect.storage import FsspecStorage
from pygeoapi_prefect.testing import InMemoryGateway

from .conftest import MakeManager

RESULTS = "memory://retention"
NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
A_DAY = RetentionRule(max_age=dt.timedelta(days=1))


def days_ago(days: float) -> dt.datetime:
    return NOW - dt.timedelta(days=days)


def add(gateway: InMemoryGateway, job_id: str, state: State[Any], days: float) -> Job:
    """Add a job that got a state some days ago."""
    labels = run_labels(process_id="echo", result_media_type="text/plain", result_storage=RESULTS)
    gateway.submit(job_id=job_id, process_id="echo", deployment="", parameters={}, labels=labels)
    return gateway.set_state(job_id, state.model_copy(update={"timestamp": days_ago(days)}))


def run(
    gateway: InMemoryGateway, rule: RetentionRule, refused: tuple[str, ...] = ()
) -> list[Removal]:
    def remove(job: Job) -> None:
        if job.job_id in refused:
            raise StorageError("the storage is read-only")
        gateway.delete(job)

    return [*prune(gateway, rule, NOW, remove)]


def ids(removals: list[Removal]) -> list[str]:
    return [removal.job.job_id for removal in removals]


@pytest.mark.parametrize("state", [Completed(), Failed(), Crashed(), Cancelled()])
def test_jobs_go_some_time_after_their_end(gateway: InMemoryGateway, state: State[Any]) -> None:
    add(gateway, "old", state, 1.1)
    add(gateway, "new", state, 0.9)
    assert ids(run(gateway, A_DAY)) == ["old"]
    assert list(gateway.runs) == ["new"]


def test_jobs_that_go_on_stay_however_old_they_are(gateway: InMemoryGateway) -> None:
    add(gateway, "running", Running(), 400)
    assert run(gateway, RetentionRule(dt.timedelta(days=1), max_jobs=0)) == []


def test_so_many_ended_jobs_are_kept_the_newest(gateway: InMemoryGateway) -> None:
    for number in range(5):
        add(gateway, f"{number}", Completed(), 10 - number)
    add(gateway, "running", Running(), 0)
    assert ids(run(gateway, RetentionRule(max_jobs=2))) == ["2", "1", "0"]
    assert list(gateway.runs) == ["3", "4", "running"]


def test_both_criteria_must_be_met_to_stay_and_no_job_is_listed_twice(
    gateway: InMemoryGateway,
) -> None:
    for number in range(4):
        add(gateway, f"{number}", Completed(), 3 - number)
    rule = RetentionRule(dt.timedelta(days=1.5), max_jobs=1)
    assert [job.job_id for job in expired_jobs(gateway, rule, NOW)] == ["1", "0", "2"]
    assert ids(run(gateway, rule)) == ["1", "0", "2"]


def test_a_look_removes_nothing_and_finds_what_would_go(gateway: InMemoryGateway) -> None:
    for number in range(2 * PAGE_MAX_RUNS + 1):
        add(gateway, f"{number}", Completed(), 2)
    found = [job.job_id for job in expired_jobs(gateway, A_DAY, NOW)]
    assert sorted(found) == sorted(gateway.runs)
    assert ids(run(gateway, A_DAY)) == found
    assert gateway.runs == {}


def test_a_job_that_cannot_be_removed_keeps_no_other_from_it(gateway: InMemoryGateway) -> None:
    for number in range(PAGE_MAX_RUNS + 3):
        add(gateway, f"{number}", Completed(), 2)
    refused = (f"{PAGE_MAX_RUNS}", "5")
    removals = run(gateway, RetentionRule(dt.timedelta(days=1), max_jobs=0), refused)
    problems = {removal.job.job_id: removal.problem for removal in removals if removal.problem}
    assert problems == dict.fromkeys(refused, "the storage is read-only")
    assert sorted(gateway.runs) == sorted(refused)
    assert len(removals) == PAGE_MAX_RUNS + 3


def test_what_was_broken_off_is_taken_up_by_the_next(gateway: InMemoryGateway) -> None:
    for number in range(3):
        add(gateway, f"{number}", Completed(), 2)

    def remove_one_and_lose_the_server(job: Job) -> None:
        if len(gateway.runs) < 3:
            raise BackendUnavailable("the Prefect server cannot be reached")
        gateway.delete(job)

    with pytest.raises(BackendUnavailable):
        list(prune(gateway, A_DAY, NOW, remove_one_and_lose_the_server))
    assert len(gateway.runs) == 2
    assert len(run(gateway, A_DAY)) == 2


def test_two_at_once_do_not_disturb_each_other(gateway: InMemoryGateway) -> None:
    for number in range(10):
        add(gateway, f"{number}", Completed(), 2)

    def remove_after_the_other(job: Job) -> None:
        run(gateway, A_DAY)
        gateway.delete(job)

    removals = [*prune(gateway, A_DAY, NOW, remove_after_the_other)]
    assert gateway.runs == {}
    assert not any(removal.problem for removal in removals)


def test_a_job_whose_results_are_still_to_be_sent_stays(gateway: InMemoryGateway) -> None:
    job = add(gateway, "a", Completed(), 2)
    run_of_job = gateway.runs["a"]
    gateway.runs["a"] = run_of_job.model_copy(update={"tags": [*run_of_job.tags, CALLBACK_TAG]})
    assert run(gateway, RetentionRule(dt.timedelta(days=1), max_jobs=0)) == []
    gateway.settle_callbacks(job)
    assert ids(run(gateway, A_DAY)) == ["a"]


def test_files_go_before_the_run(
    make_manager: MakeManager, gateway: InMemoryGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = make_manager(result_storage=RESULTS)
    storage = FsspecStorage(RESULTS)
    storage.write("a/outputs/x.txt", b"x")
    storage.write("b/outputs/x.txt", b"x")
    for job_id in ("a", "b"):
        add(gateway, job_id, Completed(), 0)
    with monkeypatch.context() as patch:
        patch.setattr(InMemoryGateway, "delete", _fail)
        assert all(one.problem for one in manager.prune(RetentionRule(max_jobs=1)))
    with pytest.raises(Exception, match="no such file"):
        storage.read("a/outputs/x.txt")
    assert storage.read("b/outputs/x.txt") == b"x"
    assert [one.problem for one in manager.prune(RetentionRule(max_jobs=1))] == [None]
    with pytest.raises(JobNotFound):
        gateway.find("a")


def _fail(*_: object) -> None:
    raise StorageError("refused")


def test_by_default_all_jobs_are_kept() -> None:
    assert RetentionRule.of(parse_manager({"name": "x"}).retention).keeps_all


@pytest.mark.parametrize(
    "retention", [{"max_age_days": 0}, {"max_jobs": -1}, {"max_age": 3}, {"max_age_days": "long"}]
)
def test_a_rule_that_is_none_is_refused(retention: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="retention"):
        parse_manager({"name": "x", "retention": retention})


def test_a_server_removes_by_itself_what_its_configuration_does_not_keep(
    make_manager: MakeManager, gateway: InMemoryGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygeoapi_prefect.retention.FIRST_SECONDS", 0.0)
    for number in range(3):
        add(gateway, f"{number}", Completed(), 2)
    is_done = threading.Event()
    keeping_all = make_manager(result_storage=RESULTS)
    keeping_one = make_manager(result_storage=RESULTS, retention={"max_jobs": 1})
    deleted: list[str] = []
    delete = gateway.delete

    def note(job: Job) -> None:
        delete(job)
        deleted.append(job.job_id)
        if len(deleted) == 2:
            is_done.set()

    monkeypatch.setattr(gateway, "delete", note)
    keeping_all.start_background_work()
    assert "retention" not in {thread.name for thread in threading.enumerate()}
    keeping_one.start_background_work()
    assert is_done.wait(120)
    assert list(gateway.runs) == ["2"]
