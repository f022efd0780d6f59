"""Which jobs start, when, how many at once, and how long their processes last."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import StateType, WorkQueue
from prefect.states import Scheduled

from tests.integration.worker.conftest import Job, Site, wait_for

LIMIT = 2
JOBS_PER_PROCESS = 4
MEMORY_LIMIT_MIB = 500


@pytest.fixture(scope="module")
def site(
    prefect_client: SyncPrefectClient,
    prefect_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A work pool with one worker that could run more jobs at once than it may."""
    with Site(prefect_client, prefect_server, tmp_path_factory.mktemp("limits")) as site:
        site.start_worker(
            "--limit",
            str(LIMIT),
            processes=LIMIT + 1,
            jobs_per_process=JOBS_PER_PROCESS,
            memory_limit_mib=MEMORY_LIMIT_MIB,
        )
        yield site


@pytest.fixture
def paused_pool(site: Site) -> Iterator[None]:
    """For as long as the test likes."""
    site.client.update_work_pool(site.pool, WorkPoolUpdate(is_paused=True))
    yield
    resume(site)


def resume(site: Site) -> None:
    site.client.update_work_pool(site.pool, WorkPoolUpdate(is_paused=False))


def limit_pool(site: Site, limit: int | None) -> None:
    # the client's own method leaves out what is None
    path = {"name": site.pool}
    body = {"concurrency_limit": limit}
    site.client.request("PATCH", "/work_pools/{name}", path_params=path, json=body)


def make_queue(site: Site, **options: Any) -> WorkQueue:
    name = f"queue-{uuid4().hex[:8]}"
    return site.client.create_work_queue(name, work_pool_name=site.pool, **options)


def times(job: Job) -> tuple[float, float]:
    """When a job began and ended."""
    assert job.wait_until_ended().is_completed()
    (began,), (ended,) = job.lines("began"), job.lines("ended")
    return float(began.split()[0]), float(ended.split()[0])


def most_at_once(jobs: list[Job]) -> int:
    intervals = [times(job) for job in jobs]
    return max(sum(begin <= at < end for begin, end in intervals) for at, _ in intervals)


def test_a_run_does_not_start_before_its_time(site: Site) -> None:
    start = datetime.now(UTC) + timedelta(seconds=3)

    job = site.submit("work", state=Scheduled(scheduled_time=start))

    assert times(job)[0] >= start.timestamp()


def test_a_worker_runs_no_more_jobs_at_once_than_its_limit(site: Site) -> None:
    deployment = site.deploy("work")

    jobs = [site.submit(deployment, seconds=0.5) for _ in range(2 * LIMIT)]

    assert most_at_once(jobs) <= LIMIT


def test_a_pool_limit_is_never_exceeded(site: Site) -> None:
    deployment = site.deploy("work")
    limit_pool(site, 1)
    try:
        jobs = [site.submit(deployment, seconds=0.3) for _ in range(3)]
        assert most_at_once(jobs) == 1
    finally:
        limit_pool(site, None)


def test_a_queue_limit_is_never_exceeded(site: Site) -> None:
    queue = make_queue(site, concurrency_limit=1)
    deployment = site.deploy("work", work_queue_name=queue.name)

    jobs = [site.submit(deployment, seconds=0.3) for _ in range(3)]

    assert most_at_once(jobs) == 1


def test_a_deployment_limit_is_never_exceeded(site: Site) -> None:
    deployment = site.deploy("work", concurrency_limit=1)

    jobs = [site.submit(deployment, seconds=0.3) for _ in range(3)]

    assert most_at_once(jobs) == 1


def test_a_run_waits_in_its_queue_while_long_jobs_keep_the_worker_busy(
    prefect_client: SyncPrefectClient, prefect_server: str, tmp_path: Path
) -> None:
    with Site(prefect_client, prefect_server, tmp_path) as site:
        site.start_worker(name="first", processes=1)
        short = site.deploy("work")
        limited = site.deploy("work", concurrency_limit=5)
        # its job has a place for a while before it is known to be long
        cold = site.deploy("work", job_variables={"env": {"PYTHONHASHSEED": "7"}})
        # both deployments are known, and the latest job was short, whatever else goes on here
        assert site.submit(limited).wait_until_ended().is_completed()
        wait_for(
            lambda: seconds_from_claim_to_end(site, site.submit(short)) < 1.0, "a short job", 120
        )
        long = site.submit(cold, seconds=600)
        wait_for(lambda: "starts cold" in site.read_worker_logs(), "the long job to have a place")
        ahead = site.submit(short)
        of_limited = site.submit(limited)
        assert long.pid
        wait_for(lambda: count_returns(site, ahead), "the wait to end")

        site.start_worker(name="second")

        for job in (ahead, of_limited):
            assert job.wait_until_ended().is_completed()
            assert len(job.lines("began")) == 1
        assert long.state.is_running()
        assert count_claims(site, ahead) == count_returns(site, ahead) + 1
        assert count_claims(site, of_limited) == 1


