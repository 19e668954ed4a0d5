"""``medood demo``: the main job on what ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    out: Annotated[Path, typer.Option("--out", help="A folder for everything the demo makes.")] = Path("runs/demo"),
    train: Annotated[
        bool,
        typer.Option("--train", help="Learn from made-up chest radiographs, instead of using the shipped detector."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the paths of what was made.")] = False,
) -> None:
    """Make an archive of made-up chest radiographs with strangers among them, screen it, and report."""
    from medood.progress import Progress
    from medood.workflows.demo import demo

    made = demo(out, Progress(quiet=quiet), train=train)
    if not quiet:
        print("\n".join(made.lines))
    print(made.verdicts)
    print(made.pdf)
    print(made.pdf.with_suffix(".html"))
