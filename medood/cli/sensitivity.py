"""``medood sensitivity``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medood.config.loader import load_config


def sensitivity_command(
    config: Annotated[Path, typer.Argument(help="A YAML file; every strategy is trained with it.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ..., as for medood train.")] = None,
    strategies: Annotated[
        str, typer.Option("--strategies", help="Names of shifts, none, or mixture (the configuration's own), with commas.")
    ] = "none,rot,perm4,mirror,inverted,mixture",
    out: Annotated[Path, typer.Option("--out", help="A folder for a detector a strategy, and sensitivity.csv.")] = Path(
        "runs/sensitivity"
    ),
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of the table.")] = False,
) -> None:
    """Rank strategies of negative sampling without a label, by how much a score trained with one reacts to other shifts."""
    run = load_config(config, overrides or [])

    from medood.progress import Progress
    from medood.workflows.sensitivity import sensitivity, write_sensitivity

    rows = sensitivity(run, [name.strip() for name in strategies.split(",") if name.strip()], out, Progress(quiet=quiet))
    write_sensitivity(rows, out / "sensitivity.csv")
    if not quiet:
        for row in rows:
            print(f"{row.sensitivity:>8.4f}  {row.strategy}")
    print(out / "sensitivity.csv")
