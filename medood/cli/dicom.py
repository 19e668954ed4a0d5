"""``medood dicom``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medood.progress import Progress
    from medood.screening.ledger.database import Row


def dicom_command(
    run: Annotated[Path, typer.Argument(help="The folder that medood screen wrote.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where the objects go. [default: RUN/dicom; of notes RUN/rejected or RUN/restored]"),
    ] = None,
    detector: Annotated[Path | None, typer.Option("--detector", help="The detector's folder, if it was moved.")] = None,
    reject: Annotated[
        list[str] | None,
        typer.Option("--reject", help="Write rejection notes instead, for scans with this finding; can be given again."),
    ] = None,
    review: Annotated[
        Path | None, typer.Option("--review", help="With --reject: only scans that this exported review agrees about.")
    ] = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="With --reject: take the rejection of these scans back.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the folder.")] = False,
) -> None:
    """Write the flagged scans' DICOM objects: Structured Report, map of the score (over the scan, and raw), audit report.

    They belong to the scans' own studies and carry their patients' names, as whoever reads them in the PACS expects.
    With --reject they are notes that ask an archive to hide these scans, such as --reject mirrored --reject inverted.
    """
    from medood.progress import Progress
    from medood.screening.finished_run import detector_folder, finished_run

    progress = Progress(quiet=quiet)
    if reject or review or restore:
        finished_run(run)
        _write_notes(run, out or run / ("restored" if restore else "rejected"), reject or [], review, restore, progress)
        return
    detector_folder(run, finished_run(run), detector)  # before torch is imported, which takes seconds
    from medood.reporting.dicom_objects import write_dicom

    folder = out or run / "dicom"
    written = write_dicom(run, folder, detector, progress=progress)
    stored = [item for item in written if item.files]
    _say_left_out([(item.row, item.reason) for item in written if not item.files], "DICOM object", progress)
    progress.say(f"{sum(len(item.files) for item in stored)} objects for {len(stored)} of {len(written)} flagged scans")
    print(folder)


def _write_notes(
    run: Path, folder: Path, findings: list[str], review: Path | None, restore: bool, progress: Progress
) -> None:
    from medood.errors import MedoodError
    from medood.evidence.fault_codes import check_rejectable

    if not findings:
        raise MedoodError("--review and --restore need --reject FINDING, which says what is rejected or restored.")
    check_rejectable(findings)
    from medood.reporting.rejection_notes import write_notes

    notes = write_notes(run, folder, findings, review=review, restore=restore, progress=progress)
    _say_left_out(notes.left_out, "note", progress)
    progress.say(f"{len(notes.files)} notes that {'restore' if restore else 'reject'} {notes.scans} scans")
    print(folder)


def _say_left_out(left_out: list[tuple[Row, str]], what: str, progress: Progress) -> None:
    """Say each reason once, with a scan as an example."""
    for reason in dict.fromkeys(reason for _, reason in left_out):
        rows = [row for row, other in left_out if other == reason]
        such_as = f"{rows[0].source} {rows[0].member}".strip()
        progress.say(f"no {what} for {len(rows)} of the flagged scans, such as {such_as}: {reason}")
