"""Results in S3: a web server, a worker that shares no folder with it, and a bucket."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.events.worker import EventsWorker
from prefect.filesystems import RemoteFileSystem
from prefect.logging.handlers import APILogWorker
from prefect_aws import AwsClientParameters, AwsCredentials
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr
from s3fs import S3FileSystem  # type: ignore[import-untyped]

from pygeoapi_prefect.check import Finding, Topic, check_configuration
from pygeoapi_prefect.configuration_file import load_configuration
from pygeoapi_prefect.deployments import deploy
from pygeoapi_prefect.errors import ExecutionError, JobFailed, StorageUnavailable
from pygeoapi_prefect.jobs import JobFilter
from pygeoapi_prefect.schemas import JobStatus
from tests.forwarder import Forwarder
from tests.integration.conftest import (
    DEADLINE_SECONDS,
    Jobs,
    Site,
    eventually,
    prefect_api_at,
    running_worker,
)
from tests.object_storage import ACCESS_KEY, SECRET_KEY, Fault, FaultyWay, ObjectStorage

BUCKET = "integration"
PREFIX = "results"
POOL = "object-storage"
MIB = 1024**2
END = b"the end"

STREAMING = "site_processes.streaming.Streaming"
PROCESSES: dict[str, dict[str, Any]] = {
    "streaming": {"name": STREAMING},
    "written-by-flow": {"name": "site_processes.streaming.WrittenByFlow"},
    "measuring-in-s3": {"name": "site_processes.ordinary.Measuring"},
    # with credentials of the environment
    "at-url": {"name": STREAMING, "prefect": {"result_storage": f"s3://{BUCKET}/by-url"}},
    "in-no-bucket": {"name": STREAMING, "prefect": {"result_storage": "s3://no-such-bucket/x"}},
    "away": {"name": STREAMING, "prefect": {"result_storage": "remote-file-system/away"}},
    "faulty": {"name": STREAMING, "prefect": {"result_storage": "remote-file-system/faulty"}},
}


def bucket_block(s3: ObjectStorage) -> S3Bucket:
    return S3Bucket(
        bucket_name=BUCKET,
        bucket_folder=PREFIX,
        credentials=AwsCredentials(
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SecretStr(SECRET_KEY),
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(endpoint_url=s3.endpoint),
        ),
    )


def remote_block(endpoint: str) -> RemoteFileSystem:
    return RemoteFileSystem(
        basepath=f"s3://{BUCKET}/{PREFIX}",
        settings={
            "key": ACCESS_KEY,
            "secret": SECRET_KEY,
            "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"},
            "config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 2}},
        },
    )


@pytest.fixture(scope="module")
def way(s3: ObjectStorage) -> Iterator[FaultyWay]:
    way = FaultyWay(s3)
    yield way
    way.close()


@pytest.fixture(scope="module")
def cloud(
    prefect_server: str,
    s3: ObjectStorage,
    way: FaultyWay,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A site with its results in S3, a worker, and this process for its web server."""
    folder = tmp_path_factory.mktemp("cloud").resolve()
    shutil.copytree(Path(__file__).parents[1] / "processes", folder / "site_processes")
    port = urlsplit(prefect_server).port
    assert port is not None
    site = Site(folder, Forwarder(port), prefect_server)
    site.config_path.write_text(yaml.safe_dump(_configuration()))
    s3.create_bucket(BUCKET)
    with pytest.MonkeyPatch.context() as patch, prefect_api_at(prefect_server, folder):
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        blocks: dict[str, Any] = {
            "cloud": bucket_block(s3),
            "away": remote_block("http://127.0.0.1:1"),
            "faulty": remote_block(way.storage.endpoint),
        }
        for name, block in blocks.items():
            block.save(name, _sync=True)
        assert [change.problem for change in deploy(load_configuration(site.config_path))] == [
            None
        ] * len(PROCESSES)
        worker_folder = tmp_path_factory.mktemp("cloud-worker")
        with running_worker(site, POOL, worker_folder, s3.environment):
            yield site
        site.close_managers()
        APILogWorker.drain_all()
        EventsWorker.drain_all()
        assert SECRET_KEY not in (worker_folder / "worker.log").read_text()
    site.forwarder.close()
    S3FileSystem.clear_instance_cache()


def _configuration() -> dict[str, Any]:
    shipped = Path(__file__).parents[2] / "pygeoapi-config.yml"
    configuration: dict[str, Any] = yaml.safe_load(shipped.read_text())
    configuration["server"]["manager"] = {
        "name": "pygeoapi_prefect.manager.PrefectManager",
        "result_storage": "s3-bucket/cloud",
        "work_pool": POOL,
        "service": "cloud",
    }
    configuration["resources"] = {
        process_id: {"type": "process", "processor": processor}
        for process_id, processor in PROCESSES.items()
    }
    return configuration


