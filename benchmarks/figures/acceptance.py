"""What it costs the web server to accept an asynchronous job."""

from collections.abc import Callable

from benchmarks.measure import Timing, in_turn
from benchmarks.stand.service import Process, Service
from benchmarks.table import Bound, Figure, Goal, Ratio

ACCEPT = "async: request to 201"
CREATE = "one create-run call"


def measure(service: Service, rounds: int, on_round: Callable[[int], None]) -> dict[str, Timing]:
    """Time the acceptance of jobs, and the one call of the Prefect API that it cannot spare."""
    create = f"/deployments/{service.prefect.deployment_id(Process.unserved)}/create_flow_run"
    tags = {"tags": [f"pygeoapi_process:{Process.unserved}"]}
    timings = in_turn(
        {
            CREATE: lambda: service.prefect.post(create, tags),
            ACCEPT: lambda: service.execute(Process.unserved, "respond-async"),
        },
        rounds=rounds,
        on_round=on_round,
    )
    # Prefect would mark each of them as late, while others are measured
    service.prefect.delete_runs(Process.unserved)
    return timings


def figures(group: str, timings: dict[str, Timing]) -> list[Figure]:
    """Return the figures of `measure`."""
    create, accept = timings[CREATE].median_ms, timings[ACCEPT].median_ms
    return [
        Figure(group, f"{CREATE}, median", create, "ms"),
        Figure(
            group,
            f"{ACCEPT}, median",
            accept,
            "ms",
            Ratio(accept / create, CREATE),
            Goal(Bound.at_most, 2.0),
        ),
    ]
