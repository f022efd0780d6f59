"""What the worker knows of the work pool and the queues that it serves."""

import math
import time
from collections.abc import Collection
from uuid import UUID

from prefect.client.schemas.objects import WorkPool, WorkQueue

from pygeoapi_prefect.worker.events import PoolEvents

# Prefect announces changes of deployments, queues and pools before it has stored them
SETTLED_AFTER_SECONDS = 10.0


class ServedPool:
    """A work pool as it was read last, and whether it can have changed since.

    All times are as from `time.monotonic`.

    Args:
        names: of the queues to serve; empty for all of the pool.

    Attributes:
        events: of the pool; None before there are any.
        work_pool: None before it was read.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._queues: list[WorkQueue] = []
        self._known_at = -math.inf
        self._changed_at = -math.inf
        self.work_pool: WorkPool | None = None
        self.events: PoolEvents | None = None

    def renew(self, work_pool: WorkPool, queues: list[WorkQueue], *, asked_at: float) -> None:
        """Take note of what was read.

        Args:
            work_pool: the pool.
            queues: all of its queues.
            asked_at: when it was asked.
        """
        self.work_pool, self._queues, self._known_at = work_pool, queues, asked_at

    def change(self) -> float:
        """Take note of an announced change; returns when it can be read."""
        self._changed_at = time.monotonic()
        return self._changed_at + SETTLED_AFTER_SECONDS

    @property
    def events_since(self) -> float | None:
        """Since when events arrive; None while they do not."""
        return None if self.events is None else self.events.connected_since

    @property
    def limits(self) -> list[int | None]:
        """The concurrency limits that count the runs of this worker."""
        return [one.concurrency_limit for one in self._pool_and_queues]

    @property
    def is_limited(self) -> bool:
        """Whether any such limit is set."""
        return any(limit is not None for limit in self.limits)

    @property
    def keeps_nothing_back(self) -> bool:
        """Whether all that is due may start, in the order in which it is due.

        By what Prefect said of pool and queues, and has announced no change of since.
        """
        return (
            self.events_since is not None
            and self._known_at >= max(self.events_since, self._changed_at + SETTLED_AFTER_SECONDS)
            and not self.is_limited
            and not any(one.is_paused for one in self._pool_and_queues)
            and len(self._served_queues) == 1
        )

    def has_queue_of_others(self, work_queue_id: UUID | None) -> bool:
        """Whether a queue is one of the pool that this worker does not serve."""
        of_others = {queue.id for queue in self._queues} - {q.id for q in self._served_queues}
        return work_queue_id in of_others

    @property
    def _served_queues(self) -> list[WorkQueue]:
        return [queue for queue in self._queues if not self._names or queue.name in self._names]

    @property
    def _pool_and_queues(self) -> list[WorkPool | WorkQueue]:
        return [*([self.work_pool] if self.work_pool else []), *self._served_queues]
