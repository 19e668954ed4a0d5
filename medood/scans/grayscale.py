"""Grey-scale steps in the order of DICOM PS3.3: modality LUT, VOI LUT or window, presentation. Pure functions on arrays.

They scale to [0, 1] by a range that the header states, never by the maximum of the data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medood.reasons import Reason
from medood.scans.scan import ContradictionError, Pixels

Values = npt.NDArray[np.float64]

#: Values of VOI LUT Function (PS3.3 C.11.2.1.3).
VOI_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
#: Percentiles that replace a window if the file states none.
DEFAULT_PERCENTILES = (0.5, 99.5)
#: Pixels painted at a time, so that the working set stays in the processor's cache.
_BLOCK = 65_536


def window(values: Values, center: float, width: float, function: str = "LINEAR") -> Values:
    """Apply a VOI window (PS3.3 C.11.2.1.2) and return values in [0, 1].

    Args:
        values: any shape, after the modality step.
        center: Window Center.
        width: Window Width, at least 1 for LINEAR, above 0 otherwise.
        function: LINEAR, LINEAR_EXACT or SIGMOID (VOI LUT Function).

    Raises:
        ValueError: the width is too small or the function is unknown.
    """
    if not (np.isfinite(center) and np.isfinite(width)):
        raise ValueError(f"Window Center is {center:g} and Window Width is {width:g}; both must be numbers")
    if function == "LINEAR":
        if width < 1:
            raise ValueError(f"Window Width is {width:g}; a LINEAR window needs at least 1")
        if width == 1:
            return np.where(values <= center - 0.5, 0.0, 1.0)
        return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)
    if width <= 0:
        raise ValueError(f"Window Width is {width:g}; a {function} window needs more than 0")
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0))))
    raise ValueError(f"VOI LUT Function is {function!r}; expected LINEAR, LINEAR_EXACT or SIGMOID")


def look_up(values: npt.NDArray[Any], table: Values, first: int) -> Values:
    """Look values up in a LUT (PS3.3 C.11.1.1, C.11.2.1.1).

    Args:
        values: any shape.
        table: the LUT's data.
        first: the value mapped to ``table[0]``; values below take the first entry, values above the last.
    """
    index = np.clip(np.rint(np.asarray(values, dtype=np.float64)) - first, 0, len(table) - 1)
    return np.asarray(table[index.astype(np.int64)], dtype=np.float64)


def percentile_window(levels: Values, counts: npt.NDArray[np.int64]) -> Values:
    """Map the 0.5th to 99.5th percentile to [0, 1], the documented default if the file states no window.

    Args:
        levels: ``[L]`` values after the modality step.
        counts: ``[L]`` number of pixels per level; 0 excludes a level (padding) from the percentiles.

    The percentiles are taken over the pixels with linear interpolation, as ``numpy.percentile`` of the whole image would
    give them. An image of a single grey value becomes all 0.
    """
    if not counts.any():
        counts = np.ones_like(counts)
    order = np.argsort(levels, kind="stable")
    rising, upto = levels[order], np.cumsum(counts[order])
    low, high = (_quantile(rising, upto, q / 100.0) for q in DEFAULT_PERCENTILES)
    if high <= low:
        low, high = float(levels[counts > 0].min()), float(levels[counts > 0].max())
    if high <= low:
        return np.zeros_like(levels)
    return np.asarray(np.clip((levels - low) / (high - low), 0.0, 1.0))


def _quantile(rising: Values, upto: npt.NDArray[np.int64], q: float) -> float:
    place = q * (int(upto[-1]) - 1)
    below, above = rising[np.searchsorted(upto, [np.floor(place), np.ceil(place)], side="right")]
    return float(below + (above - below) * (place - np.floor(place)))


def invert(unit: Values) -> Values:
    """Convert MONOCHROME1 to MONOCHROME2 after the VOI step: ``1 - x`` on [0, 1]."""
    return 1.0 - unit


def luminance(rgb: npt.NDArray[Any], top: float) -> Pixels:
    """Luminance ``[1, H, W]`` in [0, 1] of RGB ``[H, W, 3]`` in [0, top], by ITU-R BT.601 as in PS3.3 C.7.6.3.1.2."""
    weights = (np.array([0.299, 0.587, 0.114]) / top).astype(np.float32)
    image = np.empty((1, *rgb.shape[:2]), dtype=np.float32)
    step = max(1, _BLOCK // max(1, rgb.shape[1]))
    for start in range(0, len(rgb), step):
        np.matmul(rgb[start : start + step].astype(np.float32), weights, out=image[0, start : start + step])
    return np.minimum(image, np.float32(1.0), out=image)


class Levels:
    """The distinct words of an image. The grey scale depends on the stored word alone, so it is computed once per level
    and then painted, which is exact and takes one pass over the pixels.

    Args:
        image: ``[H, W]``, integers or floats.

    Attributes:
        words: ``[L]`` ascending; every word of the image, and for 8- and 16-bit images also those in between.
    """

    def __init__(self, image: npt.NDArray[Any]) -> None:
        if image.dtype.kind in "iu" and image.dtype.itemsize <= 2:
            self._unsigned = np.dtype(f"u{image.dtype.itemsize}")
            self._index = np.ascontiguousarray(image, image.dtype.newbyteorder("=")).view(self._unsigned)
            self.words = np.arange(int(image.min()), int(image.max()) + 1)
            self._places = self.words.astype(self._unsigned)
        else:
            self.words, index = np.unique(image, return_inverse=True)
            self._index = index.reshape(image.shape)
            self._places = np.arange(len(self.words))

    def counts(self) -> npt.NDArray[np.int64]:
        """Return ``[L]``, the number of pixels of each word."""
        counts = np.bincount(self._index.ravel(), minlength=int(self._places.max()) + 1)
        return np.asarray(counts[self._places], dtype=np.int64)

    def paint(self, unit: Values) -> Pixels:
        """Paint the image ``[1, H, W]`` with ``[L]`` grey values in [0, 1]."""
        table = np.zeros(int(self._places.max()) + 1, dtype=np.float32)
        table[self._places] = unit
        flat = self._index.ravel()
        image = np.empty(flat.size, dtype=np.float32)
        for start in range(0, flat.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            np.take(table, flat[block], out=image[block], mode="clip")
        return image.reshape(1, *self._index.shape)


def as_pixels(unit: Values) -> Pixels:
    """Give ``[H, W]`` values in [0, 1] the shape and type of ``Scan.pixels``."""
    return np.ascontiguousarray(unit, dtype=np.float32)[None]


def stored_values(raw: npt.NDArray[Any], bits_stored: int, high_bit: int, *, signed: bool) -> npt.NDArray[np.int64]:
    """Extract stored values from unpacked words (PS3.5 section 8.1.1): shift, mask, and extend the sign.

    Args:
        raw: integers as stored in the file.
        bits_stored: Bits Stored.
        high_bit: High Bit; the stored value occupies ``high_bit - bits_stored + 1`` to ``high_bit``.
        signed: Pixel Representation is 1.

    Raises:
        ContradictionError: Bits Stored and High Bit do not fit together.
    """
    shift = high_bit - bits_stored + 1
    if not 1 <= bits_stored <= 64 or shift < 0:
        raise ContradictionError(Reason("bits_contradict", stored=bits_stored, high=high_bit))
    words = raw.astype(np.int64) >> shift
    if bits_stored >= 63:
        return words
    words &= (1 << bits_stored) - 1
    if signed:
        words = np.where(words >= 1 << (bits_stored - 1), words - (1 << bits_stored), words)
    return words
