"""A Redis server of the stand's own, which keeps everything in memory."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
from redis import Redis
from redis.exceptions import ConnectionError

from benchmarks.stand.ports import free_port
from benchmarks.stand.programs import Programs


@dataclass(frozen=True)
class RedisServer:
    """A running server.

    Attributes:
        url: Its address, without a database.
        process: It itself.
    """

    url: str
    process: psutil.Process


@contextlib.contextmanager
def redis_server(programs: Programs) -> Iterator[RedisServer]:
    """Run a Redis server inside the block.

    Raises:
        FileNotFoundError: It is not installed.
        RuntimeError: It does not answer.
    """
    if shutil.which("redis-server") is None:
        raise FileNotFoundError("Redis is not installed: there is no program redis-server")
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    client = Redis(host="127.0.0.1", port=port)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except ConnectionError:
            return False

    with (
        contextlib.closing(client),
        programs.run_command(f"redis-{port}", command, {}, answers) as child,
    ):
        yield RedisServer(f"redis://127.0.0.1:{port}", child.process)
