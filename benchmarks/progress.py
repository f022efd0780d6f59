"""What the benchmarks say of themselves while they run."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Steps:
    """Shows the steps of a run: with bars in a terminal, else with a line for each."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show them inside the block."""
        with self._progress:
            yield

    @contextlib.contextmanager
    def step(self, title: str, total: int = 1) -> Iterator[Callable[[int], None]]:
        """Show a step while the block runs.

        Yields:
            What is to be told how much of `total` is done.
        """
        start = time.monotonic()
        task = self._progress.add_task(title, total=total)
        yield lambda done: self._progress.update(task, completed=done)
        self._progress.update(task, completed=total)
        self._progress.stop_task(task)
        if not self._console.is_terminal:
            self._console.print(f"{time.monotonic() - start:5.0f} s  {title}")
