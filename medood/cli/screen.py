"""``medood screen``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medood.cli.reading import (
    DEFAULTS,
    Frames,
    MaxBytes,
    MaxMembers,
    MaxPixels,
    MaxRatio,
    MaxUnpacked,
    Plane,
    Select,
)
from medood.detection.shipped import DEFAULT
from medood.errors import MedoodError
from medood.schema import ReadConfig


def screen_command(
    sources: Annotated[list[Path], typer.Argument(help="Files, folders, zip and tar archives, DICOMDIRs, CSV manifests.")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder; it must not hold a run yet.")],
    detector: Annotated[
        str, typer.Option("--detector", help="The folder that medood train wrote, or the name of a shipped detector.")
    ] = DEFAULT,
    fpr: Annotated[
        float | None, typer.Option("--fpr", help="Share of in-distribution scans that may be flagged. [default: 0.05]")
    ] = None,
    fdr: Annotated[
        float | None, typer.Option("--fdr", help="Instead: share of the flagged scans that may be in-distribution.")
    ] = None,
    calibration: Annotated[str, typer.Option("--calibration", help="Name given to medood calibrate.")] = "training",
    select: Select = DEFAULTS.select,
    frames: Frames = DEFAULTS.frames,
    plane: Plane = DEFAULTS.plane,
    max_pixels: MaxPixels = DEFAULTS.max_pixels,
    max_bytes: MaxBytes = DEFAULTS.max_bytes,
    max_members: MaxMembers = DEFAULTS.max_members,
    max_unpacked: MaxUnpacked = DEFAULTS.max_unpacked,
    max_ratio: MaxRatio = DEFAULTS.max_ratio,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of verdicts.csv.")] = False,
) -> None:
    """Score every scan, decide, and write ledger.sqlite and verdicts.csv.

    Exit code 0 when the run finished, whatever it flagged; files that cannot be read are rows, not errors.
    """
    from medood.progress import Progress
    from medood.screening.ledger import Ledger
    from medood.screening.pipeline import screen
    from medood.screening.whole import sentences

    if fpr is not None and fdr is not None:
        raise MedoodError("--fpr and --fdr were both given; a run is decided by one of them.")
    progress = Progress(quiet=quiet)
    read = ReadConfig(frames, plane, select, max_pixels, max_bytes, max_members, max_unpacked, max_ratio)
    rate = 0.05 if fpr is None else fpr
    found = screen(list(sources), detector, out, fpr=rate, fdr=fdr, calibration=calibration, read=read, progress=progress)
    left_out = f", {found.left_out} left out by the selection" if select else ""
    progress.say(
        f"{found.scanned} rows: {found.flagged} out of distribution, {found.accepted} in distribution, "
        f"{found.refused} without a score{left_out}"
    )
    for sentence in sentences(Ledger.facts_of(out)):
        progress.say(sentence)
    print(out / "verdicts.csv")
