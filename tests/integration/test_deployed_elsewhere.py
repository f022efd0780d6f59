"""Deployments that a worker runs which has nothing of the machine that made them."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.filesystems import LocalFileSystem, RemoteFileSystem

from pygeoapi_prefect.configuration_file import load_configuration
from pygeoapi_prefect.deployments import deploy
from pygeoapi_prefect.jobs import Job, JobFilter, status_document
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.schemas import JobStatus
from tests.integration.conftest import Jobs, Site, eventually
from tests.object_storage import ObjectStorage

PACKAGE = {
    "__init__.py": "",
    "lakes.csv": "Maggiore,194\n",
    "process.py": """
import csv
from importlib.resources import files
from pygeoapi.process.base import BaseProcessor

class Depth(BaseProcessor):
    def __init__(self, processor_def):
        described = {"schema": {"type": "object"}}
        super().__init__(processor_def, {"inputs": {}, "outputs": {"depth": described}})

    def execute(self, data, outputs=None):
        ((lake, depth),) = csv.reader((files(__package__) / "lakes.csv").open())
        return "application/json", {lake: int(depth)}
""",
}


@pytest.fixture
def configured(
    web: Site, worker: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Path, PrefectManager]]]:
    """Returns a function that configures a service of its own at the site."""
    managers = []
    monkeypatch.chdir(tmp_path)

    def configure(**processors: dict[str, Any]) -> tuple[Path, PrefectManager]:
        resources = {
            process_id: {"type": "process", "processor": processor}
            for process_id, processor in processors.items()
        }
        definition = {**web.configuration()["server"]["manager"], "service": tmp_path.name}
        definition["output_dir"] = str(web.results)
        path = tmp_path / "pygeoapi-config.yml"
        path.write_text(yaml.safe_dump({"server": {"manager": definition}, "resources": resources}))
        managers.append(PrefectManager({**definition, "processes": resources}))
        return path, managers[-1]

    yield configure
    for manager in managers:
        manager.close()


@pytest.mark.usefixtures("prefect_client")
def test_code_in_a_block_runs_where_it_is_not_installed(
    configured: Callable[..., tuple[Path, PrefectManager]],
    s3: ObjectStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = tmp_path / "modules" / "depths_for_test"
    package.mkdir(parents=True)
    for name, content in PACKAGE.items():
        (package / name).write_text(content)
    monkeypatch.syspath_prepend(str(package.parent))
    s3.create_bucket("code-elsewhere")
    blocks: dict[str, Any] = {
        "local-file-system/elsewhere": LocalFileSystem(basepath=str(tmp_path / "code")),
        "remote-file-system/elsewhere": RemoteFileSystem(
            basepath="s3://code-elsewhere/processes",
            settings={
                "key": "key",
                "secret": "secret",
                "client_kwargs": {"endpoint_url": s3.endpoint},
            },
        ),
    }
    for block in blocks.values():
        block.save("elsewhere", overwrite=True, _sync=True)
    config, manager = configured(
        **{
            f"depth-{slug.partition('-')[0]}": {
                "name": "depths_for_test.process.Depth",
                "prefect": {"deployment": {"storage_block": slug}},
            }
            for slug in blocks
        }
    )
    assert {change.problem for change in deploy(load_configuration(config))} == {None}
    jobs = Jobs(manager)
    job_ids = [jobs.submit(process_id, {}) for process_id in ("depth-local", "depth-remote")]
    for job_id in job_ids:
        assert json.loads(jobs.result(job_id)) == {"Maggiore": 194}
    sys.modules.pop("depths_for_test", None)


def test_runs_of_a_schedule_are_jobs(
    configured: Callable[..., tuple[Path, PrefectManager]], prefect_client: SyncPrefectClient
) -> None:
    schedule = {"interval": 10, "inputs": {"name": "Ada"}, "response": "document"}
    prefect_settings = {"deployment": {"schedules": [schedule]}}
    config, manager = configured(punctual={"name": "HelloWorld", "prefect": prefect_settings})
    of_process = JobFilter(process_ids=frozenset({"punctual"}))

    def listed(status: JobStatus) -> list[Job]:
        page = manager.gateway.page(of_process, limit=100)
        return [job for job in page.jobs if job.status is status]

    (change,) = deploy(load_configuration(config))
    deployment = prefect_client.read_deployment_by_name(change.deployment)
    try:
        # the newest of them is due in nearly a minute
        waiting = eventually(lambda: listed(JobStatus.accepted) or None)[0]
        manager.delete_job(waiting.job_id)
        ended = eventually(lambda: listed(JobStatus.successful) or None)[-1]
        made = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment.id]}})
        run_count = prefect_client.count_flow_runs(flow_run_filter=made)
        job_count = manager.gateway.page(of_process, limit=1).number_matched
    finally:
        prefect_client.delete_deployment(deployment.id)

    assert ended.job_id == str(ended.flow_run_id)
    assert manager.gateway.find(ended.job_id).created == ended.created
    document = status_document(ended)
    assert (document["processID"], document["type"]) == ("punctual", "process")
    assert document["created"] <= document["started"] <= document["finished"]
    assert manager.inputs(ended, 1000) == {"name": "Ada"}
    result = json.loads(manager.result(ended).body)
    assert result["echo"]["value"] == {"id": "echo", "value": "Hello Ada!"}
    # one that is dismissed before it is due stays so
    assert manager.gateway.find(waiting.job_id).status is JobStatus.dismissed
    # Prefect makes runs long before they are due, and those are no jobs yet
    assert job_count is not None
    assert job_count < run_count
