"""Progress bars and messages on standard error, which scripts can silence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from medood.text import visible

T = TypeVar("T")


class Progress:
    """Progress bars and messages on standard error; nothing if ``quiet`` is set.

    Args:
        quiet: print nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._console = Console(stderr=True, quiet=quiet)

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def track(self, items: Iterator[T], total: int | None, description: str) -> Iterator[T]:
        """Yield the items unchanged and show a bar of how many of ``total`` have passed."""
        with self.bar(total, description) as bar:
            for item in items:
                yield item
                bar(1, "")

    @contextmanager
    def bar(self, total: int | None, description: str) -> Iterator[Bar]:
        """Show a bar; call it with the number of steps to advance and a text to show after it."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[detail]}"),
        )
        visible_bar = not self.quiet and sys.stderr.isatty()
        with RichProgress(*columns, console=self._console, disable=not visible_bar) as rich:
            yield Bar(rich, rich.add_task(description, total=total, detail=""))


class Bar:
    """One running bar."""

    def __init__(self, rich: RichProgress, task: object) -> None:
        self._rich = rich
        self._task = task

    def __call__(self, advance: int, detail: str) -> None:
        """Advance the bar and change the text after it."""
        self._rich.update(self._task, advance=advance, detail=visible(detail))  # type: ignore[arg-type]
