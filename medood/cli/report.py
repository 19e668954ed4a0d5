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
    keep_until: Annotated[
        str, typer.Option("--keep-until", help="Day until which the run is kept, such as 2031-12-31; else six months.")
    ] = "",
    acceptance: Annotated[
        Path | None,
        typer.Option(
            "--acceptance",
            help="A run of known outliers: write acceptance.pdf instead, a local acceptance test in which RUN holds scans "
            "that belong.",
        ),
    ] = None,
    least: Annotated[
        float, typer.Option("--least", help="With --acceptance: share of faults and outliers that has to be found.")
    ] = 0.9,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the paths.")] = False,
) -> None:
    """Write report.pdf, report.html and record.json into a run's folder."""
    from medood.errors import MedoodError
    from medood.progress import Progress
    from medood.reporting.i18n.language import Language
    from medood.screening.finished_run import detector_folder, finished_run
    from medood.screening.monitor.audit_facts import check_day, check_least

    detector_folder(run, finished_run(run), detector)  # before torch is imported, which takes seconds
    Language(language)
    if keep_until:
        check_day(keep_until, str(finished_run(run).finished))
    if acceptance is not None:
        finished_run(acceptance)
        check_least(least)
        if review or identifiers or training_scans or keep_until:
            raise MedoodError(
                "--review, --with-identifiers, --training-scans and --keep-until are of the report of one run, and not of "
                "--acceptance. Leave them out."
            )
        from medood.workflows.acceptance import accept

        print(
            accept(run, acceptance, detector, least=least, images=images, language=language, progress=Progress(quiet=quiet))
        )
        return
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
        keep_until=keep_until,
        progress=Progress(quiet=quiet),
    )
    print(pdf)
    print(pdf.with_suffix(".html"))
