"""PNG, JPEG and TIFF to scans, through Pillow."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from PIL import Image, UnidentifiedImageError

from medood.scans import grayscale
from medood.scans.frames import wanted_frames
from medood.scans.scan import Grayscale, Identity, RefusedError, Scan, Status
from medood.schema import ReadConfig

FORMATS = ("PNG", "JPEG", "TIFF")
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*")


#: TIFF tag PhotometricInterpretation; Pillow applies it to 8-bit pictures only.
_PHOTOMETRIC = 262


def is_raster(content: bytes) -> bool:
    """True where the first bytes are those of a PNG, JPEG or TIFF."""
    return content.startswith(_MAGIC)


def read_raster(content: bytes, identity: Identity, options: ReadConfig | None = None) -> Iterator[Scan]:
    """Yield the picture, or one scan a page of a TIFF.

    8-bit values are taken over their full range; deeper ones, whose real depth the format does not state, over their
    0.5th to 99.5th percentile. Colour becomes luminance; transparency is ignored.

    Args:
        content: the bytes of the file.
        identity: of the file; the page is filled in as the frame number.
        options: which pages, and the largest picture.

    Raises:
        RefusedError: the picture is damaged or too large.
    """
    options = options or ReadConfig()
    picture = _opened(content)
    with _decoding():
        pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
    for page in wanted_frames(options.frames, pages):
        unit, how = _grey(_loaded(picture, page, options.max_pixels))
        yield Scan(Identity(identity.source, identity.member, page, identity.sha256), grayscale.as_pixels(unit), how)


def _opened(content: bytes) -> Image.Image:
    with _decoding():
        return Image.open(io.BytesIO(content), formats=FORMATS)


def _loaded(picture: Image.Image, page: int, max_pixels: int) -> Image.Image:
    with _decoding():
        if page:
            picture.seek(page)
        width, height = picture.size
        if width * height > max_pixels:
            raise RefusedError(
                Status.TOO_LARGE, f"the picture has {height} x {width} pixels; the limit is {max_pixels:,} pixels"
            )
        picture.load()
    return picture


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn what Pillow raises on a damaged picture into a refusal."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RefusedError:
        raise
    except Image.DecompressionBombError as error:
        raise RefusedError(Status.TOO_LARGE, "the picture has more pixels than any film or photograph") from error
    except Exception as error:  # its decoders raise many kinds
        raise RefusedError(Status.UNREADABLE, f"the picture cannot be decoded: {_first_line(error)}") from error


def _grey(picture: Image.Image) -> tuple[grayscale.Values, Grayscale]:
    plugin = f"pillow {picture.format}"
    if picture.mode in ("L", "1"):
        return np.asarray(picture.convert("L"), dtype=np.float64) / 255.0, Grayscale(plugin=plugin)
    if not (picture.mode.startswith("I") or picture.mode == "F"):
        return grayscale.luminance(np.asarray(picture.convert("RGB")), 255.0).astype(np.float64), Grayscale(plugin=plugin)
    levels = grayscale.Levels(np.nan_to_num(np.asarray(picture), posinf=0.0, neginf=0.0))
    unit = levels.paint(grayscale.percentile_window(levels.words.astype(np.float64), levels.counts()))[0].astype(np.float64)
    how = Grayscale(voi="percentile 0.5-99.5", plugin=plugin)
    if getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
        return grayscale.invert(unit), replace(how, inverted="TIFF WhiteIsZero")
    return unit, how


def _first_line(error: Exception) -> str:
    """Pillow's own words without the address of the in-memory file."""
    if isinstance(error, UnidentifiedImageError):
        return "its header is damaged"
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
