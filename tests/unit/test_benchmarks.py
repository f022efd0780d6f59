"""What the benchmarks compute from what they measure, and how they show it."""

import io
from importlib.util import find_spec

import pytest
from rich.console import Console

if find_spec("benchmarks") is None:
    pytest.skip("the benchmarks are part of a clone alone", allow_module_level=True)

from benchmarks.figures import burst, latency
from benchmarks.measure import Timing, in_turn, rate
from benchmarks.stand.service import Database
from benchmarks.table import Bound, Figure, Goal, Ratio, table_of


def test_calls_are_timed_in_turn_after_a_warm_up() -> None:
    order: list[str] = []
    rounds: list[int] = []

    timings = in_turn(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")},
        rounds=3,
        on_round=rounds.append,
        warm_up=1,
    )

    assert order == ["a", "b"] * 4
    assert rounds == [1, 2, 3]
    assert {name: len(timing.samples_seconds) for name, timing in timings.items()} == {
        "a": 3,
        "b": 3,
    }


def test_a_timing_tells_median_and_percentile() -> None:
    timing = Timing(tuple(number / 1000 for number in range(1, 102)))

    assert timing.median_ms == pytest.approx(51)
    assert timing.p95_ms == pytest.approx(96)
    assert Timing((0.5,)).p95_ms == pytest.approx(500)


def test_a_rate_is_that_between_the_first_and_the_last() -> None:
    assert rate([10.0, 11.0, 10.5]) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="two times"):
        rate([1.0])


@pytest.mark.parametrize(
    ("bound", "number", "expected"),
    [
        (Bound.at_most, 2.0, True),
        (Bound.at_most, 2.01, False),
        (Bound.at_least, 2.0, True),
        (Bound.at_least, 1.99, False),
    ],
)
def test_a_goal_is_met_up_to_its_limit(bound: Bound, number: float, expected: bool) -> None:
    assert Goal(bound, 2.0).is_met(number) is expected


def test_a_goal_is_about_the_ratio_where_there_is_one() -> None:
    goal = Goal(Bound.at_most, 2.0)

    assert Figure("g", "n", 300.0, "ms", Ratio(1.5, "x"), goal).is_met is True
    assert Figure("g", "n", 300.0, "MB", None, goal).is_met is False
    assert Figure("g", "n", 300.0, "MB").is_met is None


def test_latency_is_held_against_the_bare_flow() -> None:
    timings = {
        latency.BARE: Timing((0.1,)),
        latency.ASYNC: Timing((0.25,)),
        latency.SYNC_DEPLOYED: Timing((0.2,)),
        latency.SYNC_WEB: Timing((0.11,)),
    }

    found = {figure.name: figure for figure in latency.figures("g", timings)}

    assert found["bare flow() call, median"].is_met is None
    assert found["async: request to successful, median"].is_met is False
    assert found["async: request to successful, p95"].is_met is True
    assert found["sync, deployed process, median"].is_met is True


def test_databases_are_compared_where_both_were_measured() -> None:
    fast = [burst.Burst(rate, 0, 10.0) for rate in (8.0, 4.0, 8.0)]
    slow = [burst.Burst(rate, 0, 10.0) for rate in (3.0, 2.0, 4.0)]

    (figure,) = burst.comparison({Database.postgresql: fast, Database.sqlite: slow})

    assert figure.group == "sqlite"
    assert figure.value == 3.0
    assert figure.ratio is not None
    # of each round, as the machine was slow in one of them
    assert figure.ratio.number == pytest.approx(0.5)
    assert burst.comparison({Database.sqlite: slow}) == []


def test_several_bursts_are_held_against_the_loops_around_each() -> None:
    bursts = [burst.Burst(4.0, 0, 8.0), burst.Burst(1.0, 1, 2.0), burst.Burst(6.0, 2, 9.0)]

    bare, jobs, failed = burst.figures("g", bursts, 100)

    assert (bare.value, jobs.value, failed.value) == (8.0, 4.0, 3)
    assert jobs.ratio is not None
    assert jobs.ratio.number == pytest.approx(0.5)
    assert failed.is_met is False


def test_the_table_shows_what_is_met_and_what_is_not() -> None:
    figures = [
        Figure("one", "fast enough", 123.4, "ms", Ratio(1.5, "x"), Goal(Bound.at_most, 2.0)),
        Figure("one", "too slow", 4.321, "/s", Ratio(0.25, "y"), Goal(Bound.at_least, 0.5)),
        Figure("other", "just so", 7.0, ""),
    ]
    text = io.StringIO()

    Console(file=text, width=120).print(table_of(figures))

    lines = [" ".join(line.replace("│", " ").split()) for line in text.getvalue().splitlines()]
    assert "fast enough 123 ms 1.50 x ≤ 2 yes" in lines
    assert "too slow 4.32 /s 0.25 y ≥ 0.5 NO" in lines
    assert "just so 7" in lines
    assert lines.index("one") < lines.index("other")
    assert figures[1].as_document()["met"] is False
