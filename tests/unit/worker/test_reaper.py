"""When a worker that nobody hears of counts as gone, and what becomes of its runs."""

import asyncio
import logging
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, Worker, WorkerStatus
from prefect.settings import PREFECT_WORKER_HEARTBEAT_SECONDS, temporary_settings
from prefect.states import Cancelling, Pending, Running

from pygeoapi_prefect.os_processes import started_at, this_machine
from pygeoapi_prefect.worker.api import RunsApi
from pygeoapi_prefect.worker.owner import Owner
from pygeoapi_prefect.worker.reaper import (
    Absences,
    Reaper,
    Verdict,
    heartbeat_seconds,
    judge_orphan,
    online_workers,
)

HEARTBEAT_SECONDS = 30
ABSENCE_SECONDS = 45


def worker(name: str, interval: int | None, status: WorkerStatus = WorkerStatus.ONLINE) -> Worker:
    return Worker(
        name=name,
        work_pool_id=uuid4(),
        heartbeat_interval_seconds=interval,
        status=status,
    )


def lasts(absences: Absences, worker: str, now: float) -> bool:
    return absences.lasts(worker, HEARTBEAT_SECONDS, now)


@pytest.fixture
def absences() -> Absences:
    """Of a worker `far` that was found offline at 0."""
    absences = Absences()
    lasts(absences, "far", 0)
    return absences


def test_a_worker_that_is_just_found_offline_may_come_back(absences: Absences) -> None:
    assert not lasts(absences, "other", ABSENCE_SECONDS)
    assert not lasts(absences, "far", ABSENCE_SECONDS - 1)


def test_a_worker_that_stays_offline_does_not(absences: Absences) -> None:
    absences.end(online={"near"})

    assert lasts(absences, "far", ABSENCE_SECONDS)


def test_a_worker_that_was_online_in_between_may_come_back_again(absences: Absences) -> None:
    absences.end(online={"near", "far"})

    assert not lasts(absences, "far", ABSENCE_SECONDS)


def test_an_outage_of_the_api_proves_nothing(absences: Absences) -> None:
    absences.forget()

    assert not lasts(absences, "far", ABSENCE_SECONDS)


@pytest.mark.parametrize(("interval", "seconds"), [(4, 6), (60, 90)])
def test_each_worker_gets_the_time_to_report_itself(
    absences: Absences, interval: int, seconds: float
) -> None:
    assert not absences.lasts("far", interval, seconds - 1)
    assert absences.lasts("far", interval, seconds)


def test_a_worker_reports_itself_as_often_as_it_says_or_else_as_this_one_does() -> None:
    with temporary_settings({PREFECT_WORKER_HEARTBEAT_SECONDS: 7}):
        assert heartbeat_seconds(worker("far", 60)) == 60
        assert heartbeat_seconds(worker("far", None)) == 7
        assert heartbeat_seconds(None) == 7


def test_workers_are_online_that_prefect_says_are() -> None:
    workers = [worker("near", 30), worker("far", 30, WorkerStatus.OFFLINE)]

    assert online_workers({one.name: one for one in workers}) == {"near"}


def owner(name: str, pid: int, **more: Any) -> Owner:
    return Owner(name, this_machine(), pid, started=int(started_at(pid) or 1), **more)


ME = owner("me", os.getpid())
NEIGHBOUR = owner("neighbour", os.getppid())
DEAD = Owner("dead", this_machine(), os.getpid(), started=1)


def run(state: State[Any], infrastructure: Owner | None = None) -> FlowRun:
    named = str(infrastructure) if infrastructure else None
    return FlowRun(
        id=uuid4(),
        flow_id=uuid4(),
        state=state,
        state_type=state.type,
        infrastructure_pid=named,
        run_count=1,
    )


class Pool:
    """The runs of a work pool, and what is asked and done about them."""

    def __init__(self, *runs: FlowRun) -> None:
        self.runs = {run.id: run for run in runs}
        self.last_claims: dict[UUID, Owner] = {}
        self.calls: list[str] = []

    async def read_unfinished_runs(self) -> list[FlowRun]:
        return list(self.runs.values())

    async def read_workers(self) -> dict[str, Worker]:
        return {name: worker(name, HEARTBEAT_SECONDS) for name in ("me", "neighbour")}

    async def read_run(self, flow_run_id: UUID) -> FlowRun | None:
        self.calls.append("read")
        return self.runs.get(flow_run_id)

    async def read_last_claim(self, flow_run_id: UUID) -> Owner | None:
        self.calls.append("read last claim")
        return self.last_claims.get(flow_run_id)

    async def run_again(self, *_: object, **__: object) -> None:
        self.calls.append("run again")

    async def cancel(self, *_: object) -> None:
        self.calls.append("cancel")

    async def crash(self, *_: object, **__: object) -> None:
        self.calls.append("crash")


