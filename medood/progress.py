"""Progress bars for whatever lasts, and silence for scripts."""

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
    """Bars on standard error; none where ``quiet`` is set.

    Args:
        quiet: print nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._console = Console(stderr=True, quiet=quiet)

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def track(self, items: Iterator[T], total: int | None, what: str) -> Iterator[T]:
        """Pass items through and draw how many of ``total`` have passed."""
        with self.bar(total, what) as bar:
            for item in items:
                yield item
                bar(1, "")

    @contextmanager
    def bar(self, total: int | None, what: str) -> Iterator[Bar]:
        """A bar; call it with how far to move and a text to show behind it."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[detail]}"),
        )
        shown = not self.quiet and sys.stderr.isatty()
        with RichProgress(*columns, console=self._console, disable=not shown) as rich:
            yield Bar(rich, rich.add_task(what, total=total, detail=""))


class Bar:
    """One running bar."""

    def __init__(self, rich: RichProgress, task: object) -> None:
        self._rich = rich
        self._task = task

    def __call__(self, advance: int, detail: str) -> None:
        """Move on and change the text behind the bar."""
        self._rich.update(self._task, advance=advance, detail=visible(detail))  # type: ignore[arg-type]
