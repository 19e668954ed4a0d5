"""Grey values in the order of DICOM PS3.3: modality LUT, VOI LUT or window, presentation. Pure functions on arrays.

The modality step (PS3.3 C.11.1) is pydicom's ``apply_modality_lut``; the steps after it are here, because they end in
[0, 1] on a range that the header states, never on the maximum of the data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medood.scans.scan import Pixels

Values = npt.NDArray[np.float64]

#: Percentiles that stand in for a window where the file states none.
DEFAULT_PERCENTILES = (0.5, 99.5)


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


def voi_lut(values: Values, data: npt.NDArray[np.float64], first: int, bits: int) -> Values:
    """Look values up in a VOI LUT (PS3.3 C.11.2.1.1) and scale its output range ``[0, 2**bits - 1]`` to [0, 1].

    Args:
        values: any shape, after the modality step.
        data: the table.
        first: the stored value mapped to ``data[0]``; values below take the first entry, values above the last.
        bits: the third entry of the LUT descriptor.
    """
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(data) - 1)
    return np.clip(data[index] / float(2**bits - 1), 0.0, 1.0)


def percentile_window(values: Values, ignore: npt.NDArray[np.bool_] | None = None) -> Values:
    """The documented default where the file states no window: 0.5th to 99.5th percentile to [0, 1].

    Args:
        values: any shape.
        ignore: same shape, true where a value is padding and must not count.

    A picture of one grey value becomes all 0.
    """
    counted = values[~ignore] if ignore is not None and not ignore.all() else values
    low, high = np.percentile(counted, DEFAULT_PERCENTILES)
    if high <= low:
        low, high = float(counted.min()), float(counted.max())
    if high <= low:
        return np.zeros_like(values)
    return np.asarray(np.clip((values - low) / (high - low), 0.0, 1.0))


def invert(unit: Values) -> Values:
    """Turn MONOCHROME1 into MONOCHROME2 sense after the VOI step: ``1 - x`` on [0, 1]."""
    return 1.0 - unit


def luminance(rgb: Values) -> Values:
    """Luminance of ``[..., 3]`` RGB by ITU-R BT.601, the weights of PS3.3 C.7.6.3.1.2 for YBR_FULL."""
    return np.asarray(rgb[..., 0] * 0.299 + rgb[..., 1] * 0.587 + rgb[..., 2] * 0.114)


def as_pixels(unit: Values) -> Pixels:
    """Give ``[H, W]`` values in [0, 1] the shape and type of ``Scan.pixels``."""
    return np.ascontiguousarray(unit, dtype=np.float32)[None]


def stored_values(raw: npt.NDArray[Any], bits_stored: int, high_bit: int, *, signed: bool) -> npt.NDArray[np.int64]:
    """Stored values out of unpacked words (PS3.5 section 8.1.1): shift, mask, and extend the sign.

    Args:
        raw: integers as they lie in the file.
        bits_stored: Bits Stored.
        high_bit: High Bit; the stored value occupies ``high_bit - bits_stored + 1`` to ``high_bit``.
        signed: Pixel Representation is 1.

    Raises:
        ValueError: the bits do not fit.
    """
    shift = high_bit - bits_stored + 1
    if not 1 <= bits_stored <= 64 or shift < 0:
        raise ValueError(f"Bits Stored is {bits_stored} and High Bit is {high_bit}; they do not fit together")
    words = raw.astype(np.int64) >> shift
    if bits_stored >= 63:
        return words
    words &= (1 << bits_stored) - 1
    if signed:
        words = np.where(words >= 1 << (bits_stored - 1), words - (1 << bits_stored), words)
    return words
