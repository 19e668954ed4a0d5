"""Decode pixel data to frames with pydicom's decoders. The checks around them refuse a header that contradicts its pixel
data, so that it never becomes a wrong image."""

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

from medood.reasons import Reason
from medood.scans.dicom import imagecodecs_plugin
from medood.scans.dicom.bitstream_header import BitstreamHeader, check_bitstream, starts_bitstream
from medood.scans.dicom.reduced_decoding import decode_reduced, levels_to_drop
from medood.scans.scan import ContradictionError, Reduction, RefusedError, Status, describe_error

#: The one decoder for each encapsulated transfer syntax: those that withstood 10,000 damaged files (reports/ingest).
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

#: Bytes of padding allowed after native pixel data: up to a disk sector (512) always, up to a disc sector (2,048) if that
#: is at most 1/16 of the image. More bytes more likely mean a wrong Rows or Columns.
_SECTOR, _BLOCK, _BLOCK_SHARE = 512, 2048, 16


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        array: ``[H, W]`` words as stored in the file, or ``[H, W, 3]`` colours.
        plugin: the decoder.
        is_stored: the words are already stored values; else shift (High Bit), mask and sign are still to be applied.
        precision: bits of a codestream's samples; None without a codestream.
        is_lossy: the words are not exactly those that were compressed.
        is_signed: the codestream says that its samples are signed.
        rest: what follows the pixels and is ignored, in words; empty if nothing.
        reduction: how it was reduced in decoding; None if it is whole.
    """

    array: npt.NDArray[Any]
    plugin: str
    is_stored: bool = False
    precision: int | None = None
    is_lossy: bool = False
    is_signed: bool = False
    rest: str = ""
    reduction: Reduction | None = None


def decode_frames(dataset: pydicom.Dataset, syntax: UID, indices: range, least_side: int = 0) -> Iterator[Frame]:
    """Decode the requested frames, one at a time.

    Args:
        dataset: data set with ``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``.
        syntax: its transfer syntax.
        indices: frame numbers from 0, in rising order.
        least_side: pixels that each side must keep where a frame can be decoded at a lower resolution; 0 decodes it whole.

    Raises:
        RefusedError: a frame cannot be decoded, or contradicts the header.
    """
    try:
        encapsulated = syntax.is_encapsulated
    except ValueError as error:  # pydicom does not know it
        raise RefusedError(Status.UNSUPPORTED_SYNTAX, Reason("syntax_not_standard")) from error
    if encapsulated:
        yield from _decode_encapsulated(dataset, syntax, indices, least_side)
    else:
        yield from _decode_native(dataset, syntax, indices)


def _decode_native(dataset: pydicom.Dataset, syntax: UID, indices: range) -> Iterator[Frame]:
    rest = _check_native(dataset)
    try:
        decoder = imagecodecs_plugin.decoder_of(syntax)
    except NotImplementedError as error:
        raise RefusedError(
            Status.UNSUPPORTED_SYNTAX, Reason("syntax_without_decoder", syntax=syntax.name, uid=syntax)
        ) from error
    try:
        for array, _ in decoder.iter_array(dataset, indices=indices, view_only=True, **_WORDS_AS_DECODED):
            yield Frame(array, "pydicom", is_stored=array.dtype.kind not in "iu", rest=rest)
    except Exception as error:  # pydicom raises many exception types on contradictory headers
        problem = describe_error(error, Reason("they_are_damaged"))
        raise RefusedError(Status.UNREADABLE, Reason("pixel_data_not_decoded", problem=problem)) from error


def _check_native(dataset: pydicom.Dataset) -> str:
    """Refuse pixel data whose length contradicts the header; return a note if a few zero bytes follow as padding."""
    for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        if name in dataset:
            break
    element = dataset[name]
    if element.is_undefined_length:
        raise RefusedError(Status.UNREADABLE, Reason("compressed_unexpected"))
    try:
        expected = get_expected_length(dataset)
    except Exception as error:
        problem = describe_error(error, Reason("attribute_unusable"))
        raise RefusedError(Status.UNREADABLE, Reason("header_not_of_an_image", problem=problem)) from error
    value = element.value or b""  # None if the element is empty
    surplus = len(value) - expected
    row = int(dataset.Columns) * int(dataset.SamplesPerPixel) * max(1, int(dataset.BitsAllocated) // 8)
    padding = max(row, _SECTOR, min(_BLOCK, expected // _BLOCK_SHARE))
    if surplus < 0:
        raise RefusedError(Status.UNREADABLE, Reason("pixel_data_too_short", actual=len(value), expected=expected))
    column = max(1, expected // int(dataset.Columns))  # whole columns of zeros mean a wrong Columns
    if surplus > padding or (surplus > row and surplus % column == 0) or (surplus > 1 and any(value[expected:])):
        raise RefusedError(
            Status.UNREADABLE,
            Reason("pixel_data_too_long", actual=len(value), expected=expected),
        )
    return f"{surplus} zero bytes after the pixels" if surplus > 1 else ""


def _decode_encapsulated(dataset: pydicom.Dataset, syntax: UID, indices: range, least_side: int) -> Iterator[Frame]:
    if not dataset["PixelData"].is_undefined_length:
        raise RefusedError(Status.UNREADABLE, Reason("compressed_expected", syntax=syntax.name))
    if syntax not in DECODERS:
        raise RefusedError(Status.UNSUPPORTED_SYNTAX, Reason("syntax_without_decoder", syntax=syntax.name, uid=syntax))
    decoder = imagecodecs_plugin.decoder_of(syntax)
    plugin, packages = DECODERS[syntax]
    if plugin not in decoder.available_plugins:
        raise RefusedError(Status.UNSUPPORTED_SYNTAX, Reason("decoder_not_installed", syntax=syntax.name, packages=packages))
    count = number_of_frames(dataset)
    samples, signed = int(dataset.get("SamplesPerPixel", 1)), bool(dataset.get("PixelRepresentation", 0))
    try:
        _check_fragments(dataset.PixelData, syntax, count)
        streams = generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=_offsets(dataset))
        arrays, decoded = None, 0
        for index, data in ((index, data) for index, data in enumerate(streams) if index in indices):
            header = check_bitstream(data, syntax, int(dataset.Rows), int(dataset.Columns), samples)
            precision = header.precision if header else None
            if header:
                _check_bits(header, dataset, signed)
            lossy, has_sign = (header is not None and not header.lossless), (header is not None and header.signed)
            if header and arrays is None and (levels := levels_to_drop(data, syntax, header, dataset, least_side)):
                reduced = decode_reduced(data, header, levels)
                if reduced is not None:
                    decoded += 1
                    shape, is_centred = (header.rows, header.columns), syntax == JPEGBaseline8Bit
                    reduction = Reduction(1 << levels, shape, is_centred)
                    yield Frame(reduced, "pillow", precision=precision, is_lossy=True, reduction=reduction)
                    if decoded == len(indices):
                        return
                    continue
            if arrays is None:  # from here on, whole
                if syntax == JPEGExtended12Bit and precision == 8:
                    plugin, decoder = "pillow", get_decoder(syntax)
                remaining = range(index, indices.stop, indices.step)
                selected = None if len(remaining) == count else remaining
                arrays = decoder.iter_array(dataset, indices=selected, decoding_plugin=plugin, **_WORDS_AS_DECODED)
            yield Frame(next(arrays)[0], plugin, precision=precision, is_lossy=lossy, is_signed=has_sign)
            decoded += 1
            if decoded == len(indices):
                return
        raise ContradictionError(Reason("frames_missing", actual=decoded, expected=len(indices)))
    except Exception as error:  # decoders are C libraries that raise many exception types
        problem = describe_error(error, Reason("they_are_damaged"))
        raise RefusedError(Status.UNREADABLE, Reason("pixel_data_not_decoded", problem=problem)) from error


def _check_bits(header: BitstreamHeader, dataset: pydicom.Dataset, signed: bool) -> None:
    """Refuse samples wider than Bits Allocated, and signed samples within Bits Stored that the header calls unsigned."""
    if header.precision > int(dataset.BitsAllocated):
        raise ContradictionError(Reason("bits_over_allocated", actual=header.precision, expected=int(dataset.BitsAllocated)))
    if header.signed and not signed and header.precision <= int(dataset.get("BitsStored", dataset.BitsAllocated)):
        raise ContradictionError(Reason("signed_unexpected"))


def _check_fragments(pixel_data: bytes, syntax: UID, count: int) -> None:
    """Refuse pixel data with more images than Number of Frames, as the rest would be dropped silently."""
    fragments = itertools.islice(generate_fragments(pixel_data), 1, None)  # the first is the basic offset table
    starts = sum(1 for fragment in fragments if starts_bitstream(fragment, syntax))
    frame_count = max(starts, len(parse_basic_offsets(pixel_data)))
    if frame_count > count:
        raise ContradictionError(Reason("frames_surplus", actual=frame_count, expected=count))


def _offsets(dataset: pydicom.Dataset) -> tuple[bytes, bytes] | None:
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        return dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    return None


def number_of_frames(dataset: pydicom.Dataset) -> int:
    """Return Number of Frames, or 1 if it is absent.

    Raises:
        RefusedError: it is not a number, or is negative.
    """
    value = dataset.get("NumberOfFrames")
    try:
        count = 1 if value in (None, "") else int(value)
    except (TypeError, ValueError) as error:
        raise RefusedError(Status.UNREADABLE, Reason("frames_not_a_number")) from error
    if count < 0:
        raise RefusedError(Status.UNREADABLE, Reason("frames_not_positive", count=count))
    return count or 1