@pytest.fixture(scope="module")
def jobs(cloud: Site) -> Jobs:
    return Jobs(cloud.manager())


def keys_of(s3: ObjectStorage, job_id: str, prefix: str = PREFIX) -> set[str]:
    folder = f"{prefix}/{job_id}/"
    return {key.removeprefix(folder) for key in s3.keys(BUCKET, folder)}


def content_of(jobs: Jobs, job_id: str) -> Any:
    return jobs.manager.output(jobs.ended(job_id), "zeros").content


@pytest.mark.parametrize(
    ("process_id", "prefix", "file"),
    [
        ("streaming", PREFIX, "outputs/zeros.bin"),
        ("written-by-flow", PREFIX, "zeros.bin"),
        ("at-url", "by-url", "outputs/zeros.bin"),
    ],
)
def test_an_output_goes_from_worker_to_bucket_to_client_in_pieces(
    s3: ObjectStorage, cloud: Site, jobs: Jobs, process_id: str, prefix: str, file: str
) -> None:
    job_id = jobs.submit(process_id, {"mib": 9})
    job = jobs.ended(job_id)
    assert job.status == "successful", job.message
    size = 9 * MIB + len(END)

    assert keys_of(s3, job_id, prefix) == {file, "outputs.json"}
    output = jobs.manager.output(job, "zeros")
    assert output.content.size == size
    # a range as a client asks for it
    assert b"".join(output.content.chunks(size - 8, size)) == bytes(1) + END
    assert max(len(chunk) for chunk in output.content.chunks(0, size)) < 3 * MIB
    # a link that holds a signature, and no secret
    url = output.address()
    assert url is not None
    assert SECRET_KEY not in url
    part = httpx.get(url, headers={"Range": "bytes=-7"}, timeout=DEADLINE_SECONDS)
    assert (part.status_code, part.content) == (206, END)
    assert part.headers["Content-Type"] == output.media_type
    # one that leads to this server
    behind = cloud.manager(sign_links=False)
    behind.output_url = "https://example.org/jobs/{}/results/{}".format
    served = behind.output(job, "zeros").address()
    assert served == f"https://example.org/jobs/{job_id}/results/zeros"

    jobs.manager.delete_job(job_id)
    assert keys_of(s3, job_id, prefix) == set()


def test_a_large_request_goes_through_the_bucket(s3: ObjectStorage, jobs: Jobs) -> None:
    job_id = jobs.submit("measuring-in-s3", {"value": "grebe " * 10_000})

    assert jobs.result(job_id) == b'{"length": 60000}'
    assert keys_of(s3, job_id) == {"request.json", "outputs.json", "outputs/result.json"}


def test_what_prefect_keeps_of_a_job_is_there_too_and_goes_with_it(
    s3: ObjectStorage, jobs: Jobs
) -> None:
    before = s3.keys(BUCKET)
    job_id = jobs.submit("written-by-flow", {"mib": 1})
    job = jobs.ended(job_id)
    key = job.state_data.storage_key

    kept = {one for one in s3.keys(BUCKET) - before if job_id not in one}
    assert f"{PREFIX}/{key}" in kept
    (of_task,) = kept - {f"{PREFIX}/{key}"}  # which other jobs may use

    jobs.manager.delete_job(job_id)
    assert s3.keys(BUCKET) - before == {of_task}


def test_a_stream_that_breaks_off_fails_the_job_and_leaves_no_output(
    s3: ObjectStorage, jobs: Jobs
) -> None:
    job = jobs.ended(jobs.submit("streaming", {"mib": 9, "fails": True}))

    assert (job.status, job.message) == ("failed", "RuntimeError: the well ran dry")
    with pytest.raises(JobFailed):
        jobs.manager.result(job)
    assert keys_of(s3, job.job_id) == set()
    assert s3.unfinished_uploads(BUCKET) == []


@pytest.mark.parametrize(
    ("process_id", "problem"),
    [
        ("in-no-bucket", "the result storage s3://no-such-bucket has no such bucket"),
        ("away", "the result storage remote-file-system/away cannot be reached"),
    ],
)
def test_a_job_without_a_storage_fails_and_names_it(
    s3: ObjectStorage, jobs: Jobs, process_id: str, problem: str
) -> None:
    job_id = jobs.submit(process_id, {"mib": 1})
    with pytest.raises(ExecutionError, match=problem) as error:
        jobs.run(process_id, {"mib": 1})

    assert error.value.http_status_code == 500
    for job in (jobs.ended(job_id), jobs.newest(process_id)):
        assert job.status is JobStatus.failed
        assert problem in job.message
        assert SECRET_KEY not in job.message
    assert "no-such-bucket" not in s3.buckets()


