"""Jobs and workers end in the middle of things."""

import os
import signal
from pathlib import Path

import pytest
from prefect.client.schemas.actions import WorkPoolUpdate

from tests.integration.worker.conftest import Job, Site, is_running, wait_for


def children_of(job: Job) -> list[int]:
    return [int(pid) for pid in job.wait_until_it_said("children")[0].split()]


class TestOneJob:
    """Things that happen to one job; the worker lives on."""

    @pytest.fixture
    def site(self, served_site: Site) -> Site:
        return served_site

    def test_a_killed_process_ends_its_job_as_crashed_within_10_s(self, site: Site) -> None:
        job = site.submit("start_others_and_sleep")
        pids = children_of(job)
        os.kill(job.pid, signal.SIGKILL)

        state = job.wait_until_ended(10)

        assert state.is_crashed()
        assert "-9" in (state.message or "")
        assert job.wait_until_it_said("crashed") == ["Crashed"]
        wait_for(lambda: not any(map(is_running, pids)), "the end of what the job started", 5)

    def test_a_dismissed_job_ends_with_all_that_it_started_within_5_s(self, site: Site) -> None:
        job = site.submit("start_others_and_sleep")
        pids = children_of(job)
        job.dismiss()

        wait_for(lambda: not any(map(is_running, pids)), "the end of what it started", 5)

        assert job.wait_until_ended().is_cancelled()
        assert job.lines("cancelled") == ["Cancelling"]
        assert job.lines("crashed") == []
        wait_for(lambda: not is_running(job.pid), "the end of the process", 15)

    def test_a_job_that_is_stuck_in_c_is_dismissed_within_5_s(self, site: Site) -> None:
        job = site.submit("stick_in_c")
        pids = [job.pid, *children_of(job)]
        job.dismiss()

        wait_for(lambda: not any(map(is_running, pids)), "the end of all processes", 5)

        assert job.wait_until_ended().is_cancelled()

    def test_a_job_that_was_suspended_stops_at_its_next_task(self, site: Site) -> None:
        job = site.submit("take_many_steps")
        job.wait_until_it_said("steps")
        site.suspend(job)

        # both processes do something else
        others = [site.submit("work", seconds=600) for _ in range(2)]
        assert all(other.pid for other in others)

        assert len(job.lines("steps")) < 300
        assert job.state.name == "Suspended"
        assert job.lines("ended") == []
        for other in others:
            other.dismiss()

    def test_the_worker_goes_on_after_all_of_this(self, site: Site) -> None:
        jobs = [site.submit("work") for _ in range(3)]

        assert all(job.wait_until_ended().is_completed() for job in jobs)


def test_a_deployment_that_kills_who_imports_it_spares_the_worker_and_other_jobs(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "deadly_flow.py").write_text("import ctypes\nctypes.string_at(0)\n")
    directory = {"working_dir": str(tmp_path)}
    deadly = site.deploy("die", entrypoint="deadly_flow.die", job_variables=directory)
    good = site.deploy("work", job_variables=directory)

    site.start_worker()
    jobs = [site.submit(deployment) for deployment in (good, deadly, good, good)]

    ends = [job.wait_until_ended() for job in jobs]
    assert [end.is_completed() for end in ends] == [True, False, True, True]
    assert ends[1].is_crashed()
    assert "deadly_flow.die" in site.read_worker_logs()


def test_the_jobs_of_a_killed_worker_end_or_run_again_and_waiting_ones_run(site: Site) -> None:
    worker = site.start_worker(processes=3)
    lost = site.submit("work", seconds=600)
    stuck = site.submit("stick_in_c")
    retried = site.submit("work_for_long_at_first")
    pids = [lost.pid, stuck.pid, retried.pid, *children_of(stuck)]
    waiting = site.submit("work")
    worker.signal(signal.SIGKILL)
    wait_for(lambda: not any(map(is_running, pids)), "processes to die with their worker", 10)
    assert not lost.state.is_final()

    site.start_worker()

    state = lost.wait_until_ended(60)
    assert state.is_crashed()
    assert state.message == "The worker that ran it is gone."
    assert stuck.wait_until_ended(60).is_crashed()
    assert waiting.wait_until_ended().is_completed()
    assert retried.wait_until_ended().is_completed()
    assert len(retried.lines("began")) == 2
    assert len(waiting.lines("began")) == 1


def test_another_worker_notices_that_one_was_killed(site: Site) -> None:
    first = site.start_worker("--limit", "1", name="first")
    job = site.submit("start_others_and_sleep")
    pids = children_of(job)
    site.start_worker(name="second")
    first.signal(signal.SIGKILL)

    assert job.wait_until_ended(60).is_crashed()
    assert not any(map(is_running, pids))


def test_a_job_dismissed_while_its_worker_is_gone_ends_when_one_is_back(site: Site) -> None:
    worker = site.start_worker()
    job = site.submit("work", seconds=600)
    assert job.pid
    worker.signal(signal.SIGKILL)
    worker.wait()
    job.dismiss()

    site.start_worker()

    assert job.wait_until_ended(60).is_cancelled()


def test_a_worker_that_stops_lets_jobs_end_and_hands_back_those_that_do_not(site: Site) -> None:
    worker = site.start_worker(shutdown_grace_seconds=10)
    short = site.submit("work", seconds=2)
    long = site.submit("work", seconds=600)
    assert short.pid
    pid = long.pid
    worker.signal(signal.SIGTERM)
    late = site.submit("work")

    worker.wait()

    assert short.state.is_completed()
    assert not is_running(pid)
    assert long.state.is_scheduled()
    assert late.state.is_scheduled()
    site.start_worker()
    wait_for(lambda: len(long.lines("began")) == 2, "the job that was handed back to run again")
    assert late.wait_until_ended().is_completed()
    assert len(short.lines("began")) == 1


# a job that runs twice now and then is what this test is to find
def test_two_workers_run_each_job_once(site: Site, tmp_path: Path) -> None:
    for worker in [site.launch_worker(name=name) for name in ("first", "second")]:
        worker.wait_until_warm()
    deployment = site.deploy("work")
    site.client.update_work_pool(site.pool, WorkPoolUpdate(is_paused=True))
    jobs = [site.submit(deployment, into=tmp_path, seconds=0.3) for _ in range(24)]

    site.client.update_work_pool(site.pool, WorkPoolUpdate(is_paused=False))

    assert all(job.wait_until_ended().is_completed() for job in jobs)
    # what they are about to begin, they begin now
    site.stop_workers()
    assert len(jobs[0].lines("began")) == 24
    runs = [job.read() for job in jobs]
    assert {run.state_name for run in runs} == {"Completed"}
    assert {(run.infrastructure_pid or "").split(":")[1] for run in runs} == {"first", "second"}
