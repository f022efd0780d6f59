"""What a worker does not ask for, because Prefect would have announced a change.

Where nothing keeps runs back, they are claimed without Prefect's list of what may start, and
for deployments that are known. Whatever an operator changes must be obeyed all the same.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate
from prefect.client.schemas.objects import State
from prefect.states import Scheduled

from tests.integration.worker.conftest import Job, Site, wait_for

LISTED = "Prefect has listed"


@pytest.fixture(scope="module")
def site(
    prefect_client: SyncPrefectClient,
    prefect_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    with Site(prefect_client, prefect_server, tmp_path_factory.mktemp("announced")) as site:
        site.start_worker(processes=2)
        yield site


def run_unlisted(site: Site, deployment: UUID) -> Job:
    """Run jobs, one after the other, until the worker runs one without asking for a list."""

    def run() -> Job | None:
        lists = site.read_worker_logs().count(LISTED)
        job = site.submit(deployment)
        assert job.wait_until_ended().is_completed()
        return job if site.read_worker_logs().count(LISTED) == lists else None

    return wait_for(run, "a job that is claimed without a list", 120)


def test_a_paused_pool_is_paused_at_once(site: Site) -> None:
    deployment = site.deploy("work")
    run_unlisted(site, deployment)

    site.client.update_work_pool(site.pool, WorkPoolUpdate(is_paused=True))
    job = site.submit(deployment)
    wait_for(lambda: job.state.name == "Late", "Prefect to find the run late")
    assert job.lines("began") == []
    site.client.update_work_pool(site.pool, WorkPoolUpdate(is_paused=False))

    assert job.wait_until_ended().is_completed()


def test_a_paused_queue_is_paused_at_once(site: Site) -> None:
    deployment = site.deploy("work")
    run_unlisted(site, deployment)

    queue = site.client.read_work_queue_by_name("default", site.pool)
    site.client.update_work_queue(queue.id, is_paused=True)
    job = site.submit(deployment)
    wait_for(lambda: job.state.name == "Late", "Prefect to find the run late")
    assert job.lines("began") == []
    site.client.update_work_queue(queue.id, is_paused=False)

    assert job.wait_until_ended().is_completed()


def test_a_limit_counts_at_once(site: Site) -> None:
    deployment = site.deploy("work")
    run_unlisted(site, deployment)

    queue = site.client.read_work_queue_by_name("default", site.pool)
    site.client.update_work_queue(queue.id, concurrency_limit=1)
    first, second = (site.submit(deployment, seconds=1) for _ in range(2))
    ended = first.wait_until_ended().timestamp
    began = float(second.wait_until_it_said("began")[0].split()[0])
    path = {"id": str(queue.id)}
    # the client's own method leaves out what is None
    body = {"concurrency_limit": None}
    site.client.request("PATCH", "/work_queues/{id}", path_params=path, json=body)

    assert began >= ended.timestamp()


def test_a_changed_deployment_is_used_at_once(site: Site) -> None:
    deployment = site.deploy("look_around", job_variables={"env": {"COLOR": "blue"}})
    first = run_unlisted(site, deployment)
    assert first.lines("color") == ["blue"]

    for color in ("green", "red"):
        changed = DeploymentUpdate(job_variables={"env": {"COLOR": color}})
        site.client.update_deployment(deployment, changed)
        job = site.submit(deployment)
        assert job.wait_until_ended().is_completed()
        assert job.lines("color") == [color]


def test_a_run_that_is_announced_early_starts_in_time(site: Site) -> None:
    deployment = site.deploy("work")
    run_unlisted(site, deployment)

    start = datetime.now(UTC) + timedelta(seconds=3)
    scheduled: State[Any] = Scheduled(scheduled_time=start)
    job = site.submit(deployment, state=scheduled)

    began = float(job.wait_until_it_said("began")[0].split()[0])
    # far less than a minute, whatever else the machine has to do
    assert start.timestamp() <= began < start.timestamp() + 20


def test_runs_of_a_process_that_retries_are_left_to_it(site: Site) -> None:
    deployment = site.deploy("work")
    run_unlisted(site, deployment)

    retrying = site.submit("fail_once_and_wait")
    other = site.submit(deployment)

    assert other.wait_until_ended().is_completed()
    assert retrying.wait_until_ended().is_completed()
    assert len(retrying.lines("began")) == 2
    assert len({line.split()[-1] for line in retrying.lines("began")}) == 1
