"""``medood dicom``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def dicom_command(
    run: Annotated[Path, typer.Argument(help="The folder that medood screen wrote.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where the objects go. [default: RUN/dicom]")] = None,
    detector: Annotated[Path | None, typer.Option("--detector", help="The detector's folder, if it was moved.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the folder.")] = False,
) -> None:
    """Write the flagged scans' DICOM objects: Structured Report, map of the score (over the scan, and raw), audit report.

    They belong to the scans' own studies and carry their patients' names, as whoever reads them in the PACS expects.
    """
    from medood.progress import Progress
    from medood.screening.finished_run import detector_folder, finished_run

    detector_folder(run, finished_run(run), detector)  # before torch is imported, which takes seconds
    from medood.reporting.dicom_objects import write_dicom

    progress = Progress(quiet=quiet)
    folder = out or run / "dicom"
    written = write_dicom(run, folder, detector, progress=progress)
    stored = [item for item in written if item.files]
    for reason in dict.fromkeys(item.reason for item in written if not item.files):
        skipped = [item.row for item in written if item.reason == reason and not item.files]
        such_as = f"{skipped[0].source} {skipped[0].member}".strip()
        progress.say(f"no DICOM object for {len(skipped)} of the flagged scans, such as {such_as}: {reason}")
    progress.say(f"{sum(len(item.files) for item in stored)} objects for {len(stored)} of {len(written)} flagged scans")
    print(folder)
