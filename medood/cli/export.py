"""``medood export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export_command(
    run: Annotated[Path, typer.Argument(help="The folder that medood screen wrote.")],
    target: Annotated[Path, typer.Argument(help="The file to write; it ends in .csv, .jsonl or .parquet.")],
) -> None:
    """Write a run's verdicts for another program."""
    from medood.screening.export import export

    print(export(run, target))
