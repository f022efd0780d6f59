"""How the process of a job comes about: warm, fresh or cold."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# What an interpreter or a C library reads once, when it starts: a process that runs
# already cannot follow it. Prefect caches its settings likewise.
_READ_AT_START = re.compile(
    r"^(PYTHON|PREFECT_|LD_|DYLD_|MALLOC_|GLIBC_|OMP_|OPENBLAS_|MKL_|NUMEXPR_|NUMBA_|VIRTUAL_ENV$)"
)
# By which a job of `pygeoapi-prefect deploy` knows its process; that module imports pygeoapi
PROCESS_VARIABLE = "PYGEOAPI_PREFECT_PROCESS"
# What the worker or this package sets for each job, and reads when the job starts
_CHANGES_PER_JOB = re.compile(rf"^(PREFECT__|{PROCESS_VARIABLE}$)")
_STAY_IN_DIRECTORY = re.compile(r"^prefect\.deployments(\.steps)?\.(pull\.)?set_working_directory$")


class Start(StrEnum):
    """How the process of a job comes about, fastest first."""

    WARM = "warm"
    """A process that has run jobs of the same code and environment before."""
    FRESH = "fresh"
    """A new fork with Prefect and pygeoapi imported, for this job alone."""
    COLD = "cold"
    """A new interpreter."""


@dataclass(frozen=True)
class Profile:
    """What a warm process is bound to by the first job it runs.

    Modules may read the environment and the working directory when they are imported,
    and two directories may hold modules of the same name: jobs that differ in either do
    not share a process.
    """

    environment: frozenset[tuple[str, str]]
    directory: str | None


@dataclass(frozen=True)
class StartPlan:
    """How to start a job, and why not faster."""

    start: Start
    profile: Profile
    reason: str = ""


def plan_start(
    *,
    entrypoint: str,
    pull_steps: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str],
    worker_environment: Mapping[str, str],
    working_directory: str | None,
    command: str | None,
) -> StartPlan:
    """Decide how a job can start.

    Args:
        entrypoint: of the deployment, `package.module.flow` or `path/file.py:flow`.
        pull_steps: of the deployment.
        environment: the variables that the deployment sets, above those of the worker.
        worker_environment: the variables that every warm process has.
        working_directory: job variable; None for a temporary one.
        command: job variable; None unless the operator configured one.
    """
    own = {
        name: value
        for name, value in environment.items()
        if worker_environment.get(name) != value and not _CHANGES_PER_JOB.match(name)
    }
    profile = Profile(frozenset(own.items()), working_directory)
    if command is not None:
        return StartPlan(Start.COLD, profile, "the job variable `command` names a command")
    at_start = sorted(name for name in own if _READ_AT_START.match(name))
    if at_start:
        reason = f"a running interpreter cannot follow {', '.join(at_start)}"
        return StartPlan(Start.COLD, profile, reason)
    directory = _fixed_directory(pull_steps)
    if directory is not None:
        return StartPlan(Start.WARM, Profile(profile.environment, directory))
    if pull_steps:
        return StartPlan(Start.FRESH, profile, "its pull steps bring new code for each run")
    if ":" in entrypoint:
        return StartPlan(Start.FRESH, profile, "its code is copied from storage for each run")
    return StartPlan(Start.WARM, profile)


def _fixed_directory(pull_steps: Sequence[Mapping[str, Any]]) -> str | None:
    """The directory that the pull steps change to, where they do nothing else."""
    directory = None
    for step in pull_steps:
        for function, arguments in step.items():
            target = arguments.get("directory") if isinstance(arguments, Mapping) else None
            if not _STAY_IN_DIRECTORY.match(function) or not isinstance(target, str):
                return None
            if not target.startswith("/") or "{{" in target:
                return None
            directory = target
    return directory
