"""Which benchmarks there are, what each needs, and in which order they run."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import psutil

from benchmarks.figures import (
    acceptance,
    burst,
    latency,
    listing,
    memory,
    profile,
    queue,
    server,
)
from benchmarks.figures.profile import Profile
from benchmarks.progress import Steps
from benchmarks.stand import archive
from benchmarks.stand.api_processes import prefect_servers
from benchmarks.stand.bare_flow import BareFlow, bare_flow
from benchmarks.stand.postgres import Postgres, postgres
from benchmarks.stand.programs import Programs
from benchmarks.stand.redis_server import redis_server
from benchmarks.stand.service import (
    PROCESSES,
    Database,
    PrefectServer,
    Process,
    Service,
    deploy,
    prefect_server,
    service,
)
from benchmarks.table import Figure


class Part(StrEnum):
    """What can be measured."""

    latency = "latency"
    acceptance = "acceptance"
    memory = "memory"
    burst = "burst"
    queue = "queue"
    stock = "stock"
    listing = "listing"
    server = "server"
    profile = "profile"


COMPARED = frozenset({Part.latency, Part.acceptance, Part.memory, Part.queue, Part.stock})
"""What is measured on one and the same stand."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and how often.

    Attributes:
        parts: What.
        databases: On which databases. `queue` and `profile` are measured on the first alone,
            `listing` and `server` on PostgreSQL alone.
        rounds: How often each call is timed.
        stock_rounds: The same with the stock worker, which takes seconds for each job.
        burst_rounds: How many bursts there are on each database, in turn.
        burst_jobs: Jobs in a burst.
        stock_jobs: The same with the stock worker.
        queued_jobs: Jobs in the queue.
        listed_jobs: Jobs among which pages are listed.
        list_rounds: How often each page is timed.
    """

    parts: frozenset[Part]
    databases: tuple[Database, ...]
    rounds: int
    stock_rounds: int
    burst_rounds: int
    burst_jobs: int
    stock_jobs: int
    queued_jobs: int
    listed_jobs: int
    list_rounds: int


@dataclass
class Findings:
    """What came out.

    Attributes:
        figures: Those of the table.
        profile: Where the time of a job goes, if that was asked.
    """

    figures: list[Figure] = field(default_factory=list)
    profile: Profile | None = None


class Suite:
    """One run of the benchmarks.

    Args:
        options: What to do.
        steps: Where it is shown.
        home: An empty directory, which is the current one.

    Attributes:
        findings: What has come out so far.
    """

    def __init__(self, options: Options, steps: Steps, home: Path) -> None:
        self._options = options
        self._steps = steps
        self._home = home
        self._programs = Programs(home)
        self.findings = Findings()

    def run(self) -> None:
        """Measure everything that was asked."""
        with self._programs.running(), contextlib.ExitStack() as exits:
            cluster = None
            if Database.postgresql in self._options.databases:
                with self._steps.step("start PostgreSQL"):
                    cluster = exits.enter_context(postgres(self._programs.environment))
            if COMPARED & self._options.parts:
                for database in self._options.databases:
                    self._compare(database, cluster)
            if Part.burst in self._options.parts:
                self._burst(cluster)
            if Part.listing in self._options.parts and cluster is not None:
                self._list(cluster)
            if Part.server in self._options.parts and cluster is not None:
                self._serve_from_one_process(cluster)
                self._serve_from_several(cluster)
            if Part.profile in self._options.parts:
                self._profile(self._options.databases[0], cluster)

    def _compare(self, database: Database, cluster: Postgres | None) -> None:
        """Measure the workers and the bare flow on one database."""
        options, parts = self._options, self._options.parts
        with self._service(database, cluster, "compare") as (found, bare):
            if Part.acceptance in parts:
                with self._steps.step(f"{database}: acceptance", options.rounds) as advance:
                    timings = acceptance.measure(found, options.rounds, advance)
                self._add(acceptance.figures(database, timings))
            with contextlib.ExitStack() as exits:
                with self._steps.step(f"{database}: start the worker"):
                    worker = exits.enter_context(found.worker())
                self._measure_worker(database, found, bare[0], worker)
            if Part.stock in parts:
                with contextlib.ExitStack() as exits:
                    with self._steps.step(f"{database}: start the stock worker"):
                        exits.enter_context(found.stock_worker())
                    self._measure_stock_worker(database, found, bare)

    def _measure_worker(
        self, database: Database, found: Service, bare: BareFlow, worker: psutil.Process
    ) -> None:
        options, parts = self._options, self._options.parts
        if Part.latency in parts:
            with self._steps.step(f"{database}: latency", options.rounds) as advance:
                timings = latency.measure(found, bare, options.rounds, advance)
            self._add(latency.figures(database, timings))
        if Part.memory in parts:
            self._add(memory.figures(database, memory.measure(worker)))
        if Part.queue in parts and database is options.databases[0]:
            with self._steps.step(f"{database}: queue", options.queued_jobs) as advance:
                many = queue.measure(found, worker, options.queued_jobs, advance)
            self._add(queue.figures(database, many))

    def _measure_stock_worker(
        self, database: Database, found: Service, bare: Sequence[BareFlow]
    ) -> None:
        options = self._options
        with self._steps.step(f"{database}: stock, latency", options.stock_rounds) as advance:
            timings = latency.measure_stock(found, bare[0], options.stock_rounds, advance)
        self._add(latency.stock_figures(database, timings))
        with self._steps.step(f"{database}: stock, burst", options.stock_jobs) as advance:
            one = burst.measure(found, Process.stock, bare, options.stock_jobs, advance)
        self._add(burst.stock_figures(database, one, options.stock_jobs))

    def _burst(self, cluster: Postgres | None) -> None:
        """Measure bursts on all databases in turn, as machines have slow minutes too."""
        jobs = self._options.burst_jobs
        stands: dict[Database, tuple[Service, Sequence[BareFlow]]] = {}
        bursts: dict[Database, list[burst.Burst]] = {}
        with contextlib.ExitStack() as exits:
            for database in self._options.databases:
                stands[database] = exits.enter_context(self._service(database, cluster, "burst"))
            for database, (found, _) in stands.items():
                with self._steps.step(f"{database}: start the worker"):
                    exits.enter_context(found.worker())
            for number in range(1, self._options.burst_rounds + 1):
                for database, (found, bare) in stands.items():
                    with self._steps.step(f"{database}: burst {number}", jobs) as advance:
                        one = burst.measure(found, Process.warm, bare, jobs, advance)
                    bursts.setdefault(database, []).append(one)
        for database, some in bursts.items():
            self._add(burst.figures(database, some, jobs))
        self._add(burst.comparison(bursts))

    def _list(self, cluster: Postgres) -> None:
        """Measure pages of jobs on two stands, which differ in the number of jobs."""
        options = self._options
        with self._steps.step("listing: a few jobs"):
            cluster.create_database("listing")
            home = self._new_home("listing")
            with prefect_server(self._programs, home, cluster.url("listing")) as prefect:
                deploy(self._programs, home, prefect)
                with service(self._programs, home, prefect) as found:
                    archive.make_originals(found)
        with contextlib.ExitStack() as exits:
            few = exits.enter_context(self._listing_service(cluster, listing.FEW_JOBS))
            many = exits.enter_context(self._listing_service(cluster, options.listed_jobs))
            with self._steps.step("listing: pages", options.list_rounds) as advance:
                timings = listing.measure(few, many, options.list_rounds, advance)
        self._add(listing.figures(timings, options.listed_jobs))

    @contextlib.contextmanager
    def _listing_service(self, cluster: Postgres, jobs: int) -> Iterator[Service]:
        name = f"listing-{jobs}"
        home = self._new_home(name)
        with contextlib.ExitStack() as exits:
            with self._steps.step(f"listing: {jobs:,} jobs"):
                cluster.create_database(name, like="listing")
                archive.fill(cluster, name, jobs)
            with self._steps.step("listing: start Prefect and the web server"):
                prefect = exits.enter_context(
                    prefect_server(
                        self._programs,
                        home,
                        cluster.url(name),
                        # many of the jobs wait, and nobody is there to run them
                        variables={"PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false"},
                    )
                )
                found = exits.enter_context(service(self._programs, home, prefect))
            yield found

    def _serve_from_one_process(self, cluster: Postgres) -> None:
        """Measure what a job costs a Prefect server of one process."""
        home = self._new_home("one-process")
        cluster.create_database(home.name)
        with contextlib.ExitStack() as exits:
            with self._steps.step("server: start Prefect"):
                url = cluster.url(home.name)
                prefect = exits.enter_context(prefect_server(self._programs, home, url))
            parts = {"Prefect": prefect.process}
            self._cost("one process", home, (prefect, prefect), parts, cluster)

    def _serve_from_several(self, cluster: Postgres) -> None:
        """Measure the same with a web server and a worker at two processes of the API."""
        home = self._new_home("several-processes")
        cluster.create_database(home.name)
        with contextlib.ExitStack() as exits:
            with self._steps.step("server: start Redis and Prefect"):
                redis = exits.enter_context(redis_server(self._programs))
                url = cluster.url(home.name)
                servers = exits.enter_context(prefect_servers(self._programs, home, url, redis.url))
            near, far = servers.apis
            parts = {
                "Prefect API, of the web server": near.process,
                "Prefect API, of the worker": far.process,
                "Prefect services": servers.services,
                "Redis": redis.process,
            }
            self._cost("two API processes", home, (near, far), parts, cluster)

    def _cost(
        self,
        layout: str,
        home: Path,
        prefect: tuple[PrefectServer, PrefectServer],
        parts: Mapping[str, psutil.Process],
        cluster: Postgres,
    ) -> None:
        """Measure costs, with a web server and a worker that each have a Prefect server."""
        near, far = prefect
        with contextlib.ExitStack() as exits:
            with self._steps.step(f"server, {layout}: start the web server and the worker"):
                deploy(self._programs, home, near)
                found = exits.enter_context(service(self._programs, home, near))
                of_worker = Service(self._programs, far, str(found.web.base_url))
                worker = exits.enter_context(of_worker.worker())
            parts = {
                "web server": found.process,
                **parts,
                "PostgreSQL": cluster.processes[0],
                "worker": worker,
            }
            jobs = self._options.burst_jobs
            with self._steps.step(f"server, {layout}: burst", jobs) as advance:
                costs = server.measure(found, parts, (cluster, home.name), jobs, advance)
        self._add(server.figures(layout, costs, jobs))

    def _profile(self, database: Database, cluster: Postgres | None) -> None:
        calls = self._home / "calls"
        with (
            self._service(database, cluster, "profile", calls) as (found, bare),
            found.worker() as worker,
        ):
            warm = memory.warm_processes(worker)
            programs: dict[str, Sequence[psutil.Process]] = {
                "client": [psutil.Process()],
                "web server": [found.process],
                "Prefect server": [found.prefect.process],
                "PostgreSQL": cluster.processes if cluster else [],
                "worker": [worker],
                "job process": warm,
                "bare flow": [bare[0].process],
            }
            with self._steps.step(f"{database}: profile", self._options.rounds) as advance:
                self.findings.profile = profile.measure(
                    found, programs, bare[0], calls, self._options.rounds, advance
                )

    @contextlib.contextmanager
    def _service(
        self,
        database: Database,
        cluster: Postgres | None,
        name: str,
        noted_calls: Path | None = None,
    ) -> Iterator[tuple[Service, Sequence[BareFlow]]]:
        url = None
        if database is Database.postgresql and cluster is not None:
            cluster.create_database(name)
            url = cluster.url(name)
        home = self._new_home(f"{database}-{name}")
        with contextlib.ExitStack() as exits:
            with self._steps.step(f"{database}: start Prefect"):
                prefect = exits.enter_context(
                    prefect_server(self._programs, home, url, noted_calls=noted_calls)
                )
            with self._steps.step(f"{database}: start the web server"):
                deploy(self._programs, home, prefect)
                found = exits.enter_context(service(self._programs, home, prefect))
                bare = [
                    exits.enter_context(bare_flow(self._programs, prefect))
                    for _ in range(PROCESSES)
                ]
            yield found, bare

    def _new_home(self, name: str) -> Path:
        home = self._home / name
        home.mkdir()
        return home

    def _add(self, figures: list[Figure]) -> None:
        self.findings.figures += figures
