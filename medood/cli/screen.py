"""``medood screen``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def screen_command(
    sources: Annotated[list[Path], typer.Argument(help="Files, folders and zip archives.")],
    detector: Annotated[Path, typer.Option("--detector", help="The folder that medood train wrote.")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder; it must not hold a run yet.")],
    fpr: Annotated[float, typer.Option("--fpr", help="Share of in-distribution scans that may be flagged.")] = 0.05,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of verdicts.csv.")] = False,
) -> None:
    """Score every scan, decide, and write ledger.sqlite and verdicts.csv.

    Exit code 0 when the run finished, whatever it flagged; files that cannot be read are rows, not errors.
    """
    from medood.progress import Progress
    from medood.screening.pipeline import screen

    progress = Progress(quiet=quiet)
    found = screen(list(sources), detector, out, fpr=fpr, progress=progress)
    progress.say(
        f"{found.scanned} rows: {found.flagged} out of distribution, {found.accepted} in distribution, "
        f"{found.refused} without a score"
    )
    print(out / "verdicts.csv")
