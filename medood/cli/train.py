"""``medood train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medood.config.loader import config_keys, load_config


def train_command(
    config: Annotated[Path, typer.Argument(help="A YAML file such as configs/cxr.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ..., see below.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the detector's folder.")] = False,
) -> None:
    """Learn what in-distribution scans look like and write a detector folder."""
    run = load_config(config, overrides or [])
    from medood.workflows.preflight import check_training

    check_training(run, resume=resume)  # before torch is imported, which takes seconds

    from medood.progress import Progress
    from medood.workflows.train import train

    print(train(run, resume=resume, progress=Progress(quiet=quiet)))


def keys_table() -> str:
    """Every key of the configuration with its default, for ``--help``."""
    lines = ["\b", "Keys, their defaults, and what they are:"]
    for key, default, text in config_keys():
        lines.append(
            f"  {key}={'' if default is None else default}".replace(" ", "\u00a0", 2) + (f"  {text}" if text else "")
        )
    return "\n".join(lines)
