"""The reference: HelloWorld in a bare call of a Prefect flow, in a process of its own.

`python -m benchmarks.stand.bare_flow` calls the flow as often as each line of its input
says, and answers with a line: how many seconds each call took, as a JSON list.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil

from benchmarks.stand.programs import Programs
from benchmarks.stand.service import PrefectServer


class BareFlow:
    """A process that calls the flow, one call after the other.

    Attributes:
        process: That process.
    """

    def __init__(self, process: psutil.Popen) -> None:
        self.process = process

    def begin(self, calls: int) -> None:
        """Have it called so many times; `end` waits for that."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()

    def end(self) -> list[float]:
        """Return how many seconds each of the calls took. Raises `RuntimeError` if one failed."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process that calls the bare flow has ended")
        seconds: list[float] = json.loads(line)
        return seconds

    def call(self) -> None:
        """Call it once."""
        self.begin(1)
        self.end()


@contextlib.contextmanager
def bare_flow(programs: Programs, prefect: PrefectServer) -> Iterator[BareFlow]:
    """Run a process for bare calls inside the block."""
    process = psutil.Popen(
        [sys.executable, "-m", __name__],
        env=programs.environment | prefect.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        flow = BareFlow(process)
        flow.call()
        yield flow
        assert process.stdin is not None
        process.stdin.close()


def main() -> None:
    """Serve until the input ends."""
    # Prefect reads its settings on import
    from prefect import flow
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from pygeoapi.process.hello_world import HelloWorldProcessor

    processor = HelloWorldProcessor({"name": "HelloWorld"})

    @flow
    def hello_world(inputs: dict[str, Any]) -> tuple[str, Any]:
        answer: tuple[str, Any] = processor.execute(inputs)
        return answer

    # every flow would else wait at its end, up to a second, for the thread that sends them
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        for line in sys.stdin:
            seconds = []
            for _ in range(int(line)):
                start = time.perf_counter()
                hello_world({"name": "World"})
                seconds.append(time.perf_counter() - start)
            print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
