"""Timing calls against each other."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WARM_UP_ROUNDS = 2


@dataclass(frozen=True)
class Timing:
    """How long a call took, over all rounds."""

    samples_seconds: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The median in milliseconds."""
        return statistics.median(self.samples_seconds) * 1000

    @property
    def p95_ms(self) -> float:
        """The 95th percentile in milliseconds, interpolated between samples."""
        if len(self.samples_seconds) == 1:
            return self.samples_seconds[0] * 1000
        return statistics.quantiles(self.samples_seconds, n=20, method="inclusive")[-1] * 1000


def in_turn(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    on_round: Callable[[int], None],
    warm_up: int = WARM_UP_ROUNDS,
) -> dict[str, Timing]:
    """Time calls, each once a round, so that a slow moment of the machine hits all alike.

    Args:
        calls: By name.
        rounds: How many of them count.
        on_round: Told after each of these how many there were.
        warm_up: How many go before.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= warm_up:
                samples[name].append(time.perf_counter() - start)
        if number >= warm_up:
            on_round(number - warm_up + 1)
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def rate(times: Sequence[float]) -> float:
    """Return how many things a second happened, from when each of them did, in seconds.

    Raises:
        ValueError: There are fewer than two.
    """
    if len(times) < 2:
        raise ValueError("a rate needs two times")
    return (len(times) - 1) / (max(times) - min(times))
