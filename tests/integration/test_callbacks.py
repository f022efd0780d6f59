"""Callbacks of jobs whose process answers slowly, fails or is killed; a real Prefect server."""

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import prefect.context
import pytest
from pygeoapi.util import RequestedProcessExecutionMode, Subscriber

from pygeoapi_prefect.background import BackgroundLoop
from pygeoapi_prefect.callbacks import RETRY_SECONDS, Callback, Courier, delivery_of
from pygeoapi_prefect.errors import JobNotFound
from pygeoapi_prefect.gateway import ApiGateway
from pygeoapi_prefect.jobs import Job
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.schemas import JobStatus
from pygeoapi_prefect.web_processes import OrphanWatch

from ..receiver import DEADLINE_SECONDS, Receiver, receiving

REPOSITORY = Path(__file__).parents[2]

PROCESS = '''
import pathlib, time
from pygeoapi.process.base import BaseProcessor

class Waiting(BaseProcessor):
    """Ends when a file is there."""

    def __init__(self, definition):
        output = {"schema": {"type": "string"}}
        inputs = {"file": {"schema": {"type": "string"}}}
        metadata = {"id": "waiting", "version": "1", "title": "Waiting", "description": "Waits"}
        super().__init__(definition, {**metadata, "inputs": inputs, "outputs": {"text": output}})

    def execute(self, data, outputs=None):
        while not pathlib.Path(data["file"]).exists():
            time.sleep(0.02)
        return "text/plain", "done"
'''

