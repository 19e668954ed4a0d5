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
from medood.scans.dicom.attributes import OptionalAttributes
from medood.scans.dicom.pixel_data import Frame
from medood.scans.scan import ContradictionError, Grayscale, Pixels

#: Photometric interpretations that can be read, and the samples per pixel that each needs.
SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3} | dict.fromkeys(
    ("YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420"), 3
)

#: Share of a lossy picture's pixels that may lie farther beyond Bits Stored than the range's ``_SLACK``-th part.
_MOST_BEYOND, _SLACK = 0.01, 16
#: A grey level of 8 bits: pixels that differ by less look the same.
_GREY_STEP = 1 / 256


def grey_picture(frame: Frame, header: pydicom.Dataset) -> tuple[Pixels, Grayscale]:
    """Grey values of one frame.

    An optional attribute that is empty, has no usable value, or would map every pixel to one grey value counts as absent.

    Args:
        frame: as decoded.
        header: the frame's attributes; those of its functional groups are merged in.

    Returns:
        ``[1, H, W]`` in [0, 1], bone white, and how they were made.

    Raises:
        ContradictionError: an attribute that is needed makes no sense.
    """
    optional = OptionalAttributes(header)
    if frame.array.ndim == 3 and frame.array.shape[-1] == 3:
        return _luminance(frame, header), Grayscale(plugin=frame.plugin, ignored=_ignored(frame, header, optional))
    if frame.array.ndim != 2:
        raise ContradictionError(f"a frame has the shape {frame.array.shape}; expected rows by columns, or three colours")
    levels = grayscale.Levels(frame.array)
    stored = stored_levels(levels, frame, header)
    if str(header.PhotometricInterpretation) == "PALETTE COLOR":
        _check_palette(header)
        colours = apply_color_lut(stored[None], header)
        top = int(np.iinfo(colours.dtype).max)
        if top == 65535 and int(colours.max()) < 256:  # it states 16 bits and holds 8
            top = 255
        unit = grayscale.luminance(colours[..., :3], float(top))[0, 0]
        if levels.words.size > 1 and _is_flat(unit, levels, None, _GREY_STEP):
            raise ContradictionError("the palette gives all pixels one grey value")
        how = Grayscale("palette", plugin=frame.plugin, ignored=_ignored(frame, header, optional))
        return levels.paint(unit.astype(np.float64)), how
    padding = _padding(stored, header, optional)
    if padding is not None and _is_flat(stored.astype(np.float64), levels, padding, 0.5):
        optional.note("PixelPaddingValue")  # all that it leaves is one value
        padding = None
    values, modality = _modality(stored, levels, padding, header, optional)
    unit, voi = _voi(values, modality, levels, padding, header, optional)
    inverted = _inverted(header, optional)
    if inverted != "no":
        unit = grayscale.invert(unit)
    if padding is not None:
        unit = np.where(padding, 0.0, unit)
    if not np.isfinite(unit).all():
        raise ContradictionError("some of them are not numbers")
    return levels.paint(unit), Grayscale(modality, voi, inverted, frame.plugin, _ignored(frame, header, optional))


def _ignored(frame: Frame, header: pydicom.Dataset, optional: OptionalAttributes) -> str:
    unusable = [f"no usable {name}" for name in optional.unusable]
    return ", ".join(words for words in (_overlays(header), frame.rest, *unusable) if words)


def stored_levels(levels: grayscale.Levels, frame: Frame, header: pydicom.Dataset) -> npt.NDArray[Any]:
    """Stored values ``[L]`` of a frame's words, by Bits Stored, High Bit and Pixel Representation (PS3.5 section 8.1.1).

    Raises:
        ContradictionError: the bits do not fit together.
    """
    words = levels.words
    allocated, bits_stored = int(header.BitsAllocated), _bits_stored(header)
    if frame.is_stored or allocated == 1:
        return words
    high_bit = int(header.get("HighBit", bits_stored - 1))
    if frame.precision is not None and (frame.precision <= high_bit or _fits(words, bits_stored)):
        high_bit = bits_stored - 1  # a codestream may hold stored values lowest, whatever High Bit says of the cell
    if bits_stored > allocated or high_bit >= allocated:
        raise ContradictionError(f"Bits Stored is {bits_stored} and High Bit is {high_bit}, Bits Allocated is {allocated}")
    signed = bool(header.get("PixelRepresentation", 0))
    if frame.is_signed and not signed and int(words.max()) >= 1 << (frame.precision or 1) - 1:
        raise ContradictionError("the header says the values are unsigned, the pixel data hold negative ones")
    if frame.is_lossy:
        return _clipped(levels, bits_stored, signed=signed)
    return grayscale.stored_values(words, bits_stored, high_bit, signed=signed)


def _fits(words: npt.NDArray[Any], bits: int) -> bool:
    low = int(words.min())
    return (low >= 0 and int(words.max()) < 1 << bits) or (low >= -(1 << (bits - 1)) and int(words.max()) < 1 << (bits - 1))


def _bits_stored(header: pydicom.Dataset) -> int:
    return int(header.get("BitsStored", header.BitsAllocated))


