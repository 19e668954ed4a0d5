"""``medood split``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def split_command(
    run: Annotated[Path, typer.Argument(help="The folder that medood screen wrote.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder for the lists, and for the copies.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy the files too, out of archives where they lie in one.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the folder.")] = False,
) -> None:
    """List accepted and flagged files of a run in accepted.csv and flagged.csv, or copy them apart.

    A file is flagged where any of its frames is. Nothing is moved or deleted.
    """
    from medood.progress import Progress
    from medood.screening.finished_run import finished_run

    finished_run(run)  # before torch is imported, which takes seconds
    from medood.reporting.split import split

    progress = Progress(quiet=quiet)
    result = split(run, out, copy=copy, progress=progress)
    for sentence in result.left[:10]:
        progress.say(f"not copied: {sentence}")
    if len(result.left) > 10:
        progress.say(f"not copied, {len(result.left)} in all: the column copy is empty for them")
    progress.say(", ".join(f"{count} {part}" for part, count in result.files.items()))
    print(out)
