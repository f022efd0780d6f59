"""A Prefect server of several processes: those of its API, and one for all that runs beside."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil

from benchmarks.stand.programs import Programs
from benchmarks.stand.service import PrefectServer, prefect_server


@dataclass(frozen=True)
class PrefectServers:
    """The processes.

    Attributes:
        apis: Each answers all that the others answer.
        services: What schedules runs, records events, and looks after workers.
    """

    apis: list[PrefectServer]
    services: psutil.Process


def shared_through(redis_url: str) -> dict[str, str]:
    """Return the variables by which processes of one Prefect server tell each other things.

    Args:
        redis_url: Address of a Redis server, without a database.
    """
    return {
        "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
        "PREFECT_REDIS_MESSAGING_URL": f"{redis_url}/0",
        "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": f"{redis_url}/0",
        "PREFECT_SERVER_DOCKET_URL": f"{redis_url}/1",
    }


@contextlib.contextmanager
def prefect_servers(
    programs: Programs,
    home: Path,
    database_url: str,
    redis_url: str,
    *,
    apis: int = 2,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[PrefectServers]:
    """Run a Prefect server of several processes inside the block.

    Args:
        programs: Of which they are some.
        home: Where each has a folder for its files.
        database_url: Where they keep their runs, in PostgreSQL.
        redis_url: Address of a Redis server, without a database.
        apis: How many processes answer the API.
        variables: More of their environment.
    """
    shared = {**shared_through(redis_url), **variables}
    with contextlib.ExitStack() as exits:
        servers = []
        for number in range(apis):
            folder = home / f"prefect-{number}"
            folder.mkdir()
            # one after the other: the first one makes the tables
            servers.append(
                exits.enter_context(
                    prefect_server(
                        programs,
                        folder,
                        database_url,
                        variables=shared,
                        options=["--no-services"],
                    )
                )
            )
        folder = home / "prefect-services"
        folder.mkdir()
        environment = {
            **servers[0].environment,
            **shared,
            "PREFECT_HOME": str(folder),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
        }
        command = ["-m", "prefect", "server", "services", "start"]
        services = exits.enter_context(
            programs.run("prefect-services", command, environment, lambda: True)
        )
        yield PrefectServers(servers, services.process)
