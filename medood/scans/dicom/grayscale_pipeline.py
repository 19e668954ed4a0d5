"""Apply the grey-scale attributes of a DICOM header in the order of PS3.3 C.11 and PS3.4 N.2.

Stored word -> stored value -> modality LUT or rescale -> VOI LUT or window -> presentation -> [0, 1]. The arithmetic is in
:mod:`medood.scans.grayscale`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels import apply_color_lut

from medood.reasons import Reason
from medood.scans import grayscale
from medood.scans.dicom.attributes import OptionalAttributes
from medood.scans.dicom.pixel_data import Frame
from medood.scans.scan import ContradictionError, Grayscale, Pixels

#: Supported photometric interpretations, and the samples per pixel that each needs.
SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3} | dict.fromkeys(
    ("YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420"), 3
)

#: Fraction of a lossy image's pixels that may exceed the range of Bits Stored by more than 1/``_SLACK`` of it.
_MAX_OUTSIDE, _SLACK = 0.01, 16
#: One grey level of 8 bits: pixels that differ by less look the same.
_GREY_STEP = 1 / 256


def grey_picture(frame: Frame, header: pydicom.Dataset) -> tuple[Pixels, Grayscale]:
    """Compute the grey values of one frame.

    An optional attribute that is empty, unusable, or would map every pixel to the same grey value counts as absent.

    Args:
        frame: the decoded frame.
        header: the frame's attributes, with those of its functional groups merged in.

    Returns:
        ``[1, H, W]`` in [0, 1], bone white, and the record of how they were made.

    Raises:
        ContradictionError: a required attribute is invalid.
    """
    optional = OptionalAttributes(header)
    if frame.array.ndim == 3 and frame.array.shape[-1] == 3:
        return _luminance(frame, header), Grayscale(plugin=frame.plugin, ignored=_ignored_note(frame, header, optional))
    if frame.array.ndim != 2:
        raise ContradictionError(Reason("frame_shape", shape=str(frame.array.shape)))
    levels = grayscale.Levels(frame.array)
    stored = stored_levels(levels, frame, header)
    if str(header.PhotometricInterpretation) == "PALETTE COLOR":
        _check_palette(header)
        colours = apply_color_lut(stored[None], header)
        top = int(np.iinfo(colours.dtype).max)
        if top == 65535 and int(colours.max()) < 256:  # 16 bits stated, 8 used
            top = 255
        unit = grayscale.luminance(colours[..., :3], float(top))[0, 0]
        if levels.words.size > 1 and _is_flat(unit, levels, None, _GREY_STEP):
            raise ContradictionError(Reason("palette_uniform"))
        grayscale_record = Grayscale("palette", plugin=frame.plugin, ignored=_ignored_note(frame, header, optional))
        return levels.paint(unit.astype(np.float64)), grayscale_record
    padding = _padding(stored, header, optional)
    if padding is not None and _is_flat(stored.astype(np.float64), levels, padding, 0.5):
        optional.note("PixelPaddingValue")  # without padding, only one value remains
        padding = None
    values, modality = _modality(stored, levels, padding, header, optional)
    unit, voi = _voi(values, modality, levels, padding, header, optional)
    inverted = _invert(header, optional)
    if inverted != "no":
        unit = grayscale.invert(unit)
    if padding is not None:
        unit = np.where(padding, 0.0, unit)
    if not np.isfinite(unit).all():
        raise ContradictionError(Reason("values_not_finite"))
    divisor = frame.reduction.divisor if frame.reduction else 1
    record = Grayscale(modality, voi, inverted, frame.plugin, _ignored_note(frame, header, optional), divisor)
    return levels.paint(unit), record


def _ignored_note(frame: Frame, header: pydicom.Dataset, optional: OptionalAttributes) -> str:
    unusable = [f"no usable {name}" for name in optional.unusable]
    return ", ".join(words for words in (_overlays(header), frame.rest, *unusable) if words)


def stored_levels(levels: grayscale.Levels, frame: Frame, header: pydicom.Dataset) -> npt.NDArray[Any]:
    """Convert a frame's words to stored values ``[L]`` by Bits Stored, High Bit and Pixel Representation (PS3.5 8.1.1).

    Raises:
        ContradictionError: the bits do not fit together.
    """
    words = levels.words
    allocated, bits_stored = int(header.BitsAllocated), _bits_stored(header)
    if frame.is_stored or allocated == 1:
        return words
    high_bit = int(header.get("HighBit", bits_stored - 1))
    if frame.precision is not None and (frame.precision <= high_bit or _fits(words, bits_stored)):
        high_bit = bits_stored - 1  # a codestream may hold the stored values in its lowest bits, whatever High Bit says
    if bits_stored > allocated or high_bit >= allocated:
        raise ContradictionError(Reason("bits_contradict_allocated", stored=bits_stored, high=high_bit, allocated=allocated))
    signed = bool(header.get("PixelRepresentation", 0))
    if frame.is_signed and not signed and int(words.max()) >= 1 << (frame.precision or 1) - 1:
        raise ContradictionError(Reason("negative_unexpected"))
    if frame.is_lossy:
        return _clip(levels, bits_stored, signed=signed)
    return grayscale.stored_values(words, bits_stored, high_bit, signed=signed)


def _fits(words: npt.NDArray[Any], bits: int) -> bool:
    low = int(words.min())
    return (low >= 0 and int(words.max()) < 1 << bits) or (low >= -(1 << (bits - 1)) and int(words.max()) < 1 << (bits - 1))


def _bits_stored(header: pydicom.Dataset) -> int:
    return int(header.get("BitsStored", header.BitsAllocated))


def _clip(levels: grayscale.Levels, bits_stored: int, *, signed: bool) -> npt.NDArray[Any]:
    """Convert words of a lossy codestream to stored values; as they may slightly exceed the range, clip, do not mask."""
    words = levels.words.astype(np.int64)
    if signed and words.min() >= 0:  # the sign was not extended before the values were compressed
        words = np.where(words >= 1 << (bits_stored - 1), words - (1 << bits_stored), words)
    low, high = (-(1 << (bits_stored - 1)), (1 << (bits_stored - 1)) - 1) if signed else (0, (1 << bits_stored) - 1)
    slack = (1 << bits_stored) // _SLACK
    outside = (words < low - slack) | (words > high + slack)
    if outside.any() and levels.counts()[outside].sum() > _MAX_OUTSIDE * levels.counts().sum():
        raise ContradictionError(Reason("bits_exceeded", stored=bits_stored))
    return np.clip(words, low, high)


def colours_of(frame: Frame, header: pydicom.Dataset) -> npt.NDArray[np.uint8] | None:
    """Red, green and blue ``[H, W, 3]`` of a frame with 8 bits each; None for any other."""
    is_colour = frame.array.ndim == 3 and frame.array.dtype == np.uint8 and _bits_stored(header) == 8
    return frame.array if is_colour else None


def _luminance(frame: Frame, header: pydicom.Dataset) -> Pixels:
    top = 2 ** min(frame.precision or 64, _bits_stored(header)) - 1
    colours = np.minimum(frame.array, top) if frame.is_lossy else frame.array
    if header.get("PixelRepresentation", 0) or int(frame.array.max()) > top:
        raise ContradictionError(Reason("colours_exceeded", top=top))
    return grayscale.luminance(colours, float(top))


def _is_flat(grey: grayscale.Values, levels: grayscale.Levels, padding: npt.NDArray[np.bool_] | None, step: float) -> bool:
    """Return whether all pixels that are not padding differ by less than ``step``."""
    if padding is None and abs(grey[-1] - grey[0]) >= step:  # without padding, the end levels are in the image
        return False
    visible = levels.counts() > 0 if padding is None else (levels.counts() > 0) & ~padding
    return bool(visible.any()) and float(np.ptp(grey[visible])) < step


def _modality(
    stored: npt.NDArray[Any],
    levels: grayscale.Levels,
    padding: npt.NDArray[np.bool_] | None,
    header: pydicom.Dataset,
    optional: OptionalAttributes,
) -> tuple[grayscale.Values, str]:
    """Apply the modality LUT, rescale slope and intercept, or neither (PS3.3 C.11.1), and state in words which."""
    plain = stored.astype(np.float64)
    is_flat = levels.words.size == 1 or _is_flat(plain, levels, padding, 0.5)
    item = optional.first_item("ModalityLUTSequence")
    if item is not None:
        try:
            table, first, _ = _table(item, signed=bool(header.get("PixelRepresentation", 0)))
            values = grayscale.look_up(stored, table, first)
            if is_flat or not _is_flat(values, levels, padding, 0.5):
                return values, "modality lut"
        except Exception:  # noqa: S110 - its items may be of any kind; the radiograph is not lost for them
            pass
        optional.note("ModalityLUTSequence")
    slope, intercept = optional.number("RescaleSlope"), optional.number("RescaleIntercept")
    if slope is not None and intercept is not None:
        values = plain * slope + intercept
        if slope != 0 and np.isfinite(values).all() and np.ptp(values) >= abs(slope) * np.ptp(plain) / 2:
            return values, f"rescale slope={slope:g} intercept={intercept:g}"
        optional.note("RescaleSlope")
    return plain, "none"


def _table(item: pydicom.Dataset, *, signed: bool) -> tuple[npt.NDArray[np.float64], int, int]:
    """Return a LUT's data, first value mapped and bits (PS3.3 C.11.1.1), whichever way the writer packed them."""
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    entries = entries % 65536 or 65536
    data: Any = item.LUTData
    if isinstance(data, bytes):
        order = ">" if item.original_encoding[1] is False else "<"
        is_packed = len(data) in (entries, entries + 1)  # one byte per entry
        data = np.frombuffer(data[: len(data) // 2 * 2], dtype=np.uint8 if is_packed else f"{order}u2")
    else:
        data = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
        if bits == 8 and entries > len(data) >= entries // 2:  # two entries per word
            data = data.astype("<u2").view(np.uint8)
    if len(data) < entries or not 8 <= bits <= 16:
        raise ContradictionError(Reason("lut_entries", actual=len(data), bits=bits, expected=entries))
    first = first % 65536
    return data[:entries].astype(np.float64), first - 65536 if signed and first >= 32768 else first, bits


def _check_palette(header: pydicom.Dataset) -> None:
    """Refuse segmented palettes (PS3.3 C.7.9.2) that expand to more entries than a palette can hold."""
    for colour in ("Red", "Green", "Blue"):
        data = header.get(f"Segmented{colour}PaletteColorLookupTableData")
        if not isinstance(data, bytes):
            continue
        words, position, unfolded = np.frombuffer(data[: len(data) // 2 * 2], "<u2").tolist(), 0, 0
        while position + 1 < len(words):
            if words[position] > 1:
                raise ContradictionError(Reason("palette_repeats"))
            unfolded += words[position + 1]
            position += 2 + (words[position + 1] if words[position] == 0 else 1)
        if unfolded > 65536:
            raise ContradictionError(Reason("palette_too_long", actual=unfolded))


def _invert(header: pydicom.Dataset, optional: OptionalAttributes) -> str:
    """Return the attribute that requires inversion (PS3.3 C.11.4 and C.7.6.3.1.2). Either suffices; both do not cancel."""
    if optional.code("PresentationLUTShape") == "INVERSE":
        return "PresentationLUTShape INVERSE"
    return "MONOCHROME1" if str(header.PhotometricInterpretation) == "MONOCHROME1" else "no"


def _voi(
    values: grayscale.Values,
    modality: str,
    levels: grayscale.Levels,
    padding: npt.NDArray[np.bool_] | None,
    header: pydicom.Dataset,
    optional: OptionalAttributes,
) -> tuple[grayscale.Values, str]:
    """Apply a VOI LUT, a window, or percentiles if neither is usable (PS3.3 C.11.2), and state in words which."""
    is_flat = levels.words.size == 1 or _is_flat(values, levels, padding, 1e-9)
    item = optional.first_item("VOILUTSequence")
    if item is not None:
        # the first value mapped is signed if the values can be: never after a modality LUT, whose output is unsigned
        signed = modality != "modality lut" and (bool(header.get("PixelRepresentation", 0)) or values.min() < 0)
        try:
            table, first, bits = _table(item, signed=signed)
            table_bits = int(table.max()).bit_length()
            narrow = f" of {table_bits} bits, not the {bits} stated" if table_bits < bits - 1 else ""
            unit = grayscale.look_up(values, table, first) / (2.0 ** (table_bits if narrow else bits) - 1)
            if is_flat or not _is_flat(unit, levels, padding, _GREY_STEP):
                return unit, f"voi lut 1/{len(header.VOILUTSequence)}{narrow}"
        except Exception:  # noqa: S110 - its items may be of any kind; the radiograph is not lost for them
            pass
        optional.note("VOILUTSequence")
    default = "percentile 0.5-99.5"
    centers, widths = optional.numbers("WindowCenter"), optional.numbers("WindowWidth")
    if centers and widths:
        function = optional.code("VOILUTFunction") or "LINEAR"
        function = function if function in grayscale.VOI_FUNCTIONS else "of unknown function"
        words = f"window 1/{len(centers)} center={centers[0]:g} width={widths[0]:g} {function}"
        try:
            unit = grayscale.window(values, centers[0], widths[0], function)
            if is_flat or not _is_flat(unit, levels, padding, _GREY_STEP):
                return unit, words
            default = f"percentile 0.5-99.5, because every pixel becomes the same in the {words}"
        except ValueError:
            default = f"percentile 0.5-99.5, instead of the unusable {words}"
    counts = levels.counts()
    return grayscale.percentile_window(values, counts if padding is None else np.where(padding, 0, counts)), default


def _padding(
    stored: npt.NDArray[Any], header: pydicom.Dataset, optional: OptionalAttributes
) -> npt.NDArray[np.bool_] | None:
    """Return the mask of stored values that are padding (PS3.3 C.7.5.1.1.2), or None if none are."""
    if stored.dtype.kind == "f":
        name = "FloatPixelPadding" if "FloatPixelPaddingValue" in header else "DoubleFloatPixelPadding"
    else:
        name = "PixelPadding"
    value = optional.number(f"{name}Value")
    if value is None:
        return None
    limit = optional.number(f"{name}RangeLimit")
    ends = [value, value if limit is None else limit]
    if stored.dtype.kind != "f":
        ends = [_to_signed(int(end), header, _bits_stored(header)) for end in ends]
    mask = np.asarray((stored >= min(ends)) & (stored <= max(ends)))
    return mask if mask.any() and not mask.all() else None


def _to_signed(value: int, header: pydicom.Dataset, bits: int) -> int:
    """Restore the sign of a signed image's value that was written as unsigned, a common mistake of writers."""
    negative = int(header.get("PixelRepresentation", 0) or 0) == 1 and value >= 1 << (bits - 1)
    return value - (1 << max(bits, value.bit_length())) if negative else value


def _overlays(header: pydicom.Dataset) -> str:
    """Return a note on overlay planes (PS3.3 C.9.2), which the grey values omit; empty if there are none."""
    tags = list(header.keys())
    planes = {tag >> 16 for tag in tags if 0x6000 <= tag >> 16 <= 0x601E and tag & 0xFFFF in (0x0010, 0x3000)}
    return f"{len(planes)} overlay" + "s" * (len(planes) > 1) if planes else ""
