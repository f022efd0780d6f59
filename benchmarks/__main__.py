"""Run the benchmarks: `python -m benchmarks`, or `make bench`."""

import contextlib
import dataclasses
import json
import os
import platform
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console

from benchmarks.figures import profile
from benchmarks.progress import Steps
from benchmarks.stand.service import Database
from benchmarks.suite import Findings, Options, Part, Suite
from benchmarks.table import table_of

count = click.IntRange(1)


@click.command(context_settings={"show_default": True})
@click.option(
    "--part",
    "parts",
    type=click.Choice([part.value for part in Part]),
    multiple=True,
    default=[part.value for part in Part],
    help="What to measure; may be repeated.",
)
@click.option(
    "--database",
    "databases",
    type=click.Choice([database.value for database in Database]),
    multiple=True,
    default=[database.value for database in Database],
    help="On which database; may be repeated. Queue and profile: on the first one "
    "alone; listing and server: on PostgreSQL alone.",
)
@click.option("--rounds", type=count, default=40, help="How often each call is timed.")
@click.option("--stock-rounds", type=count, default=4, help="The same with the stock worker.")
@click.option("--burst-rounds", type=count, default=5, help="Bursts on each database, in turn.")
@click.option("--burst-jobs", type=count, default=100, help="Jobs in a burst.")
@click.option("--stock-jobs", type=count, default=8, help="The same with the stock worker.")
@click.option("--queued-jobs", type=click.IntRange(20), default=1000, help="Jobs in the queue.")
@click.option("--listed-jobs", type=click.IntRange(1000), default=100_000, help="Jobs in the list.")
@click.option("--list-rounds", type=count, default=8, help="How often each page of it is timed.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, writable=True, resolve_path=True, path_type=Path),
    help="Where to write what came out, for programs.",
)
def main(
    parts: tuple[str, ...], databases: tuple[str, ...], json_path: Path | None, **counts: int
) -> None:
    """Measure this package against the stock worker and the bare flow, side by side."""
    options = Options(
        parts=frozenset(map(Part, parts)),
        databases=tuple(dict.fromkeys(map(Database, databases))),
        **counts,
    )
    # ends like Ctrl-C: nothing stays behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console()
    steps = Steps(Console(stderr=True))
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="benchmarks-") as directory,
        # programs of this package keep files in the current directory
        contextlib.chdir(directory),
        steps.shown(),
    ):
        suite = Suite(options, steps, Path(directory))
        try:
            suite.run()
        finally:
            # what was measured before something went wrong took its time
            machine = _machine() | {"minutes": round((time.monotonic() - start) / 60, 1)}
            _show(console, suite.findings, machine)
            if json_path is not None:
                json_path.write_text(
                    json.dumps(_document(machine, suite.findings), indent=2) + "\n"
                )


def _show(console: Console, findings: Findings, machine: dict[str, Any]) -> None:
    console.print(table_of(findings.figures))
    if findings.profile is not None:
        for table in profile.tables(findings.profile):
            console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))


def _machine() -> dict[str, Any]:
    packages = ("pygeoapi-prefect", "prefect", "pygeoapi")
    return {
        "cores": os.cpu_count(),
        "memory in GB": round(psutil.virtual_memory().total / 1e9),
        "Python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _document(machine: dict[str, Any], findings: Findings) -> dict[str, Any]:
    return {
        "machine": machine,
        "figures": [figure.as_document() for figure in findings.figures],
        "profile": findings.profile and dataclasses.asdict(findings.profile),
    }


if __name__ == "__main__":
    main()
