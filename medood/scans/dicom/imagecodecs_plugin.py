"""imagecodecs as a decoding plugin for pydicom: 12-bit JPEG Extended, JPEG Lossless, JPEG-LS, and RLE.

pydicom expects :func:`is_available`, :data:`DECODER_DEPENDENCIES` and a function that decodes a frame in a plugin's module.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import numpy as np
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder, DecodeRunner
from pydicom.uid import (
    UID,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medood.reasons import Reason
from medood.scans.scan import ContradictionError

PLUGIN = "imagecodecs"
DECODER_DEPENDENCIES = dict.fromkeys(
    (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless, RLELossless),
    ("numpy", "imagecodecs>=2025.3"),
)


def is_available(uid: str) -> bool:
    """Return whether imagecodecs is installed and decodes ``uid``."""
    return uid in DECODER_DEPENDENCIES and find_spec("imagecodecs") is not None


def decode_frame(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode one frame for pydicom without converting its colour space."""
    import imagecodecs

    if runner.transfer_syntax == RLELossless:
        runner.set_option("planar_configuration", 0)
        return _decode_rle(src, runner)
    if runner.transfer_syntax in (JPEGLSLossless, JPEGLSNearLossless):
        array = imagecodecs.jpegls_decode(src)
    elif runner.samples_per_pixel == 1:
        array = imagecodecs.jpeg8_decode(src)
    else:
        array = imagecodecs.jpeg8_decode(src, colorspace="RGB", outcolorspace="RGB")
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * array.dtype.itemsize)
    return bytearray(np.ascontiguousarray(array).tobytes())


def _decode_rle(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode RLE (PS3.5 annex G). Unlike pydicom's own decoder, refuse segments whose length contradicts the header."""
    import imagecodecs

    count, *offsets = (int(v) for v in np.frombuffer(src[:64], dtype="<u4"))
    samples, width = runner.samples_per_pixel, runner.bits_allocated // 8
    if count != samples * width:
        raise ContradictionError(Reason("rle_segments", actual=count, expected=samples * width))
    pixels = runner.rows * runner.columns
    decoded, plane = bytearray(pixels * count), bytearray(pixels)
    words = np.frombuffer(decoded, dtype=np.uint8).reshape(pixels, samples, width)
    for i, (start, end) in enumerate(zip(offsets[:count], [*offsets[1:count], len(src)], strict=True)):
        try:
            length = len(imagecodecs.packbits_decode(src[start:end], out=plane))
        except imagecodecs.PackbitsError:  # longer than the plane
            length = len(imagecodecs.packbits_decode(src[start:end]))
        if length != pixels:
            raise ContradictionError(Reason("rle_segment_length", actual=length, expected=pixels))
        words[:, i // width, width - 1 - i % width] = np.frombuffer(plane, dtype=np.uint8)  # most significant byte first
    return decoded


@cache
def decoder_of(syntax: UID) -> Decoder:
    """The decoder of a transfer syntax: pydicom's, or one of medood's own with this plugin, which pydicom does not see."""
    if syntax not in DECODER_DEPENDENCIES:
        return get_decoder(syntax)
    decoder = Decoder(syntax)
    decoder.add_plugin(PLUGIN, (__name__, decode_frame.__name__))
    return decoder
