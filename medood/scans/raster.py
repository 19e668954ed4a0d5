"""Read PNG and JPEG with Pillow, TIFF with tifffile, and with imagecodecs what Pillow would reduce to 8 bits."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from medood.config.schema import ReadConfig
from medood.reasons import Reason
from medood.scans.dicom.bitstream_header import describe
from medood.scans.raster_image import RasterImage
from medood.scans.scan import ContradictionError, Identity, Reduction, RefusedError, Scan, Status
from medood.scans.tiff import MAGIC as TIFF_MAGIC
from medood.scans.tiff import read_tiff

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
#: PNG colour types with several channels: RGB, grey with alpha, RGB with alpha.
_PNG_CHANNELS = (2, 4, 6)
#: The EXIF tag Orientation.
_ORIENTATION = 274


def is_raster(content: bytes) -> bool:
    """Return whether the first bytes are those of a PNG, JPEG, TIFF or BigTIFF."""
    return content.startswith((_PNG, _JPEG, *TIFF_MAGIC))


def read_raster(
    content: bytes, identity: Identity, options: ReadConfig | None = None, least_side: int = 0
) -> Iterator[Scan]:
    """Yield the image as a scan, or one scan per page of a TIFF.

    Unsigned values of up to 8 bits are scaled by their full range; others, whose actual range the format does not state, by
    their 0.5th to 99.5th percentile. Colour becomes luminance; transparency is ignored.

    Args:
        content: the bytes of the file.
        identity: identity of the file; the page becomes the frame number.
        options: which pages to read, and the largest image.
        least_side: pixels that each side must keep where a grey JPEG can be decoded at a lower resolution; 0 decodes whole.

    Raises:
        RefusedError: the image is damaged, too large or of an unsupported kind.
    """
    options = options or ReadConfig()
    is_tiff = content.startswith(TIFF_MAGIC)
    for page, image in read_tiff(content, options) if is_tiff else [(0, _picture(content, options.max_pixels, least_side))]:
        pixels, grayscale_record = image.grey()
        page_identity = Identity(identity.source, identity.member, page, identity.sha256)
        yield Scan(page_identity, pixels, grayscale_record, colours=image.colours(), reduction=image.reduction)


def _picture(content: bytes, max_pixels: int, least_side: int) -> RasterImage:
    if content.startswith(_JPEG):
        _check_jpeg(content)
    with _decoding():
        image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        width, height = image.size
        if width * height > max_pixels:
            raise RefusedError(Status.TOO_LARGE, Reason("image_over_limit", rows=height, columns=width, limit=max_pixels))
        ignored = _left_out(image)
        if content.startswith(_PNG) and content[24] == 16 and content[25] in _PNG_CHANNELS:
            return _deep_png(content, ignored)
        reduction = None
        if least_side and image.format == "JPEG" and image.mode == "L" and (share := min(width, height) // least_side) > 1:
            image.draft("L", (width // share, height // share))
            divisor = round(width / image.width)
            reduction = Reduction(divisor, (height, width), is_centred=True) if divisor > 1 else None
        image.load()
        plugin = f"pillow {image.format}"
        if image.mode.startswith("I"):
            return RasterImage(np.asarray(image), plugin, None, ignored=ignored)
        if image.mode in ("L", "1"):
            return RasterImage(np.asarray(image.convert("L")), plugin, ignored=ignored, reduction=reduction)
        return RasterImage(np.asarray(image.convert("RGB")), plugin, ignored=ignored)


def _deep_png(content: bytes, ignored: str) -> RasterImage:
    import imagecodecs

    values = imagecodecs.png_decode(content)
    colours = 3 if values.shape[-1] > 2 else 1
    if values.shape[-1] > colours:
        ignored = ", ".join(words for words in (ignored, "transparency") if words)
    return RasterImage(values[..., 0] if colours == 1 else values[..., :3], "imagecodecs PNG", None, ignored=ignored)


def _check_jpeg(content: bytes) -> None:
    """Refuse a JPEG of a kind that Pillow cannot read and would report as damaged."""
    try:
        header = describe(content)
    except ContradictionError:  # the file is damaged, which Pillow will report
        return
    if header.precision != 8 or header.kind in ("JPEG lossless", "JPEG-LS"):
        raise RefusedError(
            Status.UNSUPPORTED_SYNTAX,
            Reason("jpeg_only_in_dicom", kind=header.kind, bits=header.precision),
        )


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn a decoder's exception on a damaged image into a refusal."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except RefusedError:
        raise
    except Exception as error:  # decoders raise many exception types
        is_cut = "truncat" in str(error).lower() or isinstance(error, (EOFError, struct.error))
        problem = Reason("it_ends_too_early") if is_cut else Reason("it_is_damaged")
        raise RefusedError(Status.UNREADABLE, Reason("image_not_decoded", problem=problem)) from error


def _left_out(image: Image.Image) -> str:
    """List in words what the file requests and the reader ignores."""
    words = []
    if image.getexif().get(_ORIENTATION, 1) != 1:
        words.append("EXIF orientation")
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        words.append("animation after the first frame")
    return ", ".join(words)
