"""What a job costs the parts of a service that all jobs share: processor time, and room."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from benchmarks.figures.burst import send, wait_for_ends
from benchmarks.stand.postgres import Postgres
from benchmarks.stand.service import Process, Service
from benchmarks.table import Figure

LOOKS = 200
"""How often a job's status is asked for."""
IDLE_SECONDS = 20.0


@dataclass(frozen=True)
class Costs:
    """What it costs, by the name of the part.

    Attributes:
        job_ms: Processor time for each job of a burst.
        look_ms: The same for each look of a client at its job.
        idle_ms: The same for each second in which nothing happens.
        job_bytes: By which the database grows with each job.
        failed: How many of the jobs did not end as successful.
    """

    job_ms: Mapping[str, float]
    look_ms: Mapping[str, float]
    idle_ms: Mapping[str, float]
    job_bytes: float
    failed: int


def measure(
    service: Service,
    parts: Mapping[str, psutil.Process],
    database: tuple[Postgres, str],
    jobs: int,
    on_end: Callable[[int], None],
) -> Costs:
    """Run a burst of jobs, look at one of them, and then do nothing for a while.

    Args:
        service: Whose worker must run.
        parts: The programs whose time is taken, with all that they have started.
        database: Of the Prefect server: where it is, and its name.
        jobs: How many.
        on_end: Told how many have ended, now and then.
    """
    size = _size(*database)
    began = time.time()
    before = _seconds(parts)
    send(service, Process.warm, jobs)
    runs = wait_for_ends(service, Process.warm, jobs, began, on_end)
    job_ms = _each_ms(before, _seconds(parts), jobs)
    job_bytes = (_size(*database) - size) / jobs
    # one that has ended: others are read from Prefect twice a second at most
    job_id = service.execute_and_wait(Process.warm).job_id
    before = _seconds(parts)
    for _ in range(LOOKS):
        service.web.get(f"/jobs/{job_id}", params={"f": "json"}).raise_for_status()
    look_ms = _each_ms(before, _seconds(parts), LOOKS)
    before = _seconds(parts)
    time.sleep(IDLE_SECONDS)
    return Costs(
        job_ms=job_ms,
        look_ms=look_ms,
        idle_ms=_each_ms(before, _seconds(parts), IDLE_SECONDS),
        job_bytes=job_bytes,
        failed=sum(run.state_type != "COMPLETED" for run in runs),
    )


def figures(layout: str, costs: Costs, jobs: int) -> list[Figure]:
    """Return the figures of `measure`.

    Args:
        layout: Of which parts the Prefect server is made.
        costs: What came out.
        jobs: How many jobs there were.
    """
    group = f"processor time, {layout}"
    return [
        *(
            Figure(group, f"{name}, for each of {jobs} jobs", value, "ms")
            for name, value in costs.job_ms.items()
        ),
        *(
            Figure(group, f"{name}, for each look at a job", value, "ms")
            for name, value in costs.look_ms.items()
        ),
        *(
            Figure(group, f"{name}, for each idle second", value, "ms")
            for name, value in costs.idle_ms.items()
        ),
        Figure(group, "database, for each job", costs.job_bytes / 1000, "kB"),
        Figure(group, "failed jobs", costs.failed, ""),
    ]


def _size(cluster: Postgres, name: str) -> int:
    return int(cluster.execute(name, f"SELECT pg_database_size('{name}')"))


def _seconds(parts: Mapping[str, psutil.Process]) -> dict[str, float]:
    return {
        name: sum(map(_tree_seconds, [root, *root.children(recursive=True)]))
        for name, root in parts.items()
    }


def _tree_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process, and of its children that have ended."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:  # its parent has the time by now
        return 0.0


def _each_ms(
    before: Mapping[str, float], after: Mapping[str, float], times: float
) -> dict[str, float]:
    return {name: (after[name] - before[name]) / times * 1000 for name in before}
