"""``medood inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medood.cli.read_options import (
    DEFAULTS,
    Frames,
    MaxBytes,
    MaxDecoderMemory,
    MaxFrames,
    MaxMembers,
    MaxPixels,
    MaxRatio,
    MaxUnpacked,
    Plane,
    Select,
)
from medood.config.schema import PreprocessConfig, ReadConfig
from medood.errors import MedoodError


def inspect_command(
    path: Annotated[
        str, typer.Argument(help="A file, folder, archive, DICOMDIR, CSV manifest or dicomweb+https:// address.")
    ],
    png: Annotated[Path | None, typer.Option("--png", help="A folder for what a network would see of each scan.")] = None,
    detector: Annotated[
        str | None, typer.Option("--detector", help="Prepare the images as this detector does; else squash to 224 x 224.")
    ] = None,
    select: Select = DEFAULTS.select,
    frames: Frames = DEFAULTS.frames,
    plane: Plane = DEFAULTS.plane,
    max_pixels: MaxPixels = DEFAULTS.max_pixels,
    max_bytes: MaxBytes = DEFAULTS.max_bytes,
    max_members: MaxMembers = DEFAULTS.max_members,
    max_unpacked: MaxUnpacked = DEFAULTS.max_unpacked,
    max_ratio: MaxRatio = DEFAULTS.max_ratio,
    max_frames: MaxFrames = DEFAULTS.max_frames,
    max_decoder_memory: MaxDecoderMemory = DEFAULTS.max_decoder_memory,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the count of each status.")] = False,
) -> None:
    """Show what was read of each scan and how its grey values were made. No patient attribute is printed."""
    from medood.scans.inspection import describe, write_picture
    from medood.scans.reader import read_scans

    read = ReadConfig(
        frames,
        plane,
        select,
        max_pixels,
        max_bytes,
        max_members,
        max_unpacked,
        max_ratio,
        max_frames,
        max_decoder_memory,
    )
    preprocess = PreprocessConfig()
    if detector is not None:
        from medood.detection.detector import Detector

        preprocess = Detector.load(detector).preprocess
    counts: dict[str, int] = {}
    try:
        for number, result in enumerate(read_scans(path, read), start=1):
            text, status = describe(result)
            counts[status] = counts.get(status, 0) + 1
            if not quiet:
                print(text)
            if png is not None:
                written = write_picture(result, png, number, preprocess)
                if written and not quiet:
                    print(f"  image                    {written}")
    except FileNotFoundError as error:
        raise MedoodError(f"{error}. Give a file, a folder or an archive that is there.") from error
    print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no file")
