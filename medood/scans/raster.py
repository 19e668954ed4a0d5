"""PNG, JPEG and TIFF to scans: Pillow decodes PNG and JPEG, tifffile TIFF, imagecodecs what Pillow would cut to 8 bits."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from medood.config.schema import ReadConfig
from medood.scans.dicom.bitstream_header import describe
from medood.scans.raster_image import RasterImage
from medood.scans.scan import ContradictionError, Identity, RefusedError, Scan, Status
from medood.scans.tiff import MAGIC as TIFF_MAGIC
from medood.scans.tiff import read_tiff

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
#: PNG colour types with several channels: RGB, grey with alpha, RGB with alpha.
_PNG_CHANNELS = (2, 4, 6)
#: The EXIF tag Orientation.
_ORIENTATION = 274

# the limit is ReadConfig.max_pixels, held against the header before anything is decoded
Image.MAX_IMAGE_PIXELS = None


def is_raster(content: bytes) -> bool:
    """True where the first bytes are those of a PNG, JPEG, TIFF or BigTIFF."""
    return content.startswith((_PNG, _JPEG, *TIFF_MAGIC))


def read_raster(content: bytes, identity: Identity, options: ReadConfig | None = None) -> Iterator[Scan]:
    """Yield the picture, or one scan a page of a TIFF.

    Unsigned values of up to 8 bits are taken over their full range; others, whose real range the format does not state, over
    their 0.5th to 99.5th percentile. Colour becomes luminance; transparency is ignored.

    Args:
        content: the bytes of the file.
        identity: of the file; the page is filled in as the frame number.
        options: which pages, and the largest picture.

    Raises:
        RefusedError: the picture is damaged, too large or of a kind that is not read.
    """
    options = options or ReadConfig()
    is_tiff = content.startswith(TIFF_MAGIC)
    for page, image in read_tiff(content, options) if is_tiff else [(0, _picture(content, options.max_pixels))]:
        pixels, how = image.grey()
        yield Scan(Identity(identity.source, identity.member, page, identity.sha256), pixels, how)


def _picture(content: bytes, max_pixels: int) -> RasterImage:
    if content.startswith(_JPEG):
        _check_jpeg(content)
    with _decoding():
        picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        width, height = picture.size
        if width * height > max_pixels:
            raise RefusedError(
                Status.TOO_LARGE, f"the picture has {height} x {width} pixels; the limit is {max_pixels:,} pixels"
            )
        ignored = _left_out(picture)
        if content.startswith(_PNG) and content[24] == 16 and content[25] in _PNG_CHANNELS:
            return _deep_png(content, ignored)
        picture.load()
        plugin = f"pillow {picture.format}"
        if picture.mode.startswith("I"):
            return RasterImage(np.asarray(picture), plugin, None, ignored=ignored)
        if picture.mode in ("L", "1"):
            return RasterImage(np.asarray(picture.convert("L")), plugin, ignored=ignored)
        return RasterImage(np.asarray(picture.convert("RGB")), plugin, ignored=ignored)


def _deep_png(content: bytes, ignored: str) -> RasterImage:
    import imagecodecs

    values = imagecodecs.png_decode(content)
    colours = 3 if values.shape[-1] > 2 else 1
    if values.shape[-1] > colours:
        ignored = ", ".join(words for words in (ignored, "transparency") if words)
    return RasterImage(values[..., 0] if colours == 1 else values[..., :3], "imagecodecs PNG", None, ignored=ignored)


def _check_jpeg(content: bytes) -> None:
    """Refuse a JPEG that Pillow does not read and would call damaged."""
    try:
        found = describe(content)
    except ContradictionError:  # it is damaged, and Pillow will say so
        return
    if found.precision != 8 or found.kind in ("JPEG lossless", "JPEG-LS"):
        raise RefusedError(
            Status.UNSUPPORTED_SYNTAX,
            f"the file is {found.kind} of {found.precision} bits, which is read in DICOM files alone; convert it to PNG",
        )


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn what a decoder raises on a damaged picture into a refusal."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except RefusedError:
        raise
    except Exception as error:  # they raise many kinds
        is_cut = "truncat" in str(error).lower() or isinstance(error, (EOFError, struct.error))
        why = "it ends too soon; the file is cut" if is_cut else "it is damaged"
        raise RefusedError(Status.UNREADABLE, f"the picture cannot be decoded: {why}") from error


def _left_out(picture: Image.Image) -> str:
    """What the file asks for and is not done, in words."""
    words = []
    if picture.getexif().get(_ORIENTATION, 1) != 1:
        words.append("EXIF orientation")
    if picture.format == "PNG" and getattr(picture, "n_frames", 1) > 1:
        words.append("animation after the first frame")
    return ", ".join(words)