WEB_PROCESS = """
import json, sys
from pygeoapi_prefect.manager import PrefectManager

manager_def, request = json.load(sys.stdin)
manager = PrefectManager(manager_def)
manager.execute("waiting", request, None)
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def gateway(prefect_server: str) -> Iterator[ApiGateway]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", prefect_server)
        # `temporary_settings` would not reach the threads of jobs
        prefect.context.refresh_global_settings_context()
        gateway = ApiGateway()
        yield gateway
        gateway.close()
    prefect.context.refresh_global_settings_context()


@pytest.fixture
def manager_def(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    module = f"waiting_{uuid.uuid4().hex}"
    (tmp_path / f"{module}.py").write_text(PROCESS)
    monkeypatch.syspath_prepend(tmp_path)
    return {
        "name": "pygeoapi_prefect.manager.PrefectManager",
        "result_storage": str(tmp_path / "results"),
        "references": {"allow_hosts": [f"127.0.0.1:{receiver.port}"]},
        "processes": {
            "waiting": {"type": "process", "processor": {"name": f"{module}.Waiting"}},
        },
    }


@pytest.fixture
def web_process(
    prefect_server: str, manager_def: dict[str, Any], tmp_path: Path
) -> Iterator[Callable[[dict[str, Any]], subprocess.Popen[str]]]:
    """Starts a process that executes a request as a web server does."""
    started = []

    def start(request: dict[str, Any]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WEB_PROCESS)],
            cwd=tmp_path,
            env=os.environ
            | {
                "PREFECT_API_URL": prefect_server,
                "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)]),
            },
            stdin=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdin is not None
        json.dump([manager_def, request], process.stdin)
        process.stdin.close()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def request(receiver: Receiver, file: Path) -> dict[str, Any]:
    return {"inputs": {"file": str(file)}, "subscriber": receiver.subscriber}


@pytest.fixture
def make_manager(manager_def: dict[str, Any]) -> Iterator[Callable[..., PrefectManager]]:
    managers: list[PrefectManager] = []

    def make(gateway: ApiGateway | None = None) -> PrefectManager:
        managers.append(PrefectManager(manager_def, gateway))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


@pytest.fixture
def courier(
    make_manager: Callable[..., PrefectManager], gateway: ApiGateway, receiver: Receiver
) -> Courier:
    """What a web server that starts later delivers with."""
    return Courier(gateway, receiver.policy, make_manager(gateway)._results_document)


def after(seconds: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)


def await_job(gateway: ApiGateway, job_id: str, is_as_wanted: Callable[[Job], bool]) -> Job:
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while not is_as_wanted(job := gateway.find(job_id)):
        assert time.monotonic() < give_up_at, job
        time.sleep(0.05)
    return job


def is_awaited(gateway: ApiGateway, job_id: str) -> bool:
    return job_id in {job.job_id for job in gateway.awaiting_callbacks()}


def test_a_subscriber_is_told_of_start_and_results_and_a_slow_one_delays_nobody(
    gateway: ApiGateway,
    make_manager: Callable[..., PrefectManager],
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # nobody but the process of the job tells the subscriber, however long it takes
    monkeypatch.setattr("pygeoapi_prefect.callbacks.FIRST_ATTEMPT_SECONDS", 3600)
    monkeypatch.setattr("pygeoapi_prefect.callbacks.RETRY_SECONDS", (3600,))
    (tmp_path / "file").touch()
    receiver.let_go.clear()
    manager = make_manager(gateway)
    job = manager.execute("waiting", request(receiver, tmp_path / "file"), None)
    assert job.status is JobStatus.successful
    receiver.let_go.set()
    assert receiver.wait_for("/success") == {"text": "done"}
    assert receiver.of("/inProgress")[0]["jobID"] == job.job_id
    assert [path for path, _ in receiver.received] == ["/inProgress", "/success"]
    await_job(gateway, job.job_id, lambda _: not is_awaited(gateway, job.job_id))


def test_the_results_are_sent_where_the_process_was_killed_while_it_sent_them(
    gateway: ApiGateway,
    courier: Courier,
    receiver: Receiver,
    web_process: Callable[[dict[str, Any]], subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    process = web_process(request(receiver, tmp_path / "file"))
    job_id = receiver.wait_for("/inProgress")["jobID"]
    await_job(gateway, job_id, lambda job: delivery_of(job, Callback.IN_PROGRESS).is_settled)
    receiver.let_go.clear()
    (tmp_path / "file").touch()
    receiver.wait_for("/success")
    process.send_signal(signal.SIGKILL)
    process.wait()
    receiver.let_go.set()

    assert gateway.find(job_id).status is JobStatus.successful
    courier.deliver_due(after(RETRY_SECONDS[0] + 1))
    assert receiver.of("/success") == [{"text": "done"}] * 2
    assert not is_awaited(gateway, job_id)


def test_the_failure_is_sent_of_a_job_whose_process_was_killed(
    gateway: ApiGateway,
    courier: Courier,
    receiver: Receiver,
    web_process: Callable[[dict[str, Any]], subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    process = web_process(request(receiver, tmp_path / "never"))
    job_id = receiver.wait_for("/inProgress")["jobID"]
    process.send_signal(signal.SIGKILL)
    process.wait()

    OrphanWatch(gateway).look(0.0)
    courier.deliver_due(after(60))
    (failure,) = receiver.of("/failed")
    assert (failure["jobID"], failure["status"]) == (job_id, "failed")


def test_a_web_server_that_starts_goes_on_where_another_was_killed(
    gateway: ApiGateway,
    make_manager: Callable[..., PrefectManager],
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    receiver.status = 503
    with monkeypatch.context() as patch:
        patch.setattr(BackgroundLoop, "wake", lambda _: None)  # of the one that is killed
        make_manager(gateway).execute("waiting", request(receiver, tmp_path / "file"), None)
    receiver.wait_for("/success")
    receiver.status = 200
    monkeypatch.setattr("pygeoapi_prefect.callbacks.dt", _InAnHour)
    manager = make_manager()
    with pytest.raises(JobNotFound):  # its first call of the Prefect API, whatever it is
        manager.get_job("nobody")
    assert receiver.wait_for("/success", 2) == {"text": "done"}


class _InAnHour:
    """`datetime`, an hour later."""

    UTC = dt.UTC
    timedelta = dt.timedelta

    class datetime:  # noqa: N801
        @staticmethod
        def now(zone: dt.tzinfo) -> dt.datetime:
            return dt.datetime.now(zone) + dt.timedelta(hours=1)


def test_a_dismissed_job_says_so(
    gateway: ApiGateway,
    manager_def: dict[str, Any],
    make_manager: Callable[..., PrefectManager],
    courier: Courier,
    receiver: Receiver,
    tmp_path: Path,
) -> None:
    manager_def["sync_job_execution_timeout_seconds"] = 0.1
    manager = make_manager(gateway)
    job_id, *_ = manager.execute_process(
        "waiting",
        {"file": str(tmp_path / "never")},
        execution_mode=RequestedProcessExecutionMode.wait,
        subscriber=_subscriber(receiver),
    )
    receiver.wait_for("/inProgress")
    manager.delete_job(job_id)
    courier.deliver_due(after(60))
    assert receiver.wait_for("/failed")["status"] == "dismissed"


def _subscriber(receiver: Receiver) -> Subscriber:
    uris = receiver.subscriber
    return Subscriber(uris["successUri"], uris["inProgressUri"], uris["failedUri"])
