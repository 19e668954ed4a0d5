"""Pixel data to frames of stored values. pydicom's decoders do the work; what surrounds it makes sure that a header which
contradicts its pixel data is refused and never becomes a wrong picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import pydicom
from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.pixels import get_decoder
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

from medood.scans import codecs
from medood.scans.codestream import check_codestream, starts_codestream
from medood.scans.scan import ContradictionError, RefusedError, Status, told

#: The one decoder used for each encapsulated transfer syntax: those that stood 10,000 damaged files (reports/ingest).
DECODERS: dict[UID, tuple[str, str]] = {
    JPEGBaseline8Bit: ("pillow", "pillow"),
    **dict.fromkeys(codecs.DECODER_DEPENDENCIES, (codecs.PLUGIN, "imagecodecs")),
    **dict.fromkeys(
        (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL), ("pylibjpeg", "pylibjpeg pylibjpeg-openjpeg")
    ),
}

codecs.register()


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        array: ``[H, W]`` words as they lie in the file, or ``[H, W, 3]`` colours.
        plugin: what decoded them.
        aligned: the words are stored values already; else mask and sign, and a shift by High Bit, are still to be applied.
        precision: bits of a codestream's samples, which lie lowest whatever High Bit says; none without a codestream.
        rest: what follows the pixels and is left out, in words; empty where there is nothing.
    """

    array: npt.NDArray[Any]
    plugin: str
    aligned: bool
    precision: int | None = None
    rest: str = ""


def decode_frames(dataset: pydicom.Dataset, syntax: UID, wanted: range) -> Iterator[Frame]:
    """Decode the wanted frames, one at a time.

    Args:
        dataset: with ``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``.
        syntax: its transfer syntax.
        wanted: frame numbers from 0, in rising order.

    Raises:
        RefusedError: a frame cannot be decoded, or contradicts the header.
    """
    try:
        encapsulated = syntax.is_encapsulated
    except ValueError as error:  # pydicom does not know it
        raise RefusedError(
            Status.UNSUPPORTED_SYNTAX, f"the transfer syntax {syntax if syntax.is_valid else 'of the header'} is not known"
        ) from error
    if encapsulated:
        yield from _decode_encapsulated(dataset, syntax, wanted)
    else:
        yield from _decode_native(dataset, syntax, wanted)


def _decode_native(dataset: pydicom.Dataset, syntax: UID, wanted: range) -> Iterator[Frame]:
    rest = _check_native(dataset)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise RefusedError(
            Status.UNSUPPORTED_SYNTAX, f"the transfer syntax {syntax.name} ({syntax}) has no decoder"
        ) from error
    try:
        # the words themselves: which of their bits count is settled in grayscale.stored_values, for any High Bit
        options = {"correct_unused_bits": False, "view_only": True}
        for array, _ in decoder.iter_array(dataset, indices=wanted, **options):
            yield Frame(array, "pydicom", aligned=array.dtype.kind not in "iu", rest=rest)
    except Exception as error:  # pydicom raises many kinds on headers that do not hold together
        raise RefusedError(Status.UNREADABLE, f"the pixel data cannot be decoded: {told(error)}") from error


