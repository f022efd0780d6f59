"""Many jobs that wait: whether all of them run, and the last ones as fast as the first."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from benchmarks.figures.burst import send, wait_for_ends
from benchmarks.figures.memory import memory_of
from benchmarks.measure import rate
from benchmarks.stand.service import Process, Service
from benchmarks.table import Bound, Figure, Goal, Ratio

ENDS = 10
"""The first and last ones are one of so many."""


@dataclass(frozen=True)
class Queue:
    """What became of queued jobs.

    Attributes:
        jobs: How many there were.
        successful: How many of them ended so.
        first_per_second: Rate of the first tenth of them.
        last_per_second: Rate of the last tenth.
        first_memory: Private memory of the worker in MB, after the first tenth.
        last_memory: The same after all.
    """

    jobs: int
    successful: int
    first_per_second: float
    last_per_second: float
    first_memory: float
    last_memory: float


def measure(
    service: Service, worker: psutil.Process, jobs: int, on_end: Callable[[int], None]
) -> Queue:
    """Queue jobs while the work pool is paused, and have them run.

    Args:
        service: Whose worker runs.
        worker: That worker.
        jobs: How many.
        on_end: Told how many have ended, now and then.
    """
    tenth = max(jobs // ENDS, 2)
    memory: list[float] = []

    def observe(ended: int) -> None:
        if ended >= tenth and not memory:
            memory.append(memory_of(worker).private)
        on_end(ended)

    began = time.time()
    with service.paused():
        send(service, Process.warm, jobs)
    runs = wait_for_ends(service, Process.warm, jobs, began, observe)
    ends = [run.ended for run in runs]
    return Queue(
        jobs=jobs,
        successful=sum(run.state_type == "COMPLETED" for run in runs),
        first_per_second=rate(ends[:tenth]),
        last_per_second=rate(ends[-tenth:]),
        first_memory=memory[0],
        last_memory=memory_of(worker).private,
    )


def figures(group: str, queue: Queue) -> list[Figure]:
    """Return the figures of queued jobs."""
    tenth = queue.jobs // ENDS
    return [
        Figure(
            group,
            f"{queue.jobs} queued jobs: successful",
            queue.successful,
            "",
            goal=Goal(Bound.at_least, queue.jobs),
        ),
        Figure(group, f"  the first {tenth}", queue.first_per_second, "/s"),
        Figure(
            group,
            f"  the last {tenth}",
            queue.last_per_second,
            "/s",
            Ratio(queue.last_per_second / queue.first_per_second, "the first"),
            Goal(Bound.at_least, 0.9),
        ),
        Figure(
            group,
            "  memory of the worker, at the end",
            queue.last_memory,
            "MB",
            Ratio(queue.last_memory / queue.first_memory, f"after {tenth}"),
            Goal(Bound.at_most, 1.1),
        ),
    ]
