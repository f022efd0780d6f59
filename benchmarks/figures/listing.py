"""Pages of the list of jobs, among many jobs and among few."""

import datetime as dt
from collections.abc import Callable
from functools import partial

import httpx

from benchmarks.measure import Timing, in_turn
from benchmarks.stand.archive import LONGEST_SECONDS
from benchmarks.stand.service import Process, Service
from benchmarks.table import Bound, Figure, Goal, Ratio

PAGE_JOBS = 100
FEW_JOBS = 1000
FEW, MANY = "few", "many"


def pages(now: dt.datetime) -> dict[str, dict[str, str]]:
    """Return the query parameters of the pages, by name."""
    day = dt.timedelta(days=1)
    before, after = ((now - days * day).strftime("%Y-%m-%dT%H:%M:%SZ") for days in (25, 10))
    short, long = str(LONGEST_SECONDS // 4), str(LONGEST_SECONDS // 2)
    return {
        "all": {},
        "offset=800": {"offset": "800"},
        "type": {"type": "process"},
        "processID": {"processID": Process.warm},
        "two processIDs": {"processID": f"{Process.warm},{Process.stock}"},
        "status=successful": {"status": "successful"},
        "status=failed": {"status": "failed"},
        "status=running,accepted": {"status": "running,accepted"},
        "datetime=a/b": {"datetime": f"{before}/{after}"},
        "datetime=../a": {"datetime": f"../{before}"},
        "minDuration": {"minDuration": long},
        "maxDuration": {"maxDuration": short},
        "minDuration, maxDuration": {"minDuration": short, "maxDuration": long},
        "status=running, minDuration": {"status": "running", "minDuration": short},
        "processID, status": {"processID": Process.warm, "status": "successful"},
        "processID, status, datetime": {
            "processID": Process.warm,
            "status": "successful",
            "datetime": f"{before}/..",
        },
        "processID, datetime, minDuration, offset=100": {
            "processID": Process.warm,
            "datetime": f"{before}/..",
            "minDuration": short,
            "offset": "100",
        },
    }


def measure(
    few: Service, many: Service, rounds: int, on_round: Callable[[int], None]
) -> dict[str, dict[str, Timing]]:
    """Time each page among few jobs and among many, by the name of the page.

    Raises:
        RuntimeError: A page has more jobs among many than among few.
    """
    found = pages(dt.datetime.now(dt.UTC))
    services = {FEW: few, MANY: many}
    for name, parameters in found.items():
        sizes = {_get(one.web, parameters) for one in services.values()}
        if len(sizes) != 1:
            raise RuntimeError(f"the pages {name!r} have different sizes: {sizes}")
    timings = in_turn(
        {
            f"{size} {name}": partial(_get, services[size].web, parameters)
            for name, parameters in found.items()
            for size in services
        },
        rounds=rounds,
        on_round=on_round,
    )
    return {name: {size: timings[f"{size} {name}"] for size in services} for name in found}


def figures(timings: dict[str, dict[str, Timing]], jobs: int) -> list[Figure]:
    """Return the figures of `measure`."""
    return [
        Figure(
            f"/jobs?limit={PAGE_JOBS} among {jobs:,} jobs",
            name,
            page[MANY].median_ms,
            "ms",
            Ratio(page[MANY].median_ms / page[FEW].median_ms, f"among {FEW_JOBS:,}"),
            Goal(Bound.at_most, 3),
        )
        for name, page in timings.items()
    ]


def _get(web: httpx.Client, parameters: dict[str, str]) -> int:
    query = {"f": "json", "limit": str(PAGE_JOBS), **parameters}
    page = web.get("/jobs", params=query).raise_for_status().json()
    return int(page["numberReturned"])