def _check_native(dataset: pydicom.Dataset) -> str:
    """Refuse pixel data of another length than the header describes; a rest of zeros no longer than a row is said."""
    for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        if name in dataset:
            break
    element = dataset[name]
    if element.is_undefined_length:
        raise RefusedError(Status.UNREADABLE, "the pixel data are compressed, the transfer syntax says they are not")
    try:
        expected = get_expected_length(dataset)
    except Exception as error:
        raise RefusedError(Status.UNREADABLE, f"the header does not describe a picture: {told(error)}") from error
    held = element.value or b""  # none where the element is empty
    surplus = len(held) - expected
    row = int(dataset.Columns) * int(dataset.SamplesPerPixel) * max(1, int(dataset.BitsAllocated) // 8)
    if surplus < 0:
        raise RefusedError(Status.UNREADABLE, f"the pixel data hold {len(held):,} bytes, the header describes {expected:,}")
    if surplus > max(row, 1) or (surplus > 1 and any(held[expected:])):
        raise RefusedError(
            Status.UNREADABLE,
            f"the pixel data hold {len(held):,} bytes, the header describes only {expected:,}: "
            "Rows, Columns, Bits Allocated or Number of Frames is wrong",
        )
    return f"{surplus} zero bytes behind the pixels" if surplus > 1 else ""


def _decode_encapsulated(dataset: pydicom.Dataset, syntax: UID, wanted: range) -> Iterator[Frame]:
    if not dataset["PixelData"].is_undefined_length:
        raise RefusedError(Status.UNREADABLE, f"the transfer syntax says {syntax.name}, the pixel data are not compressed")
    if syntax not in DECODERS:
        raise RefusedError(Status.UNSUPPORTED_SYNTAX, f"the transfer syntax {syntax.name} ({syntax}) has no decoder")
    decoder = get_decoder(syntax)
    plugin, packages = DECODERS[syntax]
    if plugin not in decoder.available_plugins:
        raise RefusedError(
            Status.UNSUPPORTED_SYNTAX, f"no installed decoder reads {syntax.name}; pip install {packages} brings one"
        )
    count = number_of_frames(dataset)
    samples, bits_stored = int(dataset.get("SamplesPerPixel", 1)), int(dataset.get("BitsStored", 8))
    try:
        _check_fragments(dataset.PixelData, syntax, count)
        streams = generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=_offsets(dataset))
        arrays, done = None, 0
        for data in (data for index, data in enumerate(streams) if index in wanted):
            shape = int(dataset.Rows), int(dataset.Columns), samples
            precision = check_codestream(data, syntax, *shape, signed=bool(dataset.get("PixelRepresentation", 0)))
            if precision is not None and precision > int(dataset.BitsAllocated):
                raise ContradictionError(f"they have {precision} bits, the header allocates {int(dataset.BitsAllocated)}")
            if arrays is None:
                plugin = "pillow" if syntax == JPEGExtended12Bit and precision == 8 else plugin
                options = {} if precision else {"correct_unused_bits": False}
                some = None if len(wanted) == count else wanted
                arrays = decoder.iter_array(dataset, indices=some, decoding_plugin=plugin, **options)
            yield Frame(next(arrays)[0], plugin, aligned=precision not in (None, bits_stored), precision=precision)
            done += 1
            if done == len(wanted):
                return
        raise ContradictionError(f"they end after {done} of {len(wanted)} frames")
    except Exception as error:  # decoders are C libraries behind many exception types
        raise RefusedError(Status.UNREADABLE, f"the pixel data cannot be decoded: {told(error)}") from error


def _check_fragments(pixel_data: bytes, syntax: UID, count: int) -> None:
    """Refuse more pictures than Number of Frames names; the rest would vanish unseen."""
    fragments = itertools.islice(generate_fragments(pixel_data), 1, None)  # the first is the basic offset table
    starts = sum(1 for fragment in fragments if starts_codestream(fragment, syntax))
    found = max(starts, len(parse_basic_offsets(pixel_data)))
    if found > count:
        raise ContradictionError(f"they hold {found} frames, the header says {count}")


def _offsets(dataset: pydicom.Dataset) -> tuple[bytes, bytes] | None:
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        return dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    return None


def number_of_frames(dataset: pydicom.Dataset) -> int:
    """Number of Frames, 1 where it is absent.

    Raises:
        RefusedError: it is no number above 0.
    """
    value = dataset.get("NumberOfFrames")
    try:
        count = 1 if value in (None, "") else int(value)
    except (TypeError, ValueError) as error:
        raise RefusedError(Status.UNREADABLE, "Number of Frames is not a number") from error
    if count < 0:
        raise RefusedError(Status.UNREADABLE, f"Number of Frames is {count}; it must be above 0")
    return count or 1
