"""The attributes of a DICOM header that make grey values, applied in the order of PS3.3 C.11 and PS3.4 N.2.

Stored word -> stored value -> modality LUT or rescale -> VOI LUT or window -> presentation -> [0, 1]. The arithmetic is in
:mod:`medood.scans.grayscale`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut

from medood.scans import grayscale
from medood.scans.decoding import Frame
from medood.scans.scan import ContradictionError, Grayscale, Pixels

#: Photometric interpretations that can be read, and the samples per pixel that each needs.
SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3} | dict.fromkeys(
    ("YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420"), 3
)


def grey_picture(frame: Frame, header: pydicom.Dataset) -> tuple[Pixels, Grayscale]:
    """Grey values of one frame.

    Args:
        frame: as decoded.
        header: the frame's attributes; those of its functional groups are merged in.

    Returns:
        ``[1, H, W]`` in [0, 1], bone white, and how they were made.

    Raises:
        ContradictionError: an attribute that is needed makes no sense.
    """
    ignored = ", ".join(words for words in (_overlays(header), frame.rest) if words)
    if frame.array.ndim == 3 and frame.array.shape[-1] == 3:
        top = 2.0 ** int(header.get("BitsStored", header.BitsAllocated)) - 1
        return grayscale.luminance(frame.array, top)[None], Grayscale(plugin=frame.plugin, ignored=ignored)
    if frame.array.ndim != 2:
        raise ContradictionError(f"a frame has the shape {frame.array.shape}; expected rows by columns, or three colours")
    levels = grayscale.Levels(frame.array)
    stored = levels.words
    if not frame.aligned and int(header.BitsAllocated) > 1:
        bits_stored = int(header.BitsStored)
        high_bit = int(header.get("HighBit", bits_stored - 1))
        if bits_stored > int(header.BitsAllocated):
            raise ContradictionError(
                f"Bits Stored is {bits_stored}, more than the {int(header.BitsAllocated)} bits allocated"
            )
        stored = grayscale.stored_values(stored, bits_stored, high_bit, signed=bool(header.get("PixelRepresentation", 0)))
    if str(header.PhotometricInterpretation) == "PALETTE COLOR":
        colours = apply_color_lut(stored[None], header)
        unit = grayscale.luminance(colours[..., :3], float(np.iinfo(colours.dtype).max))[0]
        return levels.paint(unit), Grayscale("palette", plugin=frame.plugin, ignored=ignored)
    padding = _padding(stored, header)
    values = np.asarray(apply_modality_lut(stored, header), dtype=np.float64)
    unit, voi = _voi(values, header, levels, padding)
    inverted = _inverted(header)
    if inverted != "no":
        unit = grayscale.invert(unit)
    if padding is not None:
        unit = np.where(padding, 0.0, unit)
    if not np.isfinite(unit).all():
        raise ContradictionError("some of them are not numbers")
    return levels.paint(unit), Grayscale(_modality_words(header), voi, inverted, frame.plugin, ignored)


def _inverted(header: pydicom.Dataset) -> str:
    """What asks for white to be made black: PS3.3 C.11.4 and C.7.6.3.1.2. Either is enough, both do not cancel."""
    if str(header.get("PresentationLUTShape", "")) == "INVERSE":
        return "PresentationLUTShape INVERSE"
    return "MONOCHROME1" if str(header.PhotometricInterpretation) == "MONOCHROME1" else "no"


def _voi(
    values: grayscale.Values, header: pydicom.Dataset, levels: grayscale.Levels, padding: npt.NDArray[np.bool_] | None
) -> tuple[grayscale.Values, str]:
    table = header.get("VOILUTSequence")
    if table:
        item = table[0]
        entries, first, bits = (int(x) for x in item.LUTDescriptor)
        data = item.LUTData
        if isinstance(data, bytes):
            order = ">" if item.original_encoding[1] is False else "<"
            data = np.frombuffer(data, dtype=f"{order}u2" if len(data) >= 2 * (entries or 65536) else np.uint8)
        looked_up = grayscale.voi_lut(values, np.asarray(data, dtype=np.float64), _signed(first, header, 16), bits)
        return looked_up, f"voi lut 1/{len(table)}"
    default = "percentile 0.5-99.5"
    centers, widths = numbers(header.get("WindowCenter")), numbers(header.get("WindowWidth"))
    if centers and widths:
        function = str(header.get("VOILUTFunction") or "LINEAR")
        function = function if function in grayscale.VOI_FUNCTIONS else "of unknown function"
        words = f"window 1/{len(centers)} center={centers[0]:g} width={widths[0]:g} {function}"
        try:
            return grayscale.window(values, centers[0], widths[0], function), words
        except ValueError:
            default = f"percentile 0.5-99.5, for the unusable {words}"
    counts = levels.counts()
    return grayscale.percentile_window(values, counts if padding is None else np.where(padding, 0, counts)), default


def _padding(stored: npt.NDArray[Any], header: pydicom.Dataset) -> npt.NDArray[np.bool_] | None:
    """Which stored values are padding (PS3.3 C.7.5.1.1.2), or none."""
    value = header.get("PixelPaddingValue")
    if value is None or isinstance(value, bytes):
        return None
    limit = header.get("PixelPaddingRangeLimit", value)
    bits = int(header.BitsStored)
    low, high = sorted(_signed(int(v), header, bits) for v in (value, limit if not isinstance(limit, bytes) else value))
    mask = np.asarray((stored >= low) & (stored <= high))
    return mask if mask.any() and not mask.all() else None


def _signed(value: int, header: pydicom.Dataset, bits: int) -> int:
    """A value of a signed picture that was written as unsigned, a common fault of writers, with its sign."""
    negative = int(header.get("PixelRepresentation", 0) or 0) == 1 and value >= 1 << (bits - 1)
    return value - (1 << max(bits, value.bit_length())) if negative else value


def _modality_words(header: pydicom.Dataset) -> str:
    if header.get("ModalityLUTSequence"):
        return "modality lut"
    if "RescaleSlope" in header and "RescaleIntercept" in header:
        return f"rescale slope={float(header.RescaleSlope):g} intercept={float(header.RescaleIntercept):g}"
    return "none"


def _overlays(header: pydicom.Dataset) -> str:
    """Overlay planes (PS3.3 C.9.2) are drawings over the film; they are left out of the grey values, and that is said."""
    tags = list(header.keys())
    planes = {tag >> 16 for tag in tags if 0x6000 <= tag >> 16 <= 0x601E and tag & 0xFFFF in (0x0010, 0x3000)}
    return f"{len(planes)} overlay" + "s" * (len(planes) > 1) if planes else ""


def numbers(value: Any) -> list[float]:
    """A decimal attribute as a list, whatever its multiplicity; empty where it is absent."""
    if value is None or value == "":
        return []
    return [float(v) for v in (value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value])]
