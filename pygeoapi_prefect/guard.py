"""Ends what is left of a stack whose command was killed: see `children.Guard`."""

import signal
import sys
import time

import psutil

from pygeoapi_prefect.children import end_processes, marked_processes

GRACE_SECONDS = 5.0
SETTLE_SECONDS = 0.2


def main(mark: str) -> None:
    """Wait for the end of standard input, then end all processes with this mark."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.stdin.buffer.read()
    while remaining := _find_remaining(mark):
        end_processes(remaining, GRACE_SECONDS)


def _find_remaining(mark: str) -> list[psutil.Process]:
    """Search twice: a process that is just being started has no environment for a moment."""
    found = marked_processes(mark)
    if not found:
        time.sleep(SETTLE_SECONDS)
        found = marked_processes(mark)
    return found


if __name__ == "__main__":
    main(sys.argv[1])
