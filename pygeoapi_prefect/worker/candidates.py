"""Which of the due runs the worker claims, and when."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from uuid import UUID

from prefect.client.schemas.objects import FlowRun

from pygeoapi_prefect.worker.owner import Owner

# A worker that has claimed nothing for as long leaves more to others
RIVALRY_SECONDS = 60.0
# How far down the list a worker looks for a run that others leave to it
LOOK_AHEAD = 8
# A run that Prefect has refused, and said nothing of since, is not tried again before
REFUSED_SECONDS = 5.0


class Rivals:
    """Other workers that claim runs of the pool.

    Workers that see the same run at the same time agree without a word which of them
    claims it first: a claim that comes second costs the server as much as one that
    comes first. Where they do not see the same workers, both try.

    Args:
        me: this worker.
    """

    def __init__(self, me: Owner) -> None:
        self._me = me
        self._seen: dict[str, float] = {}

    def note(self, owner: Owner) -> None:
        """Take notice of a worker that has claimed a run."""
        if not owner.same_worker_process(self._me):
            self._seen[str(owner)] = time.monotonic()

    def leave_to_me(self, flow_run_id: UUID) -> bool:
        """Whether this worker is the one to claim a run first."""
        oldest = time.monotonic() - RIVALRY_SECONDS
        self._seen = {rival: at for rival, at in self._seen.items() if at > oldest}
        mine = _rank(str(self._me), flow_run_id)
        return all(_rank(rival, flow_run_id) < mine for rival in self._seen)


def _rank(worker: str, flow_run_id: UUID) -> bytes:
    return blake2b(worker.encode(), key=flow_run_id.bytes, digest_size=8).digest()


class Candidates:
    """Runs in the order in which they are due, without those that are taken.

    A list is a little older than its arrival: what becomes known of runs in between
    counts for it too.

    Args:
        rivals: of this worker.
    """

    def __init__(self, rivals: Rivals) -> None:
        self._rivals = rivals
        self._runs: dict[UUID, FlowRun] = {}
        self._taken_meanwhile: set[UUID] | None = None
        self._refused: dict[UUID, float] = {}

    def __len__(self) -> int:
        """How many are left."""
        return len(self._runs)

    @property
    def refused(self) -> int:
        """How many runs are not tried now; a list that is to have others must be longer."""
        oldest = time.monotonic() - REFUSED_SECONDS
        self._refused = {run_id: at for run_id, at in self._refused.items() if at > oldest}
        return len(self._refused)

    @contextmanager
    def being_listed(self) -> Iterator[None]:
        """Remember what is dropped inside; for the time between question and `renew`."""
        self._taken_meanwhile = set()
        try:
            yield
        finally:
            self._taken_meanwhile = None

    def renew(self, runs: Iterable[FlowRun]) -> None:
        """Put a new list in place of the one before."""
        out = (self._taken_meanwhile or set()) | self._refused.keys()
        self._runs = {run.id: run for run in runs if run.id not in out}

    def drop(self, flow_run_id: UUID) -> None:
        """Forget a run that somebody has taken."""
        self._runs.pop(flow_run_id, None)
        if self._taken_meanwhile is not None:
            self._taken_meanwhile.add(flow_run_id)

    def refuse(self, flow_run_id: UUID) -> None:
        """Leave a run alone for a while that Prefect did not give to this worker."""
        self._refused[flow_run_id] = time.monotonic()

    def expect(self, flow_run_id: UUID, work_queue_id: UUID | None) -> None:
        """Make place for a run that has just become due, where it may come first.

        In its own queue it comes last.
        """
        self._refused.pop(flow_run_id, None)
        if any(run.work_queue_id != work_queue_id for run in self._runs.values()):
            self._runs.clear()

    def choose(self) -> FlowRun:
        """The run to claim next: the first, or one shortly after it in the same queue."""
        first = next(iter(self._runs.values()))
        for run in islice(self._runs.values(), LOOK_AHEAD):
            if run.work_queue_id != first.work_queue_id:
                break
            if self._rivals.leave_to_me(run.id):
                return run
        return first
