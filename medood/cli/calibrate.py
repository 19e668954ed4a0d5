"""``medood calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medood.cli.read_options import DEFAULTS, Decode, Frames, Plane, Select
from medood.config.schema import ReadConfig


def calibrate_command(
    detector: Annotated[str, typer.Argument(help="The folder that medood train wrote, or the name of a shipped detector.")],
    data: Annotated[Path, typer.Option("--data", help="Scans that belong, of the hospital to calibrate for.")],
    name: Annotated[str, typer.Option("--name", help="What the calibration is called, for medood screen --calibration.")],
    by: Annotated[
        str, typer.Option("--by", help="Calibrate within DICOM attributes, with commas: Manufacturer,ViewPosition.")
    ] = "",
    to: Annotated[
        Path | None, typer.Option("--to", help="Copy the detector into this folder first and calibrate the copy.")
    ] = None,
    fpr: Annotated[float, typer.Option("--fpr", help="Lowest false-alarm rate that every stratum must support.")] = 0.05,
    select: Select = DEFAULTS.select,
    frames: Frames = DEFAULTS.frames,
    plane: Plane = DEFAULTS.plane,
    decode: Decode = DEFAULTS.decode,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", help="A PNG for the scans that lie farthest out. [default: beside the detector's folder]"),
    ] = None,
    exclude: Annotated[
        Path | None, typer.Option("--exclude", help="SHA-256 of scans to leave out: a CSV with that column, or one a line.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of the calibration.")] = False,
) -> None:
    """Calibrate a detector for another hospital without training; its other calibrations are kept."""
    from medood.detection.conformal import check_rate, fpr_interval
    from medood.detection.detector_folder import CALIBRATIONS
    from medood.progress import Progress
    from medood.workflows.preflight import check_calibrating

    progress = Progress(quiet=quiet)
    check_rate(fpr)
    attributes = [item.strip() for item in by.split(",") if item.strip()]
    read = ReadConfig(frames, plane, select, decode=decode)
    folder = Path(to or detector)
    place = folder.resolve()
    sheet = sheet or place.parent / f"{place.name}-{name}.png"
    check_calibrating(
        detector, data, name, by=attributes, to=to, sheet=sheet, read=read
    )  # before torch is imported, which takes seconds
    from medood.workflows.calibrate import calibrate

    calibrated = calibrate(
        detector, data, name, by=attributes, to=to, fpr=fpr, sheet=sheet, exclude=exclude, read=read, progress=progress
    )
    for status, count in sorted((calibrated.left_out or {}).items()):
        progress.say(f"left out: {count} {status}")
    for stratum, count in calibrated.counts().items() if calibrated.by else ():
        low, high = fpr_interval(count, fpr)
        progress.say(
            f"{stratum or 'all scans'}: {count} scans; at --fpr {fpr:g} the true rate lies between {low:.2%} and {high:.2%} "
            "with a probability of 90 %"
        )
    print(folder / CALIBRATIONS / f"{name}.json")
