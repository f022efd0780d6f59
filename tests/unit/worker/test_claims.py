"""What a claimed run comes to: a job, and where it runs."""

from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse

from pygeoapi_prefect.worker.claims import Prepared, prepare
from pygeoapi_prefect.worker.configuration import PygeoapiJobConfiguration
from pygeoapi_prefect.worker.owner import Owner
from pygeoapi_prefect.worker.start import PROCESS_VARIABLE

OWNER = Owner(worker="w", machine="here", pid=1, started=1)


def prepared(directory: Path, env: dict[str, str]) -> Prepared:
    configuration = PygeoapiJobConfiguration(working_dir=directory, env=dict(env))
    deployment = DeploymentResponse(
        id=uuid4(), name="d", flow_id=uuid4(), entrypoint="package.flows.hello", labels={}
    )
    run = FlowRun(id=uuid4(), flow_id=deployment.flow_id, deployment_id=deployment.id)
    return prepare(run, deployment, configuration, worker_environment={}, owner=OWNER)


def test_a_job_runs_in_its_directory(tmp_path: Path) -> None:
    found = prepared(tmp_path, {PROCESS_VARIABLE: "{}"})
    assert found.job.source.directory == str(tmp_path)
    assert found.absent_directory is None


def test_a_job_of_ours_does_without_a_directory_of_another_machine(tmp_path: Path) -> None:
    absent = tmp_path / "elsewhere"
    found = prepared(absent, {PROCESS_VARIABLE: "{}"})
    assert found.job.source.directory is None
    assert found.absent_directory == str(absent)


@pytest.mark.parametrize("env", [{}, {"OTHER": "1"}])
def test_what_others_have_configured_is_not_changed(tmp_path: Path, env: dict[str, str]) -> None:
    absent = tmp_path / "elsewhere"
    assert prepared(absent, env).job.source.directory == str(absent)
