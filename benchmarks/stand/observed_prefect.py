"""A Prefect server that notes each call of its API, and how long it worked on it.

`python -m benchmarks.stand.observed_prefect PORT FILE` appends a JSON object per call.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import UUID


@dataclass(frozen=True)
class Call:
    """A call of the Prefect API.

    Attributes:
        client_port: From which it came.
        name: Method and path, ids left out.
        seconds: From its arrival to the end of the answer.
    """

    client_port: int
    name: str
    seconds: float


def read_calls(path: Path) -> Iterator[Call]:
    """Yield the calls that were noted so far."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield Call(**json.loads(line))


class _Observed:
    """An ASGI application around another one."""

    def __init__(self, application: Any, file: IO[str]) -> None:
        self._application = application
        self._file = file

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        start = time.perf_counter()
        await self._application(scope, receive, send)
        call = {
            "client_port": scope["client"][1],
            "name": f"{scope['method']} {_without_ids(scope['path'])}",
            "seconds": time.perf_counter() - start,
        }
        self._file.write(json.dumps(call) + "\n")
        self._file.flush()


def _without_ids(path: str) -> str:
    return "/".join("{id}" if _is_id(part) else part for part in path.split("/"))


def _is_id(part: str) -> bool:
    try:
        UUID(part)
    except ValueError:
        return False
    return True


def main(port: int, path: Path) -> None:
    """Serve until a signal ends it."""
    # Prefect reads its settings on import
    os.environ["PREFECT__SERVER_FINAL"] = "1"
    import uvicorn
    from prefect.server.api.server import create_app

    with path.open("a", encoding="utf-8") as file:
        uvicorn.run(
            _Observed(create_app(final=True), file),
            host="127.0.0.1",
            port=port,
            log_level="warning",
            lifespan="on",
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
