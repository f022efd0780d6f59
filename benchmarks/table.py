"""Figures, what they are held against, and the table that shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rich.table import Table


class Bound(StrEnum):
    """On which side of a number the good ones are."""

    at_most = "≤"
    at_least = "≥"


@dataclass(frozen=True)
class Goal:
    """A number that a figure must not pass."""

    bound: Bound
    limit: float

    def is_met(self, number: float) -> bool:
        """Tell whether a number is on the good side."""
        if self.bound is Bound.at_most:
            return number <= self.limit
        return number >= self.limit


@dataclass(frozen=True)
class Ratio:
    """How a figure compares to another one of the same run."""

    number: float
    reference: str


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        group: Under which heading it stands.
        name: What was measured.
        value: What came out, in `unit`.
        ratio: How it compares to something, if it does.
        goal: What is wanted of the ratio, or of the value where there is none.
    """

    group: str
    name: str
    value: float
    unit: str
    ratio: Ratio | None = None
    goal: Goal | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.goal.is_met(self.ratio.number if self.ratio else self.value)

    def as_document(self) -> dict[str, Any]:
        """Return the figure as JSON has it."""
        return {
            "group": self.group,
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "ratio": self.ratio and self.ratio.number,
            "reference": self.ratio and self.ratio.reference,
            "goal": self.goal and f"{self.goal.bound} {self.goal.limit:g}",
            "met": self.is_met,
        }


def table_of(figures: Sequence[Figure]) -> Table:
    """Return the table of all figures, a section for each group."""
    table = Table()
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("to")
    table.add_column("goal", justify="right")
    table.add_column("met")
    for group in dict.fromkeys(figure.group for figure in figures):
        table.add_row(f"[bold]{group}[/]")
        for figure in (one for one in figures if one.group == group):
            table.add_row(*_cells(figure))
        table.add_section()
    return table


def _cells(figure: Figure) -> list[str]:
    return [
        figure.name,
        f"{_shown(figure.value)} {figure.unit}".rstrip(),
        f"{figure.ratio.number:.2f}" if figure.ratio else "",
        figure.ratio.reference if figure.ratio else "",
        f"{figure.goal.bound} {figure.goal.limit:g}" if figure.goal else "",
        {True: "[green]yes[/]", False: "[red]NO[/]", None: ""}[figure.is_met],
    ]


def _shown(value: float) -> str:
    """Return a number with three significant digits, whole ones in full."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
