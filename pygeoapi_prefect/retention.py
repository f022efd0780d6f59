"""Removal of jobs that ended long ago, or are more than should be kept.

Files go first, then the run: a removal that is broken off leaves a job that the next one
finds again. Several may run at once, and jobs may end meanwhile.
"""

import dataclasses
import datetime as dt
import logging
from collections.abc import Callable, Iterator
from typing import Final

from pygeoapi_prefect.background import BackgroundLoop
from pygeoapi_prefect.config import RetentionConfiguration
from pygeoapi_prefect.errors import BackendUnavailable, JobNotFound, PygeoapiPrefectError
from pygeoapi_prefect.gateway import PAGE_MAX_RUNS, PrefectGateway
from pygeoapi_prefect.jobs import Job

logger = logging.getLogger(__name__)

FIRST_SECONDS: Final = 60.0
"""From the start of a server, which is busy then, until it looks for jobs to remove."""
INTERVAL_SECONDS: Final = 3600.0


@dataclasses.dataclass(frozen=True)
class RetentionRule:
    """Which ended jobs are kept: those that meet every criterion. None stands for any.

    Attributes:
        max_age: How long after its end a job is kept.
        max_jobs: How many ended jobs are kept; the newest.
    """

    max_age: dt.timedelta | None = None
    max_jobs: int | None = None

    @classmethod
    def of(cls, configuration: RetentionConfiguration) -> "RetentionRule":
        """Return the rule that the operator has configured."""
        days = configuration.max_age_days
        return cls(None if days is None else dt.timedelta(days=days), configuration.max_jobs)

    @property
    def keeps_all(self) -> bool:
        """Whether there is no criterion."""
        return self.max_age is None and self.max_jobs is None


@dataclasses.dataclass(frozen=True)
class Removal:
    """What became of a job that is not kept.

    Attributes:
        problem: Why it is still there, if it is.
    """

    job: Job
    problem: str | None = None


def expired_jobs(gateway: PrefectGateway, rule: RetentionRule, now: dt.datetime) -> Iterator[Job]:
    """Find the jobs that a rule does not keep, newest first under each criterion.

    They may be removed meanwhile. A job whose subscriber is not told to the end is none of
    them: its results are still to be sent.

    Raises:
        BackendUnavailable: The Prefect API does not answer.
    """
    seen: set[str] = set()
    if rule.max_age is not None:
        yield from _expired(gateway, now - rule.max_age, 0, seen)
    if rule.max_jobs is not None:
        yield from _expired(gateway, None, rule.max_jobs, seen)


def _expired(
    gateway: PrefectGateway, ended_before: dt.datetime | None, offset: int, seen: set[str]
) -> Iterator[Job]:
    while jobs := gateway.ended(before=ended_before, offset=offset, limit=PAGE_MAX_RUNS):
        for job in jobs:
            if job.job_id in seen:
                offset += 1  # it is still there
                continue
            seen.add(job.job_id)
            if not job.awaits_callbacks:
                yield job


def prune(
    gateway: PrefectGateway,
    rule: RetentionRule,
    now: dt.datetime,
    remove: Callable[[Job], None],
) -> Iterator[Removal]:
    """Remove the jobs that a rule does not keep, one by one.

    Args:
        gateway: Where jobs are.
        rule: Which are kept.
        now: The time.
        remove: Removes a job with its files.

    Yields:
        Each job as soon as it is removed, or could not be.

    Raises:
        BackendUnavailable: The Prefect API does not answer.
    """
    for job in expired_jobs(gateway, rule, now):
        yield _removed(job, remove)


def _removed(job: Job, remove: Callable[[Job], None]) -> Removal:
    try:
        remove(job)
    except JobNotFound:
        return Removal(job)  # somebody else did it
    except BackendUnavailable:
        raise
    except PygeoapiPrefectError as error:
        logger.warning("job %s could not be removed: %s", job.job_id, error.detail)
        return Removal(job, error.detail)
    return Removal(job)


def removal_loop(clean_up: Callable[[], None]) -> BackgroundLoop:
    """Return a loop that removes what is kept no longer.

    Args:
        clean_up: Removes what is to be removed now.
    """

    def step() -> float:
        clean_up()
        return INTERVAL_SECONDS

    return BackgroundLoop(
        step, name="retention", first_seconds=FIRST_SECONDS, retry_seconds=INTERVAL_SECONDS
    )
