"""What clients see of the log of a job, and in which order they read it.

Log lines reach the Prefect server in batches, from several processes, each some seconds
late: a line can come after others with later times. So a page has all lines there are after
a position, but the position of the next page comes before those of the last seconds. A
client that follows a job sees these again, and knows them by their ids.
"""

import dataclasses
import datetime as dt
import logging
import re
from collections.abc import Sequence
from typing import Final

from pygeoapi_prefect.config import LogPublication
from pygeoapi_prefect.errors import InvalidParameter
from pygeoapi_prefect.jobs import Job
from pygeoapi_prefect.redaction import redacted

LATE_SECONDS: Final = 5.0
"""How late a line can come. Prefect collects lines for 2 s before it sends them."""
PAGE_MAX_LINES: Final = 200
"""What one call of the Prefect API returns at most, with its default settings."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of the log of a job.

    Attributes:
        level: As in `logging`.
        logger: Name of the logger.
        task: Name of the task run that wrote it; None for the flow itself.
    """

    line_id: str
    time: dt.datetime
    level: int
    logger: str
    message: str
    task: str | None = None

    @property
    def level_name(self) -> str:
        """Name of the level, such as ``INFO``."""
        return logging.getLevelName(self.level)


@dataclasses.dataclass(frozen=True)
class LogPosition:
    """A place in the log of a job.

    Attributes:
        time: All lines before that time lie before it; None for the start.
        lines: And so many lines of that very time.
    """

    time: dt.datetime | None = None
    lines: int = 0

    @classmethod
    def parse(cls, text: str | None) -> "LogPosition":
        """Read a position as `str` writes it. Raises `InvalidParameter`."""
        if text is None:
            return cls()
        parts = re.fullmatch(r"([0-9]{1,17})-([0-9]{1,9})", text)
        if parts is None:
            raise InvalidParameter("after: take it from the `next` link of a page of the log")
        return cls(_EPOCH + dt.timedelta(microseconds=int(parts[1])), int(parts[2]))

    def __str__(self) -> str:
        """Return the position as part of a URL."""
        # Prefect's times are those of pendulum, whose differences divide by their own kind alone
        seconds = 0.0 if self.time is None else (self.time - _EPOCH).total_seconds()
        microseconds = round(seconds * 1_000_000)
        return f"{microseconds}-{self.lines}"

    def after(self, lines: Sequence[LogLine]) -> "LogPosition":
        """Return the position after lines that follow this one."""
        if not lines:
            return self
        last = lines[-1].time
        same = sum(line.time == last for line in lines)
        return LogPosition(last, same + (self.lines if self.time == last else 0))


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogPage:
    """A part of the log of a job.

    Attributes:
        following: Where the next page starts; None if nothing comes any more.
        has_more: Whether the next page has new lines already.
    """

    lines: list[LogLine]
    following: LogPosition | None
    has_more: bool


def page_of(
    job: Job,
    lines: Sequence[LogLine],
    position: LogPosition,
    *,
    limit: int,
    publication: LogPublication,
    now: dt.datetime,
) -> LogPage:
    """Return the page of a log that clients see.

    Args:
        job: The job.
        lines: All lines from `position` on, in the order of their times, or the first of them:
            `limit`.
        position: Where the page starts.
        limit: How many lines of the log a page has; clients may see fewer.
        publication: What clients see of them.
        now: The time.
    """
    late = dt.timedelta(seconds=LATE_SECONDS)
    settled = [line for line in lines if line.time < now - late]
    has_more = len(lines) >= limit
    has_ended = job.has_ended and (job.finished or job.updated) < now - 2 * late
    following = None if has_ended and not has_more else position.after(settled)
    return LogPage(
        lines=[shown for line in lines if (shown := _published(line, publication))],
        following=following,
        has_more=has_more and following != position,
    )


# what flows and tasks log themselves, and `print`, if they want; workers have other names
_LOGGERS_OF_FLOWS: Final = frozenset({"prefect.flow_runs", "prefect.task_runs"})
# where Prefect's engine tells the address of its UI
_ABOUT_THE_SERVER = re.compile(r"View at https?://")


def _published(line: LogLine, publication: LogPublication) -> LogLine | None:
    if publication is LogPublication.VERBATIM:
        return line
    if (
        publication is LogPublication.NONE
        or line.level < logging.INFO
        or line.logger not in _LOGGERS_OF_FLOWS
        or _ABOUT_THE_SERVER.match(line.message)
    ):
        return None
    return dataclasses.replace(line, message=redacted(line.message))
