"""``medood merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge_command(
    parts: Annotated[list[Path], typer.Argument(help="The runs of all parts, as medood screen --shard I/N wrote them.")],
    out: Annotated[Path, typer.Option("--out", help="The whole run's folder; it must not hold a run yet.")],
    detector: Annotated[
        str | None, typer.Option("--detector", help="The detector's folder, where it has moved since.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of verdicts.csv.")] = False,
) -> None:
    """Put the parts of an archive that were screened apart together into one run."""
    from medood.cli.screen import tell
    from medood.progress import Progress
    from medood.screening.merge import merge

    progress = Progress(quiet=quiet)
    tell(merge(parts, out, detector=detector, progress=progress), out, progress)
