"""Read TIFF and BigTIFF pages as raster images with tifffile."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from medood.config.schema import ReadConfig
from medood.reasons import Reason
from medood.scans.frames import wanted_frames
from medood.scans.raster_image import RasterImage
from medood.scans.scan import RefusedError, Status

# tifffile logs what it skips in a damaged file; anything that matters here becomes a refusal

#: TIFF and BigTIFF in either byte order.
MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
#: Supported photometric interpretations, and the samples per pixel that each needs.
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _YCBCR: 3}
#: Compressions that hold complete JPEG images, whose decoders convert YCbCr to RGB.
_JPEG = (6, 7, 34892)
_ORIENTATION = 274


def read_tiff(content: bytes, options: ReadConfig) -> Iterator[tuple[int, RasterImage]]:
    """Yield the requested pages with their numbers.

    Args:
        content: the bytes of the file.
        options: which pages to read, and the largest image.

    Raises:
        RefusedError: a page is damaged, too large or of an unsupported kind.
    """
    try:
        file = tifffile.TiffFile(io.BytesIO(content))
        count = _pages(file, options)
    except RefusedError:
        raise
    except Exception as error:  # damaged directories fail in many ways
        raise RefusedError(
            Status.UNREADABLE, Reason("image_not_decoded", problem=Reason("header_damaged_or_cut"))
        ) from error
    stacked = int((file.imagej_metadata or {}).get("images", 1)) if file.is_imagej else 1
    for number in wanted_frames(options.frames, count, options.max_frames):
        try:
            yield number, _page(file.pages[number], len(content), options.max_pixels)
        except RefusedError:
            raise
        except Exception as error:  # as above
            raise RefusedError(Status.UNREADABLE, Reason("image_not_decoded", problem=Reason("damaged_or_cut"))) from error
    if stacked > count and options.frames != "first":
        raise RefusedError(Status.UNSUPPORTED_SYNTAX, Reason("imagej_stack", count=stacked - count))


def _pages(file: tifffile.TiffFile, options: ReadConfig) -> int:
    """Count the pages, or return 1 if only the first is wanted: finding each further page takes time."""
    count = 1
    while options.frames != "first" and count <= 10 * options.max_frames:
        try:
            file.pages[count]
        except IndexError:
            break
        count += 1
    return count


def _page(page: Any, size: int, max_pixels: int) -> RasterImage:
    rows, columns = int(page.imagelength), int(page.imagewidth)
    if rows * columns > max_pixels:
        raise RefusedError(Status.TOO_LARGE, Reason("image_over_limit", rows=rows, columns=columns, limit=max_pixels))
    photometric, samples = int(page.photometric), int(page.samplesperpixel)
    colours = _COLOURS.get(photometric)
    _check_supported(page, colours)
    assert colours is not None
    if samples < colours or rows < 1 or columns < 1:
        raise RefusedError(Status.UNREADABLE, Reason("image_not_decoded", problem=Reason("tiff_too_few")))
    values = _decode(page, size, max_pixels)[..., :colours]
    notes = ["EXIF orientation"] if page.tags.valueof(_ORIENTATION, 1) != 1 else []
    if samples > colours:
        notes.append("transparency" if samples == colours + 1 else f"{samples - colours} further samples")
    plugin, ignored = "tifffile", ", ".join(notes)
    bits = int(page.bitspersample)
    depth = bits if values.dtype.kind in "ub" and bits <= 8 else None
    if photometric == _PALETTE:
        colormap = np.asarray(page.colormap)
        if int(values.max()) >= colormap.shape[1]:
            raise RefusedError(Status.UNREADABLE, Reason("image_not_decoded", problem=Reason("palette_too_short")))
        shift = 8 if int(colormap.max()) > 255 else 0  # some writers use only 8 of the 16 bits
        return RasterImage((colormap.T[values[..., 0]] >> shift).astype(np.uint8), plugin, 8, ignored=ignored)
    if colours == 3:
        return RasterImage(values, plugin, depth, ignored=ignored)
    return RasterImage(values[..., 0], plugin, depth, photometric == _WHITE_IS_ZERO, ignored)


def _check_supported(page: Any, colours: int | None) -> None:
    """Refuse a page that would be read wrongly or not at all, and name the unsupported feature."""
    missing = None
    compression = getattr(page.compression, "name", str(page.compression))
    if colours is None:
        name = getattr(page.photometric, "name", "")
        missing = Reason("tiff_photometric", name=name) if name else Reason("tiff_photometric_unknown")
    elif int(page.photometric) == _YCBCR and int(page.compression) not in _JPEG:
        missing = Reason("tiff_ycbcr")
    elif colours == 1 and int(page.samplesperpixel) - len(page.extrasamples) > 1:
        missing = Reason("tiff_grey_samples")
    elif page.dtype is None or page.dtype.kind not in "buif" or not isinstance(page.bitspersample, int):
        missing = Reason("tiff_sample_format")
    elif page.imagedepth > 1:
        missing = Reason("tiff_volume")
    elif int(page.compression) != 1 and int(page.compression) not in tifffile.TIFF.DECOMPRESSORS:
        missing = Reason("tiff_compression", name=compression)
    if missing:
        raise RefusedError(Status.UNSUPPORTED_SYNTAX, Reason("tiff_unsupported", feature=missing))


def _decode(page: Any, size: int, max_pixels: int) -> npt.NDArray[Any]:
    """Decode a page to ``[H, W, samples]``; unlike ``TiffPage.asarray``, never fill a missing or short strip with black."""
    segment = (
        page.tilelength * page.tilewidth if page.is_tiled else min(page.rowsperstrip, page.imagelength) * page.imagewidth
    )
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or segment > 4 * max_pixels or min(page.databytecounts) < 1:
        raise ValueError("strips or tiles are missing or too large")
    if max(ends) > size:
        raise RefusedError(Status.UNREADABLE, Reason("file_cut", actual=size, expected=max(ends)))
    planes, _, rows, columns, samples = page.shaped
    values = np.empty((planes, rows, columns, samples), page.dtype)
    remaining = planes * rows * columns
    for strip, (plane, _, top, start, _), shape in page.segments(maxworkers=1):
        height, width = min(rows - top, shape[1]), min(columns - start, shape[2])
        part = strip[0, :height, :width]
        if part.shape != (height, width, samples):
            raise ValueError("a strip or tile holds too few pixels")
        values[plane, top : top + height, start : start + width] = part
        remaining -= height * width
    if remaining:
        raise ValueError("strips or tiles are missing")
    return values[0] if planes == 1 else np.moveaxis(values[..., 0], 0, -1)
