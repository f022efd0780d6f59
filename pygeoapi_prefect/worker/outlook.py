"""Which runs are about to become due, as far as the worker knows without asking."""

import time
from uuid import UUID

# A run is announced a little before the server can show it: so long after, it is looked for
LOOK_AFTER_SECONDS = (0.005, 0.025, 0.075, 0.275, 1.275)


class Outlook:
    """The runs that Prefect has announced, and for how long there can be no others."""

    def __init__(self) -> None:
        self._announced_at: dict[UUID, float] = {}
        self._certain_until = 0.0

    def __len__(self) -> int:
        """How many announced runs have not been seen."""
        return len(self._announced_at)

    def announce(self, flow_run_id: UUID) -> None:
        """Expect a run."""
        self._announced_at.setdefault(flow_run_id, time.monotonic())

    def forget(self, flow_run_id: UUID) -> None:
        """Expect a run no more: it was seen, or somebody has it."""
        self._announced_at.pop(flow_run_id, None)

    def expects(self, flow_run_id: UUID) -> bool:
        """Whether a run was announced and has not been seen."""
        return flow_run_id in self._announced_at

    def be_certain(self, seconds: float) -> None:
        """Take note that nothing becomes due for a while but what is announced."""
        self._certain_until = time.monotonic() + seconds

    def doubt(self) -> None:
        """Take note that anything may be due."""
        self._certain_until = 0.0

    @property
    def certain_seconds(self) -> float:
        """For how long nothing becomes due but what is announced."""
        return max(0.0, self._certain_until - time.monotonic())

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
