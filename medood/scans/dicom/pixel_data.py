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

from medood.scans.dicom import imagecodecs_plugin
from medood.scans.dicom.bitstream_header import Codestream, check_codestream, starts_codestream
from medood.scans.scan import ContradictionError, RefusedError, Status, describe_error

#: The one decoder used for each encapsulated transfer syntax: those that stood 10,000 damaged files (reports/ingest).
DECODERS: dict[UID, tuple[str, str]] = {
    JPEGBaseline8Bit: ("pillow", "pillow"),
    **dict.fromkeys(imagecodecs_plugin.DECODER_DEPENDENCIES, (imagecodecs_plugin.PLUGIN, "imagecodecs")),
    **dict.fromkeys(
        (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL), ("pylibjpeg", "pylibjpeg pylibjpeg-openjpeg")
    ),
}

#: Options that keep pydicom from changing the decoded words; bits and sign are handled in
#: :mod:`medood.scans.dicom.grayscale_pipeline`.
_WORDS_AS_DECODED = {
    "correct_unused_bits": False,
    "apply_j2k_sign_correction": False,
    "apply_jls_sign_correction": False,
}

#: Bytes of padding behind native pixel data that are let pass: of a disk's sector always, of a disc's (2,048) where that is
#: no more than this share of the picture. Larger ones are more likely a wrong Rows or Columns.
_SECTOR, _BLOCK, _BLOCK_SHARE = 512, 2048, 16

imagecodecs_plugin.register()


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        array: ``[H, W]`` words as they lie in the file, or ``[H, W, 3]`` colours.
        plugin: what decoded them.
        is_stored: the words are stored values already; else mask and sign, and a shift by High Bit, are still to be applied.
        precision: bits of a codestream's samples; none without a codestream.
        is_lossy: the words are not exactly those that were compressed.
        is_signed: the codestream says that its samples are signed.
        rest: what follows the pixels and is left out, in words; empty where there is nothing.
    """

    array: npt.NDArray[Any]
    plugin: str
    is_stored: bool = False
    precision: int | None = None
    is_lossy: bool = False
    is_signed: bool = False
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
            Status.UNSUPPORTED_SYNTAX, "the transfer syntax is none of the standard's; convert the file with what wrote it"
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
        for array, _ in decoder.iter_array(dataset, indices=wanted, view_only=True, **_WORDS_AS_DECODED):
            yield Frame(array, "pydicom", is_stored=array.dtype.kind not in "iu", rest=rest)
    except Exception as error:  # pydicom raises many kinds on headers that do not hold together
        why = describe_error(error, "they are damaged")
        raise RefusedError(Status.UNREADABLE, f"the pixel data cannot be decoded: {why}") from error


def _check_native(dataset: pydicom.Dataset) -> str:
    """Refuse pixel data of another length than the header describes; a short rest of zeros is padding, and is said."""
    for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        if name in dataset:
            break
    element = dataset[name]
    if element.is_undefined_length:
        raise RefusedError(Status.UNREADABLE, "the pixel data are compressed, the transfer syntax says they are not")
    try:
        expected = get_expected_length(dataset)
    except Exception as error:
        why = describe_error(error, "an attribute that it needs cannot be used")
        raise RefusedError(Status.UNREADABLE, f"the header does not describe a picture: {why}") from error
    held = element.value or b""  # none where the element is empty
    surplus = len(held) - expected
    row = int(dataset.Columns) * int(dataset.SamplesPerPixel) * max(1, int(dataset.BitsAllocated) // 8)
    padding = max(row, _SECTOR, min(_BLOCK, expected // _BLOCK_SHARE))
    if surplus < 0:
        raise RefusedError(Status.UNREADABLE, f"the pixel data hold {len(held):,} bytes, the header describes {expected:,}")
    column = max(1, expected // int(dataset.Columns))  # whole columns of zeros: Columns is wrong
    if surplus > padding or (surplus > row and surplus % column == 0) or (surplus > 1 and any(held[expected:])):
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
    samples, signed = int(dataset.get("SamplesPerPixel", 1)), bool(dataset.get("PixelRepresentation", 0))
    try:
        _check_fragments(dataset.PixelData, syntax, count)
        streams = generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=_offsets(dataset))
        arrays, done = None, 0
        for data in (data for index, data in enumerate(streams) if index in wanted):
            found = check_codestream(data, syntax, int(dataset.Rows), int(dataset.Columns), samples)
            precision = found.precision if found else None
            if found:
                _check_bits(found, dataset, signed)
            if arrays is None:
                plugin = "pillow" if syntax == JPEGExtended12Bit and precision == 8 else plugin
                some = None if len(wanted) == count else wanted
                arrays = decoder.iter_array(dataset, indices=some, decoding_plugin=plugin, **_WORDS_AS_DECODED)
            lossy, has_sign = (found is not None and not found.lossless), (found is not None and found.signed)
            yield Frame(next(arrays)[0], plugin, precision=precision, is_lossy=lossy, is_signed=has_sign)
            done += 1
            if done == len(wanted):
                return
        raise ContradictionError(f"they end after {done} of {len(wanted)} frames")
    except Exception as error:  # decoders are C libraries behind many exception types
        why = describe_error(error, "they are damaged")
        raise RefusedError(Status.UNREADABLE, f"the pixel data cannot be decoded: {why}") from error


def _check_bits(found: Codestream, dataset: pydicom.Dataset, signed: bool) -> None:
    """Refuse samples that do not fit into Bits Allocated, or whose sign the header denies and Bits Stored leaves open."""
    if found.precision > int(dataset.BitsAllocated):
        raise ContradictionError(f"they have {found.precision} bits, the header allocates {int(dataset.BitsAllocated)}")
    if found.signed and not signed and found.precision <= int(dataset.get("BitsStored", dataset.BitsAllocated)):
        raise ContradictionError("the header says the values are unsigned, the pixel data are signed")


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