def test_results_of_a_storage_that_is_away_are_answered_with_503(
    jobs: Jobs, way: FaultyWay
) -> None:
    way.mend()
    job_id, _, body = jobs.run("faulty", {"mib": 1})
    assert len(body) == MIB + len(END)
    job = jobs.manager.gateway.find(job_id)
    way.fail_always(Fault.RESET)

    with pytest.raises(StorageUnavailable, match="remote-file-system/faulty cannot be reached"):
        jobs.manager.result(job)
    with pytest.raises(StorageUnavailable):
        jobs.manager.delete_job(job_id)
    way.mend()
    assert jobs.manager.result(job).size == MIB + len(END)
    jobs.manager.delete_job(job_id)


def test_no_secret_is_in_a_job_or_its_log(cloud: Site, jobs: Jobs) -> None:
    job_id = jobs.submit("away", {"mib": 1})
    jobs.ended(job_id)
    with get_client(sync_client=True) as client:
        # others have jobs on this Prefect server too
        of_processes = JobFilter(process_ids=frozenset(PROCESSES))
        page = jobs.manager.gateway.page(of_processes, limit=200)
        ours = [job.flow_run_id for job in page.jobs]
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ours)), limit=200
        )
        log_filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=ours))
        # a worker sends them a little later
        logs = eventually(lambda: client.read_logs(log_filter, limit=200, offset=0) or None)
        deployments = client.read_deployments()
    texts = [one.model_dump_json() for one in (*runs, *logs, *deployments)]

    assert job_id in {job.job_id for job in page.jobs}
    assert len(runs) == len(ours) == page.number_matched
    assert len(deployments) >= len(PROCESSES)
    assert not [text for text in texts if SECRET_KEY in text]


def problems(findings: list[Finding]) -> dict[tuple[Topic, str], str]:
    return {(one.topic, one.name): one.fact for one in findings if not one.is_ok}


def test_a_check_finds_what_is_wrong_and_nothing_else(
    cloud: Site, way: FaultyWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygeoapi_prefect.check.EVENTS_SECONDS", DEADLINE_SECONDS)
    way.mend()
    findings = check_configuration(load_configuration(cloud.config_path))

    found = problems(findings)
    assert found.pop((Topic.RESULTS, "s3://no-such-bucket/x")).endswith("has no such bucket")
    assert found.pop((Topic.RESULTS, "remote-file-system/away")).endswith("cannot be reached")
    assert found == {}
    kinds = {one.topic for one in findings}
    assert kinds == {
        Topic.API,
        Topic.EVENTS,
        Topic.WORK_POOL,
        Topic.RESULTS,
        Topic.PROCESS,
        Topic.DEPLOYMENT,
    }
    assert sum(one.topic is Topic.DEPLOYMENT for one in findings) == len(PROCESSES)
    assert SECRET_KEY not in str(findings)


def test_a_check_finds_what_has_changed_since_the_deployment(
    cloud: Site, tmp_path: Path, s3: ObjectStorage
) -> None:
    configuration = _configuration()
    resources: dict[str, dict[str, Any]] = {
        "streaming": {"prefect": {"result_storage": "s3-bucket/absent"}},
        "measuring-in-s3": {"prefect": {"deployment": {"tags": ["new"]}}},
        "at-url": {"prefect": {"deployment": {"work_pool": "no-such-pool"}}},
        "written-by-flow": {"name": "site_processes.no.Class"},
    }
    configuration["resources"] = {
        process_id: {"type": "process", "processor": {**PROCESSES[process_id], **changes}}
        for process_id, changes in resources.items()
    }
    name = f"new-{uuid.uuid4()}"
    configuration["resources"][name] = {"type": "process", "processor": {"name": "HelloWorld"}}
    path = tmp_path / "pygeoapi-config.yml"
    path.write_text(yaml.safe_dump(configuration))
    before = s3.keys(BUCKET)

    with get_client(sync_client=True) as client:
        client.update_work_pool(POOL, WorkPoolUpdate(is_paused=True))
        try:
            findings = check_configuration(load_configuration(path))
        finally:
            client.update_work_pool(POOL, WorkPoolUpdate(is_paused=False))

    found = problems(findings)
    assert "Prefect has no block s3-bucket/absent" in found[Topic.RESULTS, "s3-bucket/absent"]
    assert found[Topic.WORK_POOL, POOL] == "is paused"
    assert found[Topic.WORK_POOL, "no-such-pool"] == "does not exist"
    assert "site_processes.no.Class" in found[Topic.PROCESS, "written-by-flow"]
    assert found[Topic.DEPLOYMENT, f"Hello World/{name}"] == "does not exist"
    assert found[Topic.DEPLOYMENT, "Ordinary/measuring-in-s3"] == "is not up to date: tags"
    assert s3.keys(BUCKET) == before
