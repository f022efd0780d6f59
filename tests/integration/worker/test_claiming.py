"""What the Prefect server makes of a worker that wants a run, and the worker of its answer.

Prefect lets a run that has ended become pending again. A worker acts upon lists that are a
little old, so that this happens, and tells by the answer.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import (
    ConcurrencyLimitStrategy,
    ConcurrencyOptions,
    FlowRun,
    State,
    StateType,
)
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Crashed, Failed, Pending, Running, Scheduled

from pygeoapi_prefect.worker.api import HORIZON_SECONDS, RunsApi, Waiting
from pygeoapi_prefect.worker.owner import Owner
from tests.integration.worker.conftest import Job, Site

US = Owner(worker="us", machine="here", pid=1, started=1)
RESULT = {"storage_key": "there", "serializer": {"type": "json"}, "storage_block_id": None}


def ask[T](site: Site, question: Callable[[RunsApi], Awaitable[T]]) -> T:
    """Let the worker's part that speaks to Prefect do something."""

    async def run() -> T:
        async with get_client() as client:
            api = RunsApi(
                client,
                work_pool=site.pool,
                work_queues=(),
                outage_seconds=0,
                logger=logging.getLogger(__name__),
            )
            return await question(api)

    with temporary_settings({PREFECT_API_URL: site.api_url}):
        return asyncio.run(run())


def read_listed(site: Site, job: Job) -> FlowRun:
    runs = ask(site, lambda api: api.read_due_runs(200))
    return next(run for run in runs if run.id == job.id)


def claim(site: Site, listed: FlowRun) -> State[Any] | None:
    return ask(site, lambda api: api.claim(listed, US))


def set_state(site: Site, job: Job, state: State[Any], *, force: bool = False) -> None:
    body = {
        "state": state.model_dump(mode="json", include={"type", "name", "message", "data"}),
        "force": force,
    }
    path = {"id": str(job.id)}
    site.client.request("POST", "/flow_runs/{id}/set_state", path_params=path, json=body)


def run_elsewhere(site: Site, job: Job, *ends: State[Any]) -> FlowRun:
    """Let another worker run the job to its end; returns the flow run."""
    for state in (Pending(), Running(), *ends):
        set_state(site, job, state)
    return job.read()


def facts(run: FlowRun) -> dict[str, Any]:
    """What clients see of a flow run, and what decides whether it runs again."""
    assert run.state is not None
    return run.model_dump(
        include={"start_time", "run_count", "next_scheduled_start_time", "total_run_time"}
    ) | run.state.model_dump(include={"type", "name", "message", "data"})


@pytest.mark.parametrize(
    "end",
    [
        {"type": StateType.COMPLETED, "message": "All is well."},
        {"type": StateType.COMPLETED, "data": RESULT},
        {"type": StateType.COMPLETED, "name": "Skipped"},
        {"type": StateType.FAILED, "message": "It went wrong.", "data": RESULT},
        {"type": StateType.FAILED, "name": "TimedOut"},
        {"type": StateType.CRASHED, "message": "It died."},
        {"type": StateType.CANCELLED, "message": "Enough."},
    ],
    ids=lambda end: "-".join(map(str, end.values())),
)
def test_a_run_that_ended_since_it_was_listed_keeps_its_end(
    site: Site, end: dict[str, Any]
) -> None:
    job = site.submit("work")
    listed = read_listed(site, job)
    before = run_elsewhere(site, job, State(**end))

    claimed = claim(site, listed)

    assert claimed is None
    after = job.read()
    assert facts(after) == facts(before)
    assert after.end_time is not None


@pytest.mark.parametrize(
    "name", ["Scheduled", "Late", "AwaitingRetry", "AwaitingConcurrencySlot", "Resuming"]
)
def test_a_run_that_waits_is_claimed(site: Site, name: str) -> None:
    due = datetime.now(UTC) - timedelta(minutes=1)
    job = site.submit("work", state=Scheduled(name=name, scheduled_time=due))

    claimed = claim(site, read_listed(site, job))

    assert claimed is not None
    assert job.state.id == claimed.id
    assert str(US) in (job.state.message or "")


def test_a_run_that_was_found_late_since_it_was_listed_is_claimed(site: Site) -> None:
    job = site.submit("work")
    listed = read_listed(site, job)
    late: State[Any] = Scheduled(name="Late", scheduled_time=listed.next_scheduled_start_time)
    site.client.set_flow_run_state(job.id, late, force=True)

    assert claim(site, listed) is not None


def test_a_run_whose_process_is_to_retry_it_is_left_to_that(site: Site) -> None:
    job = site.submit("work")
    policy = job.read().empirical_policy
    policy.retries, policy.retry_delay = 1, 60
    site.client.update_flow_run(job.id, empirical_policy=policy)
    listed = read_listed(site, job)
    before = run_elsewhere(site, job, Failed())
    assert before.state_name == "AwaitingRetry"

    claimed = claim(site, listed)

    assert claimed is None
    after = job.read()
    assert facts(after) == facts(before)
    assert after.empirical_policy.retry_type == "in_process"


