"""``medood report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report_command(
    run: Annotated[Path, typer.Argument(help="The folder that medood screen wrote.")],
    detector: Annotated[Path | None, typer.Option("--detector", help="The detector's folder, if it was moved.")] = None,
    top: Annotated[int, typer.Option("--top", min=0, help="Entries shown with image and maps.")] = 20,
    accepted: Annotated[
        int, typer.Option("--accepted", min=0, help="Accepted scans that the page shows small, as it does all flagged ones.")
    ] = 0,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Show the scans and their maps.")] = True,
    review: Annotated[
        Path | None, typer.Option("--review", help="A review exported from report.html (JSON or CSV), to put into the PDF.")
    ] = None,
    identifiers: Annotated[
        bool, typer.Option("--with-identifiers", help="Show patients' names, numbers and dates from the headers.")
    ] = False,
    training_scans: Annotated[
        Path | None, typer.Option("--training-scans", help="The detector's training scans; the nearest ones are shown.")
    ] = None,
    language: Annotated[str, typer.Option("--language", help="Of the report: en or de.")] = "en",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the paths.")] = False,
) -> None:
    """Write report.pdf, report.html and record.json into a run's folder."""
    from medood.progress import Progress
    from medood.reporting.i18n.language import Language
    from medood.screening.finished_run import detector_folder, finished_run

    detector_folder(run, finished_run(run), detector)  # before torch is imported, which takes seconds
    Language(language)
    from medood.reporting.pdf import report

    pdf = report(
        run,
        detector,
        top=top,
        accepted=accepted,
        images=images,
        review=review,
        identifiers=identifiers,
        training_scans=training_scans,
        language=language,
        progress=Progress(quiet=quiet),
    )
    print(pdf)
    print(pdf.with_suffix(".html"))
