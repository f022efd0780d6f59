"""What a warm process keeps for itself."""

import os
from dataclasses import dataclass

import psutil

from benchmarks.table import Bound, Figure, Goal

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class ProcessMemory:
    """Memory of one process, in MB.

    Attributes:
        private: Its alone (USS): what would be free if it ended. Pages that it has from the
            process it was forked from, and never wrote to, are not among it.
        proportional: That, and its share of what it shares (PSS).
    """

    private: float
    proportional: float


def memory_of(process: psutil.Process) -> ProcessMemory:
    """Return the memory of a process. Linux only for `proportional`; 0 elsewhere."""
    memory = process.memory_full_info()
    return ProcessMemory(memory.uss / MEGABYTE, getattr(memory, "pss", 0) / MEGABYTE)


def warm_processes(worker: psutil.Process) -> list[psutil.Process]:
    """Return the warm processes of a worker: of all that it started, they alone lead sessions."""
    return [
        process
        for process in worker.children(recursive=True)
        if os.getsid(process.pid) == process.pid
    ]


def measure(worker: psutil.Process) -> list[ProcessMemory]:
    """Return the memory of each warm process of a worker."""
    return [memory_of(process) for process in warm_processes(worker)]


def figures(group: str, processes: list[ProcessMemory]) -> list[Figure]:
    """Return the figures of the largest warm process."""
    return [
        Figure(
            group,
            "warm process, private memory (USS)",
            max(process.private for process in processes),
            "MB",
            goal=Goal(Bound.at_most, 120),
        ),
        Figure(
            group,
            "warm process, proportional memory (PSS)",
            max(process.proportional for process in processes),
            "MB",
        ),
    ]
