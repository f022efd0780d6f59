"""Two hundred jobs on machines that share nothing but the network, one of which dies."""

import dataclasses
import itertools
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.integration.scale_out.conftest import BUCKET, WORKER_PROCESSES, Site
from tests.integration.scale_out.work import LARGE_CHARACTERS, RELEASE

# with the time that everything takes to start
pytestmark = pytest.mark.timeout(1200)

ENDS = {"successful", "failed", "dismissed"}
DEADLINE_SECONDS = 600.0
POLL_SECONDS = 0.1
ENDED_SECONDS = 120.0
CLIENTS = 12

COUNTS = {
    ("installed", "short"): 140,
    ("uploaded", "short"): 8,
    ("installed", "failing"): 20,
    ("installed", "large"): 6,
    ("installed", "waiting client"): 12,
    ("installed", "dismissed while accepted"): 6,
    ("installed", "dismissed while running"): 4,
}
HELD = 4
"""One more than a worker takes at a time, the one included that waits for a process: so at
least one of them is run by each of two workers."""


@dataclasses.dataclass
class Job:
    """A job, and what its client saw of it.

    Attributes:
        expected: Its last status.
        id: Of an asynchronous one.
        answer: To the request of a synchronous one.
    """

    label: str
    process_id: str
    kind: str
    expected: str = "successful"
    id: str = ""
    answer: httpx.Response | None = None


