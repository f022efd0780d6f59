"""How many jobs a second there are, when many come at once."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

from benchmarks.stand.bare_flow import BareFlow
from benchmarks.stand.service import PROCESSES, Database, EndedRun, Process, Service
from benchmarks.table import Bound, Figure, Goal, Ratio

CLIENTS = 4
POLL_SECONDS = 0.5
ENDED = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
LONGEST_SECONDS = 900.0
TWO_LOOPS = f"{PROCESSES} bare flow() loops"


@dataclass(frozen=True)
class Burst:
    """What became of a burst of jobs.

    Attributes:
        jobs_per_second: From the first request to the end of the last job.
        failed: How many jobs did not end as successful.
        bare_per_second: Rate of as many loops of bare calls as there are processes.
    """

    jobs_per_second: float
    failed: int
    bare_per_second: float


def measure(
    service: Service,
    process: Process,
    bare: Sequence[BareFlow],
    jobs: int,
    on_end: Callable[[int], None],
) -> Burst:
    """Send jobs as fast as some clients can, and wait until all have ended.

    Half of the bare calls go before, and half after.

    Args:
        service: Whose worker must run.
        process: Whose jobs.
        bare: What calls the bare flow, as many at once as there are processes.
        jobs: How many.
        on_end: Told how many have ended, now and then.
    """
    calls = max(jobs // len(bare) // 2, 1)
    seconds = _loop(bare, calls)
    began = time.time()
    send(service, process, jobs)
    runs = wait_for_ends(service, process, jobs, began, on_end)
    seconds += _loop(bare, calls)
    return Burst(
        jobs_per_second=jobs / (runs[-1].ended - began),
        failed=sum(run.state_type != "COMPLETED" for run in runs),
        bare_per_second=2 * calls * len(bare) / seconds,
    )


def send(service: Service, process: Process, jobs: int) -> None:
    """Send asynchronous execute requests from some clients at once."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = [clients.submit(service.execute, process, "respond-async") for _ in range(jobs)]
        for answer in answers:
            answer.result()


def wait_for_ends(
    service: Service, process: Process, jobs: int, since: float, on_end: Callable[[int], None]
) -> list[EndedRun]:
    """Wait until so many jobs of a process, made since then, have ended; return their runs.

    Raises:
        RuntimeError: They do not.
    """
    unfinished = frozenset({"SCHEDULED", "PENDING", "RUNNING"})
    give_up_at = time.monotonic() + LONGEST_SECONDS
    while left := service.prefect.count_runs(process, unfinished):
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"{left} jobs did not end within {LONGEST_SECONDS:.0f} s")
        on_end(jobs - left)
        time.sleep(POLL_SECONDS)
    on_end(jobs)
    runs = service.prefect.ended_runs(process, since)
    if len(runs) != jobs:
        raise RuntimeError(f"of {jobs} jobs, {len(runs)} ended")
    return runs


def figures(group: str, bursts: Sequence[Burst], jobs: int) -> list[Figure]:
    """Return the figures of bursts of this package's worker: medians, and all failures."""
    failed = sum(burst.failed for burst in bursts)
    return [
        Figure(group, TWO_LOOPS, median(burst.bare_per_second for burst in bursts), "/s"),
        Figure(
            group,
            f"burst of {jobs} async jobs",
            median(burst.jobs_per_second for burst in bursts),
            "/s",
            Ratio(
                median(burst.jobs_per_second / burst.bare_per_second for burst in bursts), TWO_LOOPS
            ),
            Goal(Bound.at_least, 0.5),
        ),
        Figure(
            group,
            f"  failed jobs, of {jobs * len(bursts)}",
            failed,
            "",
            goal=Goal(Bound.at_most, 0),
        ),
    ]


def stock_figures(group: str, burst: Burst, jobs: int) -> list[Figure]:
    """Return the figures of a burst of the stock worker."""
    return [
        Figure(
            group,
            f"stock worker, burst of {jobs}",
            burst.jobs_per_second,
            "/s",
            Ratio(burst.jobs_per_second / burst.bare_per_second, TWO_LOOPS),
        )
    ]


def comparison(bursts: Mapping[Database, Sequence[Burst]]) -> list[Figure]:
    """Return how SQLite compares to PostgreSQL, where both were measured in turn."""
    if not {Database.sqlite, Database.postgresql} <= bursts.keys():
        return []
    sqlite, postgresql = bursts[Database.sqlite], bursts[Database.postgresql]
    ratios = [
        one.jobs_per_second / other.jobs_per_second
        for one, other in zip(sqlite, postgresql, strict=True)
    ]
    return [
        Figure(
            Database.sqlite,
            "burst, against PostgreSQL",
            median(burst.jobs_per_second for burst in sqlite),
            "/s",
            Ratio(median(ratios), "PostgreSQL"),
            Goal(Bound.at_least, 0.5),
        )
    ]


def _loop(bare: Sequence[BareFlow], calls: int) -> float:
    """Have all call the flow so many times, and return how long it takes."""
    start = time.perf_counter()
    for one in bare:
        one.begin(calls)
    for one in bare:
        one.end()
    return time.perf_counter() - start
