"""Which runs are about to become due, as far as the worker knows without asking."""

import math
import time
from collections.abc import Collection, Iterable
from uuid import UUID

# A run is announced a little before the server can show it: so long after, it is looked for
LOOK_AFTER_SECONDS = (0.005, 0.025, 0.075, 0.275, 1.275)
# Between questions about runs that are due, and kept back by limits or pauses
KEPT_BACK_SECONDS = 5.0


class Outlook:
    """When to ask for runs again: what was announced, and what was there when it was asked.

    All times are as from `time.monotonic`.
    """

    def __init__(self) -> None:
        self._announced_at: dict[UUID, float] = {}
        self._certain_until = -math.inf
        self._doubted_at = -math.inf
        self._next_start_at = math.inf
        self._kept_back: frozenset[UUID] = frozenset()
        self._kept_back_until = -math.inf
        self._work_is_likely = True

    # -- what was announced ---------------------------------------------------------------

    def announce(self, flow_run_id: UUID) -> None:
        """Expect a run."""
        self._announced_at.setdefault(flow_run_id, time.monotonic())

    def forget(self, flow_run_id: UUID) -> None:
        """Expect a run no more: it was seen, or somebody has it."""
        self._announced_at.pop(flow_run_id, None)

    def expects(self, flow_run_id: UUID) -> bool:
        """Whether a run was announced and has not been seen."""
        return flow_run_id in self._announced_at

    @property
    def work_is_likely(self) -> bool:
        """Whether something has happened, since it was asked last, by which runs may be due."""
        return self._work_is_likely

    def expect_work(self) -> None:
        """Take note that it is worth to ask now."""
        self._work_is_likely = True

    def doubt(self) -> None:
        """Take note that anything may be due."""
        self._certain_until = -math.inf
        self._doubted_at = time.monotonic()

    # -- what was there -------------------------------------------------------------------

    def ask(self) -> None:
        """Take note that it is asked now: what happens from here on may not be in the answer."""
        self._work_is_likely = False

    def note_next_start(self, at: float) -> None:
        """Take note of when the first run is to start that is not due yet."""
        self._next_start_at = at

    def be_certain(self, until: float, *, asked_at: float) -> None:
        """Take note that nothing becomes due for a while but what is announced.

        Args:
            until: when the next run is to start.
            asked_at: when that was asked; a doubt that came later stands.
        """
        if asked_at > self._doubted_at:
            self._certain_until = until

    def keep_back(self, flow_run_ids: Iterable[UUID], *, asked_at: float) -> None:
        """Take note of all runs that are due and may not start."""
        self._kept_back = frozenset(flow_run_ids)
        self._kept_back_until = asked_at + KEPT_BACK_SECONDS

    def are_kept_back(self, flow_run_ids: Collection[UUID]) -> bool:
        """Whether it was asked a moment ago if these may start, and they might not."""
        return time.monotonic() < self._kept_back_until and self._kept_back.issuperset(flow_run_ids)

    # -- when to ask ----------------------------------------------------------------------

    @property
    def certain_seconds(self) -> float:
        """For how long nothing becomes due but what is announced."""
        return max(0.0, self._certain_until - time.monotonic())

    def pause(self, at_most: float) -> float:
        """Seconds until it is worth to ask again, where nothing happens meanwhile."""
        if self._work_is_likely:
            return 0.0
        now = time.monotonic()
        if self._next_start_at > now:
            at_most = min(at_most, self._next_start_at - now)
        look_again = self.look_again_seconds()
        if look_again is None:
            return at_most
        if self._announced_at:
            self.expect_work()
        return look_again

    def look_again_seconds(self) -> float | None:
        """Seconds until it is worth to look for announced runs; None where there are none.

        A run is given up, and everything doubted at once, when it has not come for long: it
        may have to wait for its time.
        """
        if not self._announced_at:
            return None
        now = time.monotonic()
        pauses: list[float] = []
        for run_id, announced_at in list(self._announced_at.items()):
            due = [announced_at + seconds - now for seconds in LOOK_AFTER_SECONDS]
            pause = next((seconds for seconds in due if seconds > 0), None)
            if pause is None:
                del self._announced_at[run_id]
                self.doubt()
            else:
                pauses.append(pause)
        return min(pauses, default=0.0)