def reap(pool: Pool, mine: set[UUID] | None = None) -> list[UUID]:
    """Reap once; returns which of this worker's runs are to be ended."""
    ended: list[UUID] = []
    reaper = Reaper(
        api=cast("RunsApi", pool),
        me=ME,
        is_mine=(mine or set()).__contains__,
        on_cancelling=ended.append,
        logger=logging.getLogger(__name__),
    )
    asyncio.run(reaper.reap())
    return ended


@pytest.mark.parametrize(
    "healthy",
    [run(Pending(message=f"Claimed by {NEIGHBOUR}")), run(Running(), NEIGHBOUR)],
    ids=lambda healthy: healthy.state.name,
)
def test_the_runs_of_workers_that_are_there_cost_no_call(healthy: FlowRun) -> None:
    pool = Pool(healthy)

    reap(pool)

    assert pool.calls == []


def test_a_running_job_whose_worker_is_gone_ends() -> None:
    lost = run(Running(), DEAD)
    pool = Pool(lost)
    pool.last_claims[lost.id] = DEAD

    reap(pool)

    assert pool.calls[-1] == "crash"


@pytest.mark.parametrize(
    ("who", "is_gone"),
    [
        pytest.param(NEIGHBOUR, False, id="lives here"),
        pytest.param(replace(NEIGHBOUR, started=900), True, id="its process id is reused"),
        pytest.param(replace(ME, started=900), True, id="my predecessor here"),
        pytest.param(Owner("neighbour", "elsewhere", 1, 1), False, id="online elsewhere"),
        pytest.param(Owner("other", "elsewhere", 1, 1), True, id="offline elsewhere"),
        pytest.param(Owner("me", "elsewhere", 1, 1), True, id="my predecessor elsewhere"),
        pytest.param(ME, True, id="myself, who does not know of it"),
    ],
)
def test_a_worker_is_gone_when_its_process_or_its_heartbeat_is(
    who: Owner, is_gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygeoapi_prefect.worker.reaper.ABSENCE_HEARTBEATS", 0.0)
    pool = Pool(run(Pending(message=f"Claimed by {who}")))

    reap(pool)

    assert ("run again" in pool.calls) is is_gone


def test_a_run_is_judged_as_it_is_now_not_as_it_was_listed() -> None:
    listed = run(Running(), DEAD)
    pool = Pool(listed)
    now = run(Running(), NEIGHBOUR)
    pool.last_claims[listed.id] = NEIGHBOUR

    async def read_run(_: UUID) -> FlowRun:
        return now

    pool.read_run = read_run  # type: ignore[assignment]
    reap(pool)

    assert "crash" not in pool.calls


def test_a_pending_run_belongs_to_who_claimed_it_not_to_who_ran_it_before() -> None:
    pool = Pool(run(Pending(message=f"Claimed by {DEAD}"), NEIGHBOUR))

    reap(pool)

    assert pool.calls == ["read", "run again"]


def test_a_run_that_is_cancelled_belongs_to_who_claimed_it_last() -> None:
    cancelled = run(Cancelling(), NEIGHBOUR)
    pool = Pool(cancelled)
    pool.last_claims[cancelled.id] = DEAD

    reap(pool)

    assert pool.calls[-1] == "cancel"


def test_a_run_of_this_worker_that_is_cancelled_is_ended_though_no_event_said_so() -> None:
    cancelled, other = run(Cancelling(), ME), run(Running(), ME)
    pool = Pool(cancelled, other)

    ended = reap(pool, mine={cancelled.id, other.id})

    assert ended == [cancelled.id]
    assert pool.calls == []


@pytest.fixture
def busy_process() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("state", [Pending(message=f"Claimed by {ME}"), Running()])
def test_a_process_of_this_worker_lives_on_whatever_becomes_of_a_run_that_it_had(
    busy_process: "subprocess.Popen[bytes]", state: State[Any]
) -> None:
    job = (busy_process.pid, int(started_at(busy_process.pid) or 0))
    pool = Pool(run(state, owner("me", os.getpid(), job=job)))

    reap(pool)

    assert pool.calls[-1] in ("run again", "crash")
    assert busy_process.poll() is None


@pytest.mark.parametrize(
    ("state", "has_started", "run_count", "retries", "expected"),
    [
        ("PENDING", False, 0, None, Verdict.RUN_AGAIN),
        ("PENDING", False, 3, None, Verdict.RUN_AGAIN),
        ("SCHEDULED", True, 1, 1, Verdict.RUN_AGAIN),
        ("RUNNING", True, 1, None, Verdict.CRASH),
        ("RUNNING", True, 1, 0, Verdict.CRASH),
        ("RUNNING", True, 1, 1, Verdict.RUN_AGAIN),
        ("RUNNING", True, 2, 1, Verdict.CRASH),
        ("CANCELLING", True, 1, 5, Verdict.CANCEL),
    ],
)
def test_a_run_without_a_worker_runs_again_only_where_that_was_asked_for(
    state: str, has_started: bool, run_count: int, retries: int | None, expected: Verdict
) -> None:
    verdict = judge_orphan(
        state=state, has_started=has_started, run_count=run_count, retries=retries
    )

    assert verdict is expected
