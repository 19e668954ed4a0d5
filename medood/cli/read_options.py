"""Options that every command which reads scans shares; their meaning is :class:`medood.config.schema.ReadConfig`."""

from __future__ import annotations

from typing import Annotated

import typer

from medood.config.schema import ReadConfig

DEFAULTS = ReadConfig()

Select = Annotated[
    str,
    typer.Option("--select", help='Which DICOM objects to take, e.g. "Modality in (CR, DX) and BodyPartExamined == CHEST".'),
]
Frames = Annotated[
    str, typer.Option("--frames", help="Which frames, pages or slices become scans: all, first, middle or every N.")
]
Plane = Annotated[str, typer.Option("--plane", help="How NIfTI volumes are sliced: axial, coronal or sagittal.")]
Decode = Annotated[
    str, typer.Option("--decode", help="scored: JPEG 2000 and JPEG as small as scoring allows; full: images as a whole.")
]
MaxPixels = Annotated[int, typer.Option("--max-pixels", help="Largest image, in pixels.")]
MaxBytes = Annotated[int, typer.Option("--max-bytes", help="Largest file or archive member, in bytes.")]
MaxMembers = Annotated[int, typer.Option("--max-members", help="Most members of one archive.")]
MaxUnpacked = Annotated[int, typer.Option("--max-unpacked", help="Most bytes that one archive may unpack to.")]
MaxFrames = Annotated[int, typer.Option("--max-frames", help="Most scans (frames, pages or slices) of one file.")]
MaxDecoderMemory = Annotated[
    int, typer.Option("--max-decoder-memory", help="Most bytes that unpacking xz or Zstandard may ask for.")
]
MaxRatio = Annotated[int, typer.Option("--max-ratio", help="Most times its packed size that an archive may unpack to.")]
