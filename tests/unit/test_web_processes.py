"""Web processes that are gone, and what becomes of their jobs."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from prefect import flow
from prefect.states import AwaitingRetry, Completed, Running

from pygeoapi_prefect.errors import BackendUnavailable
from pygeoapi_prefect.jobs import WEB_PULSE_LABEL, Job, run_labels
from pygeoapi_prefect.schemas import JobStatus
from pygeoapi_prefect.testing import InMemoryGateway
from pygeoapi_prefect.web_processes import OrphanWatch, WebProcess

ELSEWHERE = WebProcess("elsewhere", 1, 1.0)
LONG = OrphanWatch.SILENCE_SECONDS


@flow
def idle() -> None: ...


@pytest.fixture
def gateway() -> InMemoryGateway:
    return InMemoryGateway()


@pytest.fixture
def watch(gateway: InMemoryGateway) -> OrphanWatch:
    return OrphanWatch(gateway)


def begun(gateway: InMemoryGateway, job_id: str, web_process: WebProcess | None) -> None:
    gateway.create_run(
        idle,
        job_id=job_id,
        process_id="p",
        parameters={},
        labels=run_labels(
            process_id="p",
            result_media_type="x",
            result_storage="x",
            web_process=web_process.label if web_process else None,
        ),
    )


def failed(gateway: InMemoryGateway) -> set[str]:
    return {job_id for job_id in gateway.runs if gateway.find(job_id).status is JobStatus.failed}


def test_a_process_is_known_by_its_label() -> None:
    own = WebProcess.own()
    assert WebProcess.parse(own.label).is_alive is True
    assert dataclasses.replace(own, machine="elsewhere").is_alive is None
    assert (own.number, ":" in own.machine) == (os.getpid(), False)


def test_jobs_of_processes_of_this_machine_that_are_gone_have_ended_and_no_others(
    gateway: InMemoryGateway, watch: OrphanWatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = WebProcess.own()
    gone = dataclasses.replace(own, number=ended.pid)
    begun(gateway, "ours", own)
    begun(gateway, "gone", gone)
    begun(gateway, "gone-while-it-waited", gone)
    gateway.set_state("gone-while-it-waited", Running())
    gateway.set_state("gone-while-it-waited", AwaitingRetry())
    begun(gateway, "number-used-again", dataclasses.replace(own, started=1.0))
    begun(gateway, "on-another-machine", ELSEWHERE)
    begun(gateway, "deployed", None)
    begun(gateway, "dismissed", gone)
    gateway.cancel(gateway.find("dismissed"))
    begun(gateway, "ours-dismissed", own)
    gateway.cancel(gateway.find("ours-dismissed"))
    begun(gateway, "ended", gone)
    gateway.set_state("ended", Completed())

    watch.look(0.0)

    assert failed(gateway) == {"gone", "gone-while-it-waited", "number-used-again"}
    assert gateway.find("gone").message == "The web server process that ran the job has ended"
    assert gateway.find("dismissed").status is JobStatus.dismissed
    # its work has stopped with its process; that of the other one may go on
    assert gateway.find("dismissed").has_ended
    assert gateway.find("ours-dismissed").stopping


def test_a_job_goes_on_when_the_clock_is_set(gateway: InMemoryGateway, watch: OrphanWatch) -> None:
    own = WebProcess.own()
    begun(gateway, "ours", dataclasses.replace(own, started=own.started + 1))

    watch.look(0.0)

    assert gateway.find("ours").status is JobStatus.accepted


def test_a_process_elsewhere_is_gone_when_it_has_been_silent_for_long(
    gateway: InMemoryGateway, watch: OrphanWatch
) -> None:
    begun(gateway, "a", ELSEWHERE)

    watch.look(0.0)
    watch.look(LONG - 1)
    assert failed(gateway) == set()
    watch.look(LONG)
    assert failed(gateway) == {"a"}


def test_a_process_elsewhere_is_not_gone_while_it_shows_signs_of_life(
    gateway: InMemoryGateway, watch: OrphanWatch
) -> None:
    begun(gateway, "a", ELSEWHERE)
    for pulse in range(4):
        gateway.label(gateway.find("a"), {WEB_PULSE_LABEL: str(pulse)})
        watch.look(pulse * LONG)
    assert failed(gateway) == set()
    watch.look(4 * LONG)
    assert failed(gateway) == {"a"}


def test_silence_does_not_count_while_nobody_could_be_heard(
    gateway: InMemoryGateway, watch: OrphanWatch
) -> None:
    begun(gateway, "a", ELSEWHERE)
    watch.look(0.0)
    gateway.unavailable = True
    with pytest.raises(BackendUnavailable):
        watch.look(LONG / 2)
    gateway.unavailable = False

    watch.look(LONG)
    assert failed(gateway) == set()
    watch.look(2 * LONG)
    assert failed(gateway) == {"a"}


def test_a_job_that_is_removed_meanwhile_is_no_problem(
    gateway: InMemoryGateway, watch: OrphanWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(gateway, "gone", dataclasses.replace(WebProcess.own(), started=1.0))
    jobs = gateway.web_jobs()
    gateway.delete(jobs[0])
    find_jobs: Callable[[], list[Job]] = lambda: jobs  # noqa: E731
    monkeypatch.setattr(gateway, "web_jobs", find_jobs)

    watch.look(0.0)

    assert gateway.runs == {}
