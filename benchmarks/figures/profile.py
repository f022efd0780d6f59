"""Where the time of an asynchronous job goes: by phase, by call of the Prefect API, by program."""

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.table import Table

from benchmarks.stand.bare_flow import BareFlow
from benchmarks.stand.observed_prefect import Call, read_calls
from benchmarks.stand.service import JobTimes, Process, Service

PHASES = (
    ("request to 201", "requested", "accepted"),
    ("201 to claimed (Pending)", "accepted", "pending"),
    ("claimed to Running", "pending", "running"),
    ("Running to Completed", "running", "completed"),
    ("Completed to seen by the client", "completed", "seen"),
    ("all", "requested", "seen"),
)


@dataclass(frozen=True)
class CallCost:
    """A kind of call of the Prefect API.

    Attributes:
        caller: Which program calls.
        name: Method and path.
        per_job: How many there are for each job.
        median_ms: How long the server works on one.
    """

    caller: str
    name: str
    per_job: float
    median_ms: float


@dataclass(frozen=True)
class Profile:
    """Where the time goes.

    Attributes:
        phases_ms: Medians, by phase of a job.
        calls: Of the Prefect API, for jobs.
        job_cpu_ms: Processor time for each job, by program.
        bare_cpu_ms: The same for each bare call of the flow.
    """

    phases_ms: Mapping[str, float]
    calls: Sequence[CallCost]
    job_cpu_ms: Mapping[str, float]
    bare_cpu_ms: Mapping[str, float]


def measure(
    service: Service,
    programs: Mapping[str, Sequence[psutil.Process]],
    bare: BareFlow,
    calls_path: Path,
    jobs: int,
    on_job: Callable[[int], None],
) -> Profile:
    """Run jobs one after the other and look where their time goes.

    Args:
        service: Whose worker must run, on a Prefect server that notes its calls.
        programs: Whose processor time is taken, by name.
        bare: What calls the bare flow.
        calls_path: Where the Prefect server notes its calls.
        jobs: How many, and how many bare calls.
        on_job: Told how many jobs have ended.
    """
    calls_before = len(list(read_calls(calls_path)))
    cpu_before = _cpu_seconds(programs)
    times: list[JobTimes] = []
    for number in range(jobs):
        times.append(service.execute_and_wait(Process.warm))
        on_job(number + 1)
    job_cpu = _cpu_seconds(programs)
    calls = list(read_calls(calls_path))[calls_before:]
    callers = _callers(programs)
    bare.begin(jobs)
    bare.end()
    bare_cpu = _cpu_seconds(programs)
    phases = [_phases_of(service, one) for one in times]
    return Profile(
        phases_ms={
            name: statistics.median(one[name] for one in phases) * 1000 for name, *_ in PHASES
        },
        calls=_costs(calls, callers, jobs),
        job_cpu_ms=_per_call_ms(cpu_before, job_cpu, jobs),
        bare_cpu_ms=_per_call_ms(job_cpu, bare_cpu, jobs),
    )


def tables(profile: Profile) -> list[Table]:
    """Return the tables of a profile."""
    phases = Table("phase of an async job", "median ms", title="Profile")
    for name, milliseconds in profile.phases_ms.items():
        phases.add_row(name, f"{milliseconds:.1f}")
    calls = Table("caller", "call of the Prefect API", "per job", "median ms", "ms per job")
    for cost in profile.calls:
        total = cost.per_job * cost.median_ms
        calls.add_row(
            cost.caller,
            cost.name,
            f"{cost.per_job:.1f}",
            f"{cost.median_ms:.1f}",
            f"{total:.1f}",
        )
    cpu = Table("processor time of", "ms per async job", "ms per bare call")
    for name in profile.job_cpu_ms:
        cpu.add_row(name, f"{profile.job_cpu_ms[name]:.1f}", f"{profile.bare_cpu_ms[name]:.1f}")
    cpu.add_row(
        "all", f"{sum(profile.job_cpu_ms.values()):.1f}", f"{sum(profile.bare_cpu_ms.values()):.1f}"
    )
    for table in (phases, calls, cpu):
        for column in table.columns[1:]:
            if column.header != "call of the Prefect API":
                column.justify = "right"
    return [phases, calls, cpu]


def _phases_of(service: Service, times: JobTimes) -> dict[str, float]:
    states = service.prefect.state_times(times.job_id)
    moments = {
        "requested": times.requested,
        "accepted": times.accepted,
        "seen": times.seen,
        "pending": states["PENDING"],
        "running": states["RUNNING"],
        "completed": states["COMPLETED"],
    }
    return {name: moments[end] - moments[start] for name, start, end in PHASES}


def _cpu_seconds(
    programs: Mapping[str, Sequence[psutil.Process]],
) -> dict[str, dict[psutil.Process, float]]:
    found: dict[str, dict[psutil.Process, float]] = {name: {} for name in programs}
    for name, processes in programs.items():
        for process in processes:
            # PostgreSQL ends those of connections that nobody needs
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                found[name][process] = times.user + times.system
    return found


def _per_call_ms(
    before: Mapping[str, Mapping[psutil.Process, float]],
    after: Mapping[str, Mapping[psutil.Process, float]],
    calls: int,
) -> dict[str, float]:
    return {
        name: sum(seconds - before[name][process] for process, seconds in processes.items())
        / calls
        * 1000
        for name, processes in after.items()
    }


def _callers(programs: Mapping[str, Sequence[psutil.Process]]) -> dict[int, str]:
    """Return which program uses which port of its own."""
    found: dict[int, str] = {}
    for name, processes in programs.items():
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= {one.laddr.port: name for one in process.net_connections("tcp")}
    return found


def _costs(calls: Sequence[Call], callers: Mapping[int, str], jobs: int) -> list[CallCost]:
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for call in calls:
        seconds[callers.get(call.client_port, "another"), call.name].append(call.seconds)
    costs = [
        CallCost(caller, name, len(all_) / jobs, statistics.median(all_) * 1000)
        for (caller, name), all_ in seconds.items()
    ]
    return sorted(costs, key=lambda cost: (cost.caller, -cost.per_job * cost.median_ms))