def state_times(site: Site, job: Job) -> dict[StateType, datetime]:
    assert job.wait_until_ended().is_completed()
    return {state.type: state.timestamp for state in site.client.read_flow_run_states(job.id)}


def seconds_from_claim_to_end(site: Site, job: Job) -> float:
    times = state_times(site, job)
    return (times[StateType.COMPLETED] - times[StateType.PENDING]).total_seconds()


def count_returns(site: Site, job: Job) -> int:
    # it is found late at once, by which Prefect replaces the message
    states = site.client.read_flow_run_states(job.id)
    return sum(state.message == "No process was free for it." for state in states)


def count_claims(site: Site, job: Job) -> int:
    states = site.client.read_flow_run_states(job.id)
    return sum(state.is_pending() for state in states)


@pytest.mark.usefixtures("paused_pool")
def test_a_paused_pool_starts_nothing_until_it_is_resumed(site: Site) -> None:
    job = site.submit("work")
    wait_for(lambda: job.state.name == "Late", "Prefect to find the run late")
    assert job.lines("began") == []

    resume(site)

    assert job.wait_until_ended().is_completed()


def test_a_paused_queue_starts_nothing_until_it_is_resumed(site: Site) -> None:
    queue = make_queue(site, is_paused=True)
    paused = site.submit(site.deploy("work", work_queue_name=queue.name))

    assert site.submit("work").wait_until_ended().is_completed()
    assert paused.lines("began") == []
    site.client.update_work_queue(queue.id, is_paused=False)

    assert paused.wait_until_ended().is_completed()


def test_runs_of_a_paused_deployment_that_somebody_asks_for_start(site: Site) -> None:
    # what is paused is its schedule
    job = site.submit(site.deploy("work", paused=True))

    assert job.wait_until_ended().is_completed()


@pytest.mark.usefixtures("paused_pool")
def test_jobs_of_the_queue_with_the_highest_priority_start_first(site: Site) -> None:
    # 1 is the highest
    low, high = (make_queue(site, priority=priority) for priority in (60, 50))
    waiting = {
        queue.name: [
            site.submit(deployment, seconds=0.3)
            for deployment in [site.deploy("work", work_queue_name=queue.name)]
            for _ in range(LIMIT)
        ]
        for queue in (low, high)
    }

    resume(site)

    # not when they began: their processes may have to start
    claimed = {
        name: [state_times(site, job)[StateType.PENDING] for job in jobs]
        for name, jobs in waiting.items()
    }
    assert max(claimed[high.name]) < min(claimed[low.name])


def test_a_process_is_replaced_after_its_jobs(site: Site) -> None:
    deployment = site.deploy("talk")

    jobs = [site.submit(deployment) for _ in range(3 * JOBS_PER_PROCESS)]

    assert all(job.wait_until_ended().is_completed() for job in jobs)
    pids = [job.lines("pid")[0] for job in jobs]
    assert max(pids.count(pid) for pid in pids) <= JOBS_PER_PROCESS
    assert f"it has run {JOBS_PER_PROCESS} jobs" in site.read_worker_logs()


def test_a_process_that_holds_too_much_memory_is_replaced(site: Site) -> None:
    deployment = site.deploy("hold_memory")
    small = site.submit(deployment, mib=1)
    assert small.wait_until_ended().is_completed()

    large = [site.submit(deployment, mib=MEMORY_LIMIT_MIB) for _ in range(2)]

    assert all(job.wait_until_ended().is_completed() for job in large)
    assert len({job.lines("pid")[0] for job in large}) == 2
    reason = f"more than {MEMORY_LIMIT_MIB} MiB"
    wait_for(lambda: reason in site.read_worker_logs(), "the reason in the log")
