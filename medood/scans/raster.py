"""PNG, JPEG and TIFF to scans, through Pillow."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from medood.scans import grayscale
from medood.scans.dicom import MAX_PIXELS
from medood.scans.scan import Grayscale, Identity, RefusedError, Scan, Status

FORMATS = ("PNG", "JPEG", "TIFF")
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*")


#: TIFF tag PhotometricInterpretation; Pillow applies it to 8-bit pictures only.
_PHOTOMETRIC = 262


def is_raster(content: bytes) -> bool:
    """True where the first bytes are those of a PNG, JPEG or TIFF."""
    return content.startswith(_MAGIC)


def read_raster(content: bytes, identity: Identity) -> Iterator[Scan]:
    """Yield the picture (the first page of a TIFF).

    8-bit values are taken over their full range; deeper ones, whose real depth the format does not state, over their
    0.5th to 99.5th percentile. Colour becomes luminance; transparency is ignored.

    Raises:
        RefusedError: the picture is damaged or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise RefusedError(
                    Status.TOO_LARGE, f"the picture has {height} x {width} pixels; the limit is {MAX_PIXELS:,} pixels"
                )
            picture.load()
    except RefusedError:
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise RefusedError(Status.UNREADABLE, f"the picture cannot be decoded: {_first_line(error)}") from error
    plugin = f"pillow {picture.format}"
    if picture.mode in ("L", "1"):
        unit = np.asarray(picture.convert("L"), dtype=np.float64) / 255.0
        how = Grayscale(voi="full range", plugin=plugin)
    elif picture.mode.startswith("I") or picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture, dtype=np.float64), posinf=0.0, neginf=0.0)
        unit = grayscale.percentile_window(values)
        how = Grayscale(voi="percentile 0.5-99.5", plugin=plugin)
        if getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
            unit = grayscale.invert(unit)
            how = Grayscale(voi="percentile 0.5-99.5", inverted="TIFF WhiteIsZero", plugin=plugin)
    else:
        unit = grayscale.luminance(np.asarray(picture.convert("RGB"), dtype=np.float64) / 255.0)
        how = Grayscale(voi="full range", plugin=plugin)
    yield Scan(identity, grayscale.as_pixels(unit), how)


def _first_line(error: Exception) -> str:
    """Pillow's own words without the address of the in-memory file."""
    if isinstance(error, UnidentifiedImageError):
        return "its header is damaged"
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