def _clipped(levels: grayscale.Levels, bits_stored: int, *, signed: bool) -> npt.NDArray[Any]:
    """Stored values of a lossy codestream, which may leave their range by a little: they are clipped, not masked."""
    words = levels.words.astype(np.int64)
    if signed and words.min() >= 0:  # the sign was not extended before the values were compressed
        words = np.where(words >= 1 << (bits_stored - 1), words - (1 << bits_stored), words)
    low, high = (-(1 << (bits_stored - 1)), (1 << (bits_stored - 1)) - 1) if signed else (0, (1 << bits_stored) - 1)
    slack = (1 << bits_stored) // _SLACK
    beyond = (words < low - slack) | (words > high + slack)
    if beyond.any() and levels.counts()[beyond].sum() > _MOST_BEYOND * levels.counts().sum():
        raise ContradictionError(f"Bits Stored is {bits_stored}, and too many pixels need more")
    return np.clip(words, low, high)


def _luminance(frame: Frame, header: pydicom.Dataset) -> Pixels:
    top = 2 ** min(frame.precision or 64, _bits_stored(header)) - 1
    colours = np.minimum(frame.array, top) if frame.is_lossy else frame.array
    if header.get("PixelRepresentation", 0) or int(frame.array.max()) > top:
        raise ContradictionError(f"the colours are not in 0 to {top}, which Bits Stored and Pixel Representation say")
    return grayscale.luminance(colours, float(top))


def _is_flat(grey: grayscale.Values, levels: grayscale.Levels, padding: npt.NDArray[np.bool_] | None, step: float) -> bool:
    """Whether all pixels that are no padding have one value, but for less than ``step``."""
    if padding is None and abs(grey[-1] - grey[0]) >= step:  # the lowest and the highest level are of the picture
        return False
    shown = levels.counts() > 0 if padding is None else (levels.counts() > 0) & ~padding
    return bool(shown.any()) and float(np.ptp(grey[shown])) < step


def _modality(
    stored: npt.NDArray[Any],
    levels: grayscale.Levels,
    padding: npt.NDArray[np.bool_] | None,
    header: pydicom.Dataset,
    optional: OptionalAttributes,
) -> tuple[grayscale.Values, str]:
    """PS3.3 C.11.1: a modality LUT, or rescale slope and intercept, or neither; and which, in words."""
    plain = stored.astype(np.float64)
    is_flat = levels.words.size == 1 or _is_flat(plain, levels, padding, 0.5)
    item = optional.first_item("ModalityLUTSequence")
    if item is not None:
        try:
            table, first, _ = _table(item, signed=bool(header.get("PixelRepresentation", 0)))
            values = grayscale.look_up(stored, table, first)
            if is_flat or not _is_flat(values, levels, padding, 0.5):
                return values, "modality lut"
        except Exception:  # noqa: S110 - its items may be of any kind; the film is not lost for them
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


def _inverted(header: pydicom.Dataset, optional: OptionalAttributes) -> str:
    """What asks for white to be made black: PS3.3 C.11.4 and C.7.6.3.1.2. Either is enough, both do not cancel."""
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
    """PS3.3 C.11.2: a VOI LUT, or a window, or percentiles where neither can be used; and which, in words."""
    is_flat = levels.words.size == 1 or _is_flat(values, levels, padding, 1e-9)
    item = optional.first_item("VOILUTSequence")
    if item is not None:
        # the first value mapped is signed where the values can be: never behind a modality LUT, whose output is unsigned
        signed = modality != "modality lut" and (bool(header.get("PixelRepresentation", 0)) or values.min() < 0)
        try:
            table, first, bits = _table(item, signed=signed)
            held = int(table.max()).bit_length()
            narrow = f" of {held} bits, not the {bits} stated" if held < bits - 1 else ""
            unit = grayscale.look_up(values, table, first) / (2.0 ** (held if narrow else bits) - 1)
            if is_flat or not _is_flat(unit, levels, padding, _GREY_STEP):
                return unit, f"voi lut 1/{len(header.VOILUTSequence)}{narrow}"
        except Exception:  # noqa: S110 - its items may be of any kind; the film is not lost for them
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
            default = f"percentile 0.5-99.5, because every pixel is the same in the {words}"
        except ValueError:
            default = f"percentile 0.5-99.5, for the unusable {words}"
    counts = levels.counts()
    return grayscale.percentile_window(values, counts if padding is None else np.where(padding, 0, counts)), default


def _padding(
    stored: npt.NDArray[Any], header: pydicom.Dataset, optional: OptionalAttributes
) -> npt.NDArray[np.bool_] | None:
    """Which stored values are padding (PS3.3 C.7.5.1.1.2), or none."""
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
        ends = [_signed(int(end), header, _bits_stored(header)) for end in ends]
    mask = np.asarray((stored >= min(ends)) & (stored <= max(ends)))
    return mask if mask.any() and not mask.all() else None


def _signed(value: int, header: pydicom.Dataset, bits: int) -> int:
    """A value of a signed picture that was written as unsigned, a common fault of writers, with its sign."""
    negative = int(header.get("PixelRepresentation", 0) or 0) == 1 and value >= 1 << (bits - 1)
    return value - (1 << max(bits, value.bit_length())) if negative else value


def _overlays(header: pydicom.Dataset) -> str:
    """Overlay planes (PS3.3 C.9.2) are drawings over the film; they are left out of the grey values, and that is said."""
    tags = list(header.keys())
    planes = {tag >> 16 for tag in tags if 0x6000 <= tag >> 16 <= 0x601E and tag & 0xFFFF in (0x0010, 0x3000)}
    return f"{len(planes)} overlay" + "s" * (len(planes) > 1) if planes else ""
