"""``medood report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report_command(
    run: Annotated[Path, typer.Argument(help="The folder that medood screen wrote.")],
    detector: Annotated[Path | None, typer.Option("--detector", help="The detector's folder, if it was moved.")] = None,
    top: Annotated[int, typer.Option("--top", min=0, help="Scans shown with picture and Grad-CAM.")] = 20,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Show the scans and their Grad-CAM.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of the PDF.")] = False,
) -> None:
    """Write report.pdf and record.json into a run's folder."""
    from medood.progress import Progress
    from medood.reporting.pdf import report

    print(report(run, detector, top=top, pictures=pictures, progress=Progress(quiet=quiet)))
