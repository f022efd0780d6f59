"""What tells a process of the operating system from all others, on all machines at all times."""

import functools
import socket
from pathlib import Path
from typing import Final

import psutil

# Linux derives the start time from the boot time, which moves when the clock is set
CLOCK_TOLERANCE_SECONDS: Final = 2.0


@functools.cache
def this_machine() -> str:
    """Return what only processes have in common that see each other.

    A host name does not tell: a container that is made anew has another one, and several that
    use the network of their host have the same.
    """
    host = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{host}/{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # another system than Linux
        return host


def started_at(pid: int) -> float | None:
    """Return when the process of that id started, in seconds since 1970.

    None without one. One that has ended, and waits for its parent to take note, is none.
    """
    try:
        process = psutil.Process(pid)
        return float(process.create_time()) if still_runs(process) else None
    except psutil.NoSuchProcess:
        return None


def still_runs(process: psutil.Process) -> bool:
    """Return whether it has not ended; one that waits for its parent to take note has."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_same_process(started: float, started_of_that_id: float | None) -> bool:
    """Return whether a process id still means the process that started then."""
    if started_of_that_id is None:
        return False
    return abs(started - started_of_that_id) <= CLOCK_TOLERANCE_SECONDS
