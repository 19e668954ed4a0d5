"""The attributes of a DICOM header that make grey values, applied in the order of PS3.3 C.11 and PS3.4 N.2.

Stored word -> stored value -> modality LUT or rescale -> VOI LUT or window -> presentation -> [0, 1]. The arithmetic is in
:mod:`medood.scans.grayscale`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels import apply_color_lut

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
        return _luminance(frame, header), Grayscale(plugin=frame.plugin, ignored=ignored)
    if frame.array.ndim != 2:
        raise ContradictionError(f"a frame has the shape {frame.array.shape}; expected rows by columns, or three colours")
    levels = grayscale.Levels(frame.array)
    stored = _stored(levels.words, frame, header)
    if str(header.PhotometricInterpretation) == "PALETTE COLOR":
        _check_palette(header)
        colours = apply_color_lut(stored[None], header)
        unit = grayscale.luminance(colours[..., :3], float(np.iinfo(colours.dtype).max))[0, 0]
        return levels.paint(unit.astype(np.float64)), Grayscale("palette", plugin=frame.plugin, ignored=ignored)
    padding = _padding(stored, header)
    values = _modality(stored, header)
    unit, voi = _voi(values, header, levels, padding)
    inverted = _inverted(header)
    if inverted != "no":
        unit = grayscale.invert(unit)
    if padding is not None:
        unit = np.where(padding, 0.0, unit)
    if not np.isfinite(unit).all():
        raise ContradictionError("some of them are not numbers")
    return levels.paint(unit), Grayscale(_modality_words(header), voi, inverted, frame.plugin, ignored)


def _stored(words: npt.NDArray[Any], frame: Frame, header: pydicom.Dataset) -> npt.NDArray[Any]:
    """Stored values of words; a codestream's samples lie lowest, whatever High Bit says."""
    allocated, bits_stored = int(header.BitsAllocated), int(header.get("BitsStored", header.BitsAllocated))
    if frame.aligned or allocated == 1:
        return words
    high_bit = int(header.get("HighBit", bits_stored - 1)) if frame.precision is None else bits_stored - 1
    if bits_stored > allocated or high_bit >= allocated:
        raise ContradictionError(f"Bits Stored is {bits_stored} and High Bit is {high_bit}, Bits Allocated is {allocated}")
    return grayscale.stored_values(words, bits_stored, high_bit, signed=bool(header.get("PixelRepresentation", 0)))


def _luminance(frame: Frame, header: pydicom.Dataset) -> Pixels:
    top = 2 ** (frame.precision or int(header.get("BitsStored", header.BitsAllocated))) - 1
    if header.get("PixelRepresentation", 0) or int(frame.array.max()) > top:
        raise ContradictionError(f"the colours are not in 0 to {top}, which Bits Stored and Pixel Representation say")
    return grayscale.luminance(frame.array, float(top))


def _modality(stored: npt.NDArray[Any], header: pydicom.Dataset) -> grayscale.Values:
    """PS3.3 C.11.1: a modality LUT, or rescale slope and intercept, or neither."""
    sequence = header.get("ModalityLUTSequence")
    if sequence:
        table, first, _ = _table(sequence[0], signed=bool(header.get("PixelRepresentation", 0)))
        return grayscale.look_up(stored, table, first)
    values = stored.astype(np.float64)
    if "RescaleSlope" in header and "RescaleIntercept" in header:
        return np.asarray(values * float(header.RescaleSlope) + float(header.RescaleIntercept))
    return values


def _table(item: pydicom.Dataset, *, signed: bool) -> tuple[npt.NDArray[np.float64], int, int]:
    """A LUT's data, its first value mapped and its bits (PS3.3 C.11.1.1), whichever way the writer packed them."""
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    entries = entries % 65536 or 65536
    data: Any = item.LUTData
    if isinstance(data, bytes):
        order = ">" if item.original_encoding[1] is False else "<"
        is_packed = len(data) in (entries, entries + 1)  # one byte an entry
        data = np.frombuffer(data[: len(data) // 2 * 2], dtype=np.uint8 if is_packed else f"{order}u2")
    else:
        data = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
        if bits == 8 and entries > len(data) >= entries // 2:  # two entries a word
            data = data.astype("<u2").view(np.uint8)
    if len(data) < entries or not 8 <= bits <= 16:
        raise ContradictionError(f"a LUT holds {len(data):,} entries of {bits} bits, its descriptor says {entries:,}")
    first = first % 65536
    return data[:entries].astype(np.float64), first - 65536 if signed and first >= 32768 else first, bits


def _check_palette(header: pydicom.Dataset) -> None:
    """Refuse segmented palettes (PS3.3 C.7.9.2) that unfold to more than a palette can hold."""
    for colour in ("Red", "Green", "Blue"):
        data = header.get(f"Segmented{colour}PaletteColorLookupTableData")
        if not isinstance(data, bytes):
            continue
        words, at, unfolded = np.frombuffer(data[: len(data) // 2 * 2], "<u2").tolist(), 0, 0
        while at + 1 < len(words):
            if words[at] > 1:
                raise ContradictionError("the palette repeats segments, which is not read")
            unfolded += words[at + 1]
            at += 2 + (words[at + 1] if words[at] == 0 else 1)
        if unfolded > 65536:
            raise ContradictionError(f"the palette unfolds to {unfolded:,} entries, more than 65,536")


def _inverted(header: pydicom.Dataset) -> str:
    """What asks for white to be made black: PS3.3 C.11.4 and C.7.6.3.1.2. Either is enough, both do not cancel."""
    if str(header.get("PresentationLUTShape", "")) == "INVERSE":
        return "PresentationLUTShape INVERSE"
    return "MONOCHROME1" if str(header.PhotometricInterpretation) == "MONOCHROME1" else "no"


def _voi(
    values: grayscale.Values, header: pydicom.Dataset, levels: grayscale.Levels, padding: npt.NDArray[np.bool_] | None
) -> tuple[grayscale.Values, str]:
    sequence = header.get("VOILUTSequence")
    if sequence:
        # the first value mapped is signed where the values can be: never behind a modality LUT, whose output is unsigned
        signed = not header.get("ModalityLUTSequence") and (bool(header.get("PixelRepresentation", 0)) or values.min() < 0)
        table, first, bits = _table(sequence[0], signed=signed)
        return grayscale.look_up(values, table, first) / (2.0**bits - 1), f"voi lut 1/{len(sequence)}"
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
    if stored.dtype.kind == "f":
        name = "FloatPixelPadding" if "FloatPixelPaddingValue" in header else "DoubleFloatPixelPadding"
        value = header.get(f"{name}Value")
        if value is None:
            return None
        ends = sorted((float(value), float(header.get(f"{name}RangeLimit", value))))
        mask = np.asarray((stored >= ends[0]) & (stored <= ends[1]))
        return mask if mask.any() and not mask.all() else None
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
