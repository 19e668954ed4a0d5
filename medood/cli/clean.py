"""``medood clean``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from medood.cli.read_options import DEFAULTS, Frames, Select
from medood.cli.screen import signals
from medood.config.resources import DEFAULT
from medood.config.schema import ReadConfig
from medood.errors import StoppedError


def clean_command(
    sources: Annotated[list[str], typer.Argument(help="Files, folders, zip and tar archives of a data set.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for issues.csv, clean.csv, clean.html and the run.")],
    detector: Annotated[
        str, typer.Option("--detector", help="The folder that medood train wrote, or the name of a shipped detector.")
    ] = DEFAULT,
    fpr: Annotated[float, typer.Option("--fpr", help="Share of in-distribution scans that may be listed.")] = 0.05,
    calibration: Annotated[str, typer.Option("--calibration", help="Name given to medood calibrate.")] = "training",
    table: Annotated[
        Path | None, typer.Option("--table", help="A CSV with file, patient_id, split: marks duplicates that cross them.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Also list scans with burnt-in text; 0.4 s a scan.")] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes that read; 0 reads in this one. [default: one a core]"),
    ] = None,
    select: Select = DEFAULTS.select,
    frames: Frames = DEFAULTS.frames,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of issues.csv.")] = False,
) -> None:
    """List what a data set should not hold: unreadable files, faults, outliers, duplicates; and all other scans.

    Nothing is moved or deleted. Given again after an interruption, the command goes on.
    """
    from medood.progress import Progress
    from medood.screening.run_options import RunOptions, check_run, cores

    read, interrupts = ReadConfig(frames=frames, select=select), list[int]()
    options = RunOptions(cores() if workers is None else workers, resume=True, stopped=lambda: bool(interrupts))
    check_run(sources, out / "run", detector=detector, fpr=fpr, calibration=calibration, read=read, options=options)
    from medood.evidence.burned_in_text import check_text
    from medood.workflows.data_set import check_folder, read_groups

    check_folder(sources, out)
    check_text(text)
    if table is not None:
        read_groups(table)
    from medood.reporting.pages.cleaning import KINDS
    from medood.workflows.clean import clean

    progress = Progress(quiet=quiet)
    with signals(interrupts):
        try:
            cleaning = clean(
                sources,
                out,
                detector,
                fpr=fpr,
                calibration=calibration,
                table=table,
                text=text,
                read=read,
                options=options,
                progress=progress,
            )
        except StoppedError as error:
            progress.say(str(error))
            raise typer.Exit(128 + interrupts[0]) from None
    counts = Counter(issue.issue for issue in cleaning.issues)
    for kind in KINDS if text else KINDS[:-1]:
        progress.say(f"{counts[kind]:>7}  {kind.replace('_', ' ')}")
    progress.say(f"{len(cleaning.clean):>7}  without an issue, listed in {out / 'clean.csv'}")
    print(out / "issues.csv")
