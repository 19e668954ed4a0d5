"""Decode a JPEG 2000 or baseline JPEG frame at a lower resolution, where that gives the same grey scale.

JPEG 2000 holds an image at several resolutions, each half of the next; baseline JPEG can be decoded from fewer coefficients
of each block. Both cost a small part of the whole image, and are averages of it rather than every eighth pixel.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.uid import HTJ2K, JPEG2000, UID, HTJ2KLossless, HTJ2KLosslessRPCL, JPEG2000Lossless, JPEGBaseline8Bit

from medood.scans.dicom.bitstream_header import BitstreamHeader

_JPEG_2000 = (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL)
_CODESTREAM, _CODING_STYLE, _COMPONENT_STYLE, _TILE_PART = b"\xff\x4f\xff\x51", 0x52, 0x53, 0x90
#: Baseline JPEG is decoded at 1/8 at least.
_JPEG_LEVELS = 3


def levels_to_drop(data: bytes, syntax: UID, header: BitstreamHeader, dataset: pydicom.Dataset, least_side: int) -> int:
    """How many times a frame's resolution can be halved.

    Only unsigned grey values in the lowest bits qualify, of a file that states a window or VOI LUT: a palette's indices and
    padding values must not be averaged, other words are not yet stored values, and percentiles are those of all pixels.

    Args:
        data: the encapsulated frame.
        syntax: its transfer syntax.
        header: its codestream's header.
        dataset: the data set.
        least_side: pixels that each side must keep; 0 keeps all.

    Returns:
        the number of halvings, 0 if it has to be decoded whole.
    """
    if not least_side or syntax not in (*_JPEG_2000, JPEGBaseline8Bit):
        return 0
    bits_stored = int(dataset.get("BitsStored", header.precision) or 0)
    is_plain = (
        str(dataset.get("PhotometricInterpretation")) in ("MONOCHROME1", "MONOCHROME2")
        and header.components == 1
        and not header.signed
        and not int(dataset.get("PixelRepresentation", 0) or 0)
        and header.precision >= bits_stored
        and int(dataset.get("HighBit", bits_stored - 1)) == bits_stored - 1
        and "PixelPaddingValue" not in dataset
        and "PixelPaddingRangeLimit" not in dataset
        and ("VOILUTSequence" in dataset or "WindowCenter" in dataset)
    )
    if not is_plain or min(header.rows, header.columns) < 2 * least_side:
        return 0
    wanted = (min(header.rows, header.columns) // least_side).bit_length() - 1
    return min(wanted, _JPEG_LEVELS if syntax == JPEGBaseline8Bit else _wavelet_levels(data))


def decode_reduced(data: bytes, header: BitstreamHeader, levels: int) -> npt.NDArray[Any] | None:
    """Decode a frame with each side halved ``levels`` times.

    Args:
        data: the encapsulated frame.
        header: its codestream's header.
        levels: number of halvings, at least 1.

    Returns:
        ``[H, W]`` words in the codestream's precision; ``None`` if it has to be decoded whole.
    """
    shape = tuple(-(-side >> levels) for side in (header.rows, header.columns))
    try:
        image: Any = Image.open(io.BytesIO(data), formats=("JPEG2000", "JPEG"))
        if image.format == "JPEG2000":
            image.reduce = levels
            # Pillow rounds the sides to the nearest, OpenJPEG up (T.800 B-15): give it sides that both round alike.
            image._size = tuple((side << levels) - (1 << levels >> 1) for side in reversed(shape))
        else:
            image.draft("L", (header.columns >> levels, header.rows >> levels))
        image.load()
        array = np.asarray(image)
    except Exception:  # OpenJPEG and libjpeg fail in many ways; decoding the whole frame says what is wrong
        return None
    if image.mode not in ("L", "I;16") or array.shape != shape:
        return None
    return array >> (16 - header.precision) if image.mode == "I;16" else array


def _wavelet_levels(data: bytes) -> int:
    """Decomposition levels by the main header (T.800 A.6.1); 0 if components differ."""
    position = data.find(_CODESTREAM, 0, 4096) + 2
    levels = 0
    while 2 <= position < len(data) - 12 and data[position] == 0xFF and data[position + 1] != _TILE_PART:
        if data[position + 1] == _COMPONENT_STYLE:
            return 0
        if data[position + 1] == _CODING_STYLE:
            levels = data[position + 9]
        position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
    return min(levels, 32)
