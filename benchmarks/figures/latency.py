"""How long one job takes, seen by its client."""

from collections.abc import Callable

from benchmarks.measure import Timing, in_turn
from benchmarks.stand.bare_flow import BareFlow
from benchmarks.stand.service import Process, Service
from benchmarks.table import Bound, Figure, Goal, Ratio

BARE = "bare flow() call"
ASYNC = "async: request to successful"
SYNC_DEPLOYED = "sync, deployed process"
SYNC_WEB = "sync, in the web server"
STOCK = "stock worker, async"


def measure(
    service: Service, bare: BareFlow, rounds: int, on_round: Callable[[int], None]
) -> dict[str, Timing]:
    """Time jobs of the web server and of this package's worker, which must run."""
    return in_turn(
        {
            BARE: bare.call,
            ASYNC: lambda: service.execute_and_wait(Process.warm),
            SYNC_DEPLOYED: lambda: service.execute(Process.warm, "wait=60"),
            SYNC_WEB: lambda: service.execute(Process.web, "wait=60"),
        },
        rounds=rounds,
        on_round=on_round,
    )


def measure_stock(
    service: Service, bare: BareFlow, rounds: int, on_round: Callable[[int], None]
) -> dict[str, Timing]:
    """Time jobs of Prefect's process worker, which must run."""
    return in_turn(
        {BARE: bare.call, STOCK: lambda: service.execute_and_wait(Process.stock)},
        rounds=rounds,
        on_round=on_round,
        warm_up=1,
    )


def figures(group: str, timings: dict[str, Timing]) -> list[Figure]:
    """Return the figures of `measure`."""
    bare, own = timings[BARE].median_ms, timings[ASYNC].median_ms

    def median(name: str, goal: float) -> Figure:
        value = timings[name].median_ms
        return Figure(
            group,
            f"{name}, median",
            value,
            "ms",
            Ratio(value / bare, BARE),
            Goal(Bound.at_most, goal),
        )

    return [
        Figure(group, f"{BARE}, median", bare, "ms"),
        median(ASYNC, 2.0),
        Figure(
            group,
            f"{ASYNC}, p95",
            timings[ASYNC].p95_ms,
            "ms",
            Ratio(timings[ASYNC].p95_ms / own, "its median"),
            Goal(Bound.at_most, 2.0),
        ),
        median(SYNC_DEPLOYED, 2.0),
        median(SYNC_WEB, 1.5),
    ]


def stock_figures(group: str, timings: dict[str, Timing]) -> list[Figure]:
    """Return the figures of `measure_stock`."""
    value = timings[STOCK].median_ms
    return [
        Figure(
            group,
            f"{STOCK}, median",
            value,
            "ms",
            Ratio(value / timings[BARE].median_ms, BARE),
        )
    ]