class Clients:
    """What clients do, one method for each kind of them."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def run(self, job: Job) -> Job:
        match job.kind:
            case "waiting client":
                job.answer = self._post(job, "short", {})
            case "dismissed while accepted":
                self._begin(job, "endless")
                self._dismiss(job)
            case "dismissed while running":
                self._begin(job, "endless")
                eventually(lambda: self._site.starts(job.label))
                self._dismiss(job)
            case _:
                self._begin(job, job.kind)
        return job

    def _begin(self, job: Job, kind: str) -> None:
        answer = self._post(job, kind, {"Prefer": "respond-async"})
        assert answer.status_code == 201, answer.text
        job.id = answer.json()["jobID"]

    def _post(self, job: Job, kind: str, headers: dict[str, str]) -> httpx.Response:
        return self._site.web.post(
            f"/processes/{job.process_id}/execution",
            json={"inputs": {"label": job.label, "kind": kind}},
            headers=headers,
        )

    def _dismiss(self, job: Job) -> None:
        job.expected = "dismissed"
        self._site.web.delete(f"/jobs/{job.id}").raise_for_status()


def eventually[Value](probe: Callable[[], Value | None]) -> Value:
    """The first value of a function that is something; fails when the time is up."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while not (value := probe()):
        if time.monotonic() > give_up_at:
            pytest.fail(f"not within {DEADLINE_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
    return value


def make_jobs() -> Iterator[Job]:
    for (process_id, kind), count in COUNTS.items():
        for number in range(count):
            expected = "failed" if kind == "failing" else "successful"
            yield Job(f"{process_id} {kind} {number}", process_id, kind, expected)


def last_status(site: Site, job: Job) -> dict[str, str]:
    """The status document of a job when it has ended."""

    def look() -> dict[str, str] | None:
        status: dict[str, str] = site.web.get(f"/jobs/{job.id}", params={"f": "json"}).json()
        return status if status["status"] in ENDS else None

    return eventually(look)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the jobs.

    Attributes:
        statuses: Of asynchronous ones, by their labels.
    """

    jobs: list[Job]
    statuses: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def outcome(site: Site) -> Outcome:
    """Send all jobs, and kill a worker when about half of them have been."""
    clients = Clients(site)
    jobs = [*make_jobs()]
    random.Random(5).shuffle(jobs)
    held = [Job(f"held {number}", "installed", "held") for number in range(HELD)]
    half = len(jobs) // 2
    with ThreadPoolExecutor(CLIENTS) as threads:
        first: list[Future[Job]] = [threads.submit(clients.run, job) for job in jobs[:half]]
        for future in first:
            future.result()
        for job in held:
            clients.run(job)
        rest = [threads.submit(clients.run, job) for job in jobs[half:]]
        eventually(lambda: any("second" in site.starts(job.label) for job in held))
        processes = site.workers["second"].children(recursive=True)
        site.workers["second"].kill()
        # what it ran could still end well, with what it waits for
        _, left = psutil.wait_procs(processes, timeout=ENDED_SECONDS)
        assert left == []
        site.notes.set(RELEASE, 1)
        for future in rest:
            future.result()
    everything = [*jobs, *held]
    return Outcome(everything, {job.label: last_status(site, job) for job in everything if job.id})


def was_lost(site: Site, job: Job, outcome: Outcome) -> bool:
    """Whether a job ended because the worker that ran it was killed.

    It may have been about to say that it starts: only Prefect knows that it had begun.
    """
    if "first" in site.starts(job.label):
        return False
    if job.answer is not None:
        return not job.answer.is_success
    status = outcome.statuses[job.label]
    return status["status"] == "failed" and "worker" in status["message"]


# before the others: they kill a worker
def test_tasks_of_a_job_run_in_a_cluster_of_dask(site: Site) -> None:
    answer = site.web.post("/processes/squares/execution", json={"inputs": {"numbers": [2, 3, 4]}})
    assert answer.json() == {"squares": [4, 9, 16], "elsewhere": True}


class TestTwoHundredJobs:
    def test_none_starts_twice_and_each_that_was_not_dismissed_starts(
        self, site: Site, outcome: Outcome
    ) -> None:
        starts = {job.label: site.starts(job.label) for job in outcome.jobs}

        assert len(starts) == 200
        assert {label: found for label, found in starts.items() if len(found) > 1} == {}
        assert {label for label, found in starts.items() if not found} <= {
            job.label
            for job in outcome.jobs
            if job.kind == "dismissed while accepted" or was_lost(site, job, outcome)
        }
        assert {*itertools.chain(*starts.values())} == {"first", "second"}

    def test_each_ends_as_it_should_but_those_that_died_with_their_worker(
        self, site: Site, outcome: Outcome
    ) -> None:
        lost = [job for job in outcome.jobs if was_lost(site, job, outcome)]

        assert any(job.kind == "held" for job in lost)
        assert len(lost) <= WORKER_PROCESSES
        prefect = site.prefect.apis[0]
        assert all("RUNNING" in prefect.state_times(job.id) for job in lost if job.id)
        assert {
            job.label: (outcome.statuses[job.label], site.starts(job.label))
            for job in outcome.jobs
            if job.id and job not in lost
            if outcome.statuses[job.label]["status"] != job.expected
        } == {}

    def test_clients_get_results_from_the_object_storage(
        self, site: Site, outcome: Outcome
    ) -> None:
        stored = site.storage.keys(BUCKET, "results/")
        successful = [
            job
            for job in outcome.jobs
            if job.expected == "successful" and not was_lost(site, job, outcome)
        ]

        assert {
            job.label: job.answer.text
            for job in successful
            if job.answer is not None and job.answer.text != job.label
        } == {}
        assert [
            job.label
            for job in successful
            if job.id and f"results/{job.id}/outputs.json" not in stored
        ] == []
        assert site.storage.unfinished_uploads(BUCKET) == []
        for kind, expected in (("short", None), ("large", "x" * LARGE_CHARACTERS)):
            job = next(job for job in successful if job.kind == kind)
            answer = site.web.get(f"/jobs/{job.id}/results", params={"f": "json"})
            assert answer.text == (expected or job.label)

    @pytest.mark.usefixtures("outcome")
    def test_no_machine_keeps_results_or_code_of_jobs(self, site: Site) -> None:
        first = next(machine for machine in site.machines if machine.name == "first")
        kept = {"uploaded_work.py", "outputs.json"}
        # what a job had in its directory is removed after its end
        eventually(lambda: kept.isdisjoint(path.name for path in first.directory.rglob("*")))
