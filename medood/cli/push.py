"""``medood push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push_command(
    run: Annotated[Path, typer.Argument(help="The folder that medood screen wrote, after medood dicom; or RUN/rejected.")],
    to: Annotated[str, typer.Option("--to", help="Where to: dicomweb+https://HOST/ROOT.")],
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the number of stored objects.")] = False,
) -> None:
    """Store a run's DICOM objects (medood dicom), or those of a folder such as its rejection notes, in a PACS.

    Exit code 4 where the PACS took some of them only.
    """
    import pydicom
    from pydicom.misc import is_dicom

    from medood.errors import ExitCode, MedoodError
    from medood.progress import Progress
    from medood.scans.sources.dicomweb import is_dicomweb, store

    if not is_dicomweb(to):
        raise MedoodError(f"--to is {to!r}; expected dicomweb+https://HOST/ROOT.")
    is_run = (run / "ledger.sqlite").exists()
    folder = run / "dicom" if is_run else run
    files = sorted(path for path in folder.glob("*.dcm") if is_dicom(path))
    if not files:
        raise MedoodError(f"{folder} holds no DICOM object. Write them with medood dicom {run if is_run else 'RUN'} first.")
    progress, stored = Progress(quiet=quiet), 0
    answers = store(to, (pydicom.dcmread(file) for file in files))
    for file, reason in zip(files, progress.track(answers, len(files), "storing"), strict=True):
        if reason:
            progress.say(f"{file.name} was not stored: {reason}")
        stored += not reason
    print(f"{stored} of {len(files)} objects stored")
    if stored < len(files):
        raise typer.Exit(ExitCode.INCOMPLETE)
