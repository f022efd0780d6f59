"""What Prefect offers on flows and tasks works in processes too, here in the web process."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import TaskRunSort

from pygeoapi_prefect.errors import ExecutionError
from tests.integration.conftest import Jobs, Site, eventually

FlowRunOf = Callable[[str], FlowRun]


def attempts_in(folder: Path) -> list[float]:
    return [float(line) for line in (folder / "attempts").read_text().splitlines()]


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def task_runs_of(client: SyncPrefectClient, run: FlowRun) -> list[TaskRun]:
    run_filter = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id]))
    return client.read_task_runs(task_run_filter=run_filter, sort=TaskRunSort.ID_DESC, limit=10)


def test_a_flow_is_retried_after_its_delay(jobs: Jobs, folder: Path) -> None:
    _, _, body = jobs.run("flaky-flow", {"folder": str(folder), "failures": 2})
    assert json.loads(body) == "success 3"
    assert len(attempts_in(folder)) == 3
    assert min(gaps(attempts_in(folder))) >= 1


def test_a_flow_fails_with_its_last_error_once_its_retries_are_used_up(
    jobs: Jobs, folder: Path, flow_run_of: FlowRunOf
) -> None:
    with pytest.raises(ExecutionError, match="failure 3"):
        jobs.run("flaky-flow", {"folder": str(folder), "failures": 9})
    job = jobs.newest("flaky-flow")
    assert job.status == "failed"
    assert job.message == "RuntimeError: failure 3"
    assert len(attempts_in(folder)) == 3
    assert flow_run_of(job.job_id).run_count == 3


def test_a_task_is_retried_after_its_delays(jobs: Jobs, folder: Path) -> None:
    _, _, body = jobs.run("flaky-task", {"folder": str(folder), "failures": 2})
    assert json.loads(body) == "success 3"
    first, second = gaps(attempts_in(folder))
    assert first >= 0.4
    assert second >= 0.8


@pytest.mark.parametrize("process_id", ["slow-flow", "slow-task"])
def test_a_timeout_ends_the_work_and_fails_the_job(
    jobs: Jobs, folder: Path, process_id: str
) -> None:
    with pytest.raises(ExecutionError, match=r"failed: .*1\.0 second"):
        jobs.run(process_id, {"folder": str(folder)})
    job = jobs.newest(process_id)
    assert job.status == "failed"
    assert "timeout" in job.message
    assert_untouched(folder / "alive")


def assert_untouched(path: Path) -> None:
    """A job that works touches its file every 50 ms."""
    path.unlink(missing_ok=True)  # with little time, it may not have begun
    with pytest.raises(pytest.fail.Exception):
        eventually(lambda: path.exists() or None, deadline_seconds=0.5)


def test_a_cached_task_is_computed_anew_after_its_expiration(jobs: Jobs) -> None:
    def draw(seed: str, seconds: float) -> Any:
        return json.loads(jobs.run("cached", {"seed": seed, "seconds": seconds})[2])

    first = draw("one", 3600)
    assert draw("one", 3600) == first
    assert draw("two", 3600) != first
    brief = draw("three", 1)
    changed = eventually(lambda: None if (value := draw("three", 1)) == brief else value)
    assert changed.startswith("three: ")


def test_tasks_run_in_a_pool_of_threads(jobs: Jobs) -> None:
    # the three mapped ones wait for each other: a single thread would wait in vain
    assert json.loads(jobs.run("threaded", {})[2]) == 0 + 1 + 4


def test_a_run_that_its_flow_renames_is_still_the_job(jobs: Jobs, flow_run_of: FlowRunOf) -> None:
    job_id, _, body = jobs.run("named", {"name": "Ada"})
    assert json.loads(body) == "Hello Ada!"
    assert flow_run_of(job_id).name == f"greet Ada ({job_id})"
    assert jobs.manager.get_job(job_id)["process_id"] == "named"
    assert jobs.newest("named").job_id == job_id


def test_tags_are_those_of_the_author_and_of_the_job(
    jobs: Jobs, flow_run_of: FlowRunOf, prefect_client: SyncPrefectClient
) -> None:
    run = flow_run_of(jobs.run("tagged", {})[0])
    assert {"pygeoapi", "pygeoapi_process:tagged"} <= set(run.tags)
    task_run = eventually(lambda: next(iter(task_runs_of(prefect_client, run)), None))
    assert {"heavy", "blue"} <= set(task_run.tags)


def test_prints_and_logs_reach_prefect(
    jobs: Jobs, flow_run_of: FlowRunOf, prefect_client: SyncPrefectClient
) -> None:
    run = flow_run_of(jobs.run("printing", {"word": "grebe"})[0])
    wanted = {"printed grebe", "logged grebe"}

    def look() -> bool | None:
        run_filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
        logs = prefect_client.read_logs(run_filter, limit=50, offset=0)
        return wanted <= {log.message for log in logs} or None

    eventually(look)


def hooks_of(site: Site, run: FlowRun) -> dict[str, str]:
    prefix = f"{run.name} "
    return {
        path.name.removeprefix(prefix): path.read_text()
        for path in (site.folder / "hooks").glob(f"{prefix}*")
    }


def test_hooks_of_a_run_that_succeeds_are_called(
    web: Site, jobs: Jobs, flow_run_of: FlowRunOf
) -> None:
    job_id, _, _ = jobs.run("hooked", {"end": "success"})
    assert hooks_of(web, flow_run_of(job_id)) == {"running": "Running", "completion": "Completed"}


@pytest.mark.parametrize(
    ("end", "hook", "state"), [("failure", "failure", "Failed"), ("crash", "crashed", "Crashed")]
)
def test_hooks_of_a_run_that_ends_badly_are_called(
    web: Site, jobs: Jobs, flow_run_of: FlowRunOf, end: str, hook: str, state: str
) -> None:
    with pytest.raises(ExecutionError):
        jobs.run("hooked", {"end": end})
    job = jobs.newest("hooked")
    assert job.status == "failed"
    assert hooks_of(web, flow_run_of(job.job_id)) == {"running": "Running", hook: state}


def test_a_persisted_result_is_json_where_the_flow_says_so(
    web: Site, jobs: Jobs, flow_run_of: FlowRunOf
) -> None:
    job_id, media_type, body = jobs.run("persisting", {"count": 4})
    assert media_type.startswith("application/json")
    assert json.loads(body) == {"squares": [0, 1, 4, 9]}
    state: Any = flow_run_of(job_id).state
    assert state.data.serializer.type == "json"
    kept = web.results / state.data.storage_key
    assert json.loads(kept.read_bytes()) == {"squares": [0, 1, 4, 9]}


def test_sub_flows_run_but_are_no_jobs(
    jobs: Jobs, flow_run_of: FlowRunOf, prefect_client: SyncPrefectClient
) -> None:
    job_id, _, body = jobs.run("outer", {"number": 1})
    assert json.loads(body) == 10
    parents = FlowRunFilterParentFlowRunId(any_=[flow_run_of(job_id).id])
    children = prefect_client.read_flow_runs(
        flow_run_filter=FlowRunFilter(parent_flow_run_id=parents)
    )
    assert len(children) == 2
    assert "pygeoapi" in children[0].tags
    listed = [job["identifier"] for job in jobs.manager.get_jobs(limit=5)["jobs"]]
    assert job_id in listed
    assert not {str(child.id) for child in children} & set(listed)


def test_an_async_flow_runs_its_tasks_at_once(jobs: Jobs) -> None:
    _, _, body = jobs.run("asynchronous", {"numbers": [1, 2, 3]})
    assert json.loads(body) == [1, 4, 9]
