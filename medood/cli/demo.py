"""``medood demo``: the main job on what ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    out: Annotated[Path, typer.Option("--out", help="A folder for everything the demo makes.")] = Path("runs/demo"),
    train: Annotated[
        bool,
        typer.Option("--train", help="Learn from synthetic chest radiographs, instead of using the shipped detector."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the paths of what was made.")] = False,
) -> None:
    """Make an archive of synthetic chest radiographs with outliers among them, screen it, and report."""
    from medood.progress import Progress
    from medood.workflows.demo import demo

    outputs = demo(out, Progress(quiet=quiet), train=train)
    if not quiet:
        print("\n".join(outputs.lines))
    print(outputs.verdicts)
    print(outputs.pdf)
    print(outputs.pdf.with_suffix(".html"))