@pytest.mark.parametrize("strategy", list(ConcurrencyLimitStrategy))
def test_a_run_that_ended_keeps_its_end_where_the_limit_of_its_deployment_is_reached(
    site: Site, strategy: ConcurrencyLimitStrategy
) -> None:
    options = ConcurrencyOptions(collision_strategy=strategy)
    deployment = site.deploy("work", concurrency_limit=1, concurrency_options=options)
    job = site.submit(deployment)
    listed = read_listed(site, job)
    before = run_elsewhere(site, job, Crashed())
    other = site.submit(deployment)
    assert claim(site, read_listed(site, other)) is not None

    assert claim(site, listed) is None

    assert facts(job.read()) == facts(before)
    # and it took no place of the limit
    run_elsewhere(site, other, Crashed())
    another = site.submit(deployment)
    assert claim(site, read_listed(site, another)) is not None


def test_a_run_is_not_run_again_when_it_had_ended_before_its_worker_died(site: Site) -> None:
    job = site.submit("work")
    before = run_elsewhere(site, job, Crashed())
    # claimed from an old list, by a worker that died before it saw the answer
    set_state(site, job, Pending(message=f"Claimed by {US}"))
    assert job.state.is_pending()

    ask(site, lambda api: api.run_again(job.id, "Its worker is gone."))

    assert facts(job.read()) == facts(before)


def test_a_claimed_run_is_run_again_when_its_worker_died(site: Site) -> None:
    job = site.submit("work")
    assert claim(site, read_listed(site, job)) is not None

    ask(site, lambda api: api.run_again(job.id, "Its worker is gone."))

    assert job.state.name == AwaitingRetry().name
    assert read_listed(site, job)


def test_a_run_that_got_no_process_waits_again_where_it_was(site: Site) -> None:
    job = site.submit("work")
    listed = read_listed(site, job)
    first, *_ = read_waiting(site).due
    claimed = listed.model_copy(update={"state": claim(site, listed)})

    ask(site, lambda api: api.wait_again(claimed, "No process was free for it."))

    after = job.read()
    assert after.state_type is StateType.SCHEDULED
    assert after.next_scheduled_start_time == listed.next_scheduled_start_time
    assert after.run_count == 0
    assert [run.id for run in read_waiting(site).due] == [first.id]
    assert claim(site, read_listed(site, job)) is not None


def test_a_run_that_is_cancelled_while_it_waits_for_a_process_does_not_wait_again(
    site: Site,
) -> None:
    job = site.submit("work")
    listed = read_listed(site, job)
    claimed = listed.model_copy(update={"state": claim(site, listed)})
    job.dismiss()

    ask(site, lambda api: api.wait_again(claimed, "No process was free for it."))

    assert job.state.is_cancelling()


def read_waiting(site: Site, limit: int = 10) -> Waiting:
    return ask(site, lambda api: api.read_waiting_runs(limit))


def test_one_call_tells_what_is_due_and_when_the_next_run_is(site: Site) -> None:
    nothing = read_waiting(site)
    assert (nothing.due, nothing.is_all, nothing.next_start_seconds) == ([], True, HORIZON_SECONDS)
    deployment = site.deploy("work")
    now = datetime.now(UTC)
    late, early = (
        site.submit(deployment, state=Scheduled(scheduled_time=now - timedelta(minutes=minutes)))
        for minutes in (1, 2)
    )
    for seconds in (30, 40, 3600):
        start = now + timedelta(seconds=seconds)
        site.submit(deployment, state=Scheduled(scheduled_time=start))

    waiting = read_waiting(site)

    assert [run.id for run in waiting.due] == [early.id, late.id]
    assert waiting.is_all
    assert 0 < waiting.next_start_seconds <= 30
    assert read_waiting(site, limit=3).is_all
    assert not read_waiting(site, limit=2).is_all


def test_runs_that_somebody_has_claimed_are_found_in_one_call(site: Site) -> None:
    deployment = site.deploy("work")
    waiting, pending, running, cancelling, retried, ended = (
        site.submit(deployment) for _ in range(6)
    )
    policy = retried.read().empirical_policy
    policy.retries, policy.retry_delay = 1, 60
    site.client.update_flow_run(retried.id, empirical_policy=policy)
    set_state(site, pending, Pending())
    for job in (running, cancelling):
        set_state(site, job, Pending())
        set_state(site, job, Running())
    cancelling.dismiss()
    run_elsewhere(site, retried, Failed())
    run_elsewhere(site, ended, Crashed())

    found = ask(site, lambda api: api.read_unfinished_runs())

    assert {run.id for run in found} == {job.id for job in (pending, running, cancelling, retried)}
    assert waiting.id not in {run.id for run in found}
