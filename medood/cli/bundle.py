"""``medood bundle``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medood.config.resources import find_detector
from medood.detection.detector_folder import check_detector
from medood.output_folder import check_empty


def bundle_command(
    detector: Annotated[str, typer.Argument(help="The folder that medood train wrote, or the name of a shipped detector.")],
    out: Annotated[Path, typer.Option("--out", help="The bundle's folder; it must not exist or be empty.")],
) -> None:
    """Write a detector as a MONAI bundle: metadata, an inference configuration, and the detector's files."""
    check_detector(find_detector(detector))  # before torch is imported, which takes seconds
    check_empty(out)
    from medood.workflows.bundle import write_bundle

    print(write_bundle(detector, out))
