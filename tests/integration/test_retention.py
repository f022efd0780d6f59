"""Removal of old jobs on a real Prefect server that others use too."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import prefect.context
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Completed

from pygeoapi_prefect.errors import JobNotFound
from pygeoapi_prefect.gateway import ApiGateway
from pygeoapi_prefect.jobs import Job, new_job_id, run_labels
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.retention import RetentionRule, prune


@flow(name="retention-flow")
def some_flow(job_id: str = "", execution_request: str = "{}") -> None: ...


@pytest.fixture
def gateway(prefect_server: str) -> Iterator[ApiGateway]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", prefect_server)
        prefect.context.refresh_global_settings_context()
        gateway = ApiGateway()
        yield gateway
        gateway.close()
    prefect.context.refresh_global_settings_context()


def test_jobs_go_with_their_files_and_runs_of_others_stay(
    gateway: ApiGateway, tmp_path: Path
) -> None:
    manager = PrefectManager({"name": "x", "result_storage": str(tmp_path)}, gateway=gateway)
    job_ids = [new_job_id() for _ in range(3)]

    def remove(job: Job) -> None:
        if job.job_id in job_ids:  # the others are of other tests
            manager.remove(job)

    with get_client(sync_client=True) as client:
        for job_id in job_ids:
            labels = run_labels(
                process_id="kept?", result_media_type="x", result_storage=str(tmp_path)
            )
            run = gateway.create_run(
                some_flow, job_id=job_id, process_id="kept?", parameters={}, labels=labels
            )
            client.set_flow_run_state(run.id, Completed(), force=True)
            (tmp_path / job_id / "outputs").mkdir(parents=True)
            (tmp_path / job_id / "outputs" / "x.txt").write_text("x")
        foreign = client.create_flow_run(some_flow, state=Completed())

        found = {job.job_id for job in manager.expired_jobs(RetentionRule(max_jobs=0))}
        assert set(job_ids) <= found
        now = dt.datetime.now(dt.UTC)
        removals = [*prune(gateway, RetentionRule(max_jobs=0), now, remove)]

        assert not any(removal.problem for removal in removals)
        seen = {removal.job.flow_run_id for removal in removals}
        assert foreign.id not in seen
        assert client.read_flow_run(foreign.id).id == foreign.id
    for job_id in job_ids:
        assert not (tmp_path / job_id).exists()
        with pytest.raises(JobNotFound):
            gateway.find(job_id)
