"""Read the header of a compressed frame, to detect contradictions with the DICOM header before a decoder runs."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medood.reasons import Reason
from medood.scans.scan import ContradictionError

_START_OF_FRAME = {
    0xC0: "JPEG baseline",
    0xC1: "JPEG extended",
    0xC2: "JPEG progressive",
    0xC3: "JPEG lossless",
    0xF7: "JPEG-LS",
}
_J2K_START = b"\xff\x4f\xff\x51"  # SOC and SIZ
_J2K_TILE_PART = b"\xff\x90\x00\x0a"  # SOT and its length
_J2K_CODING_STYLE = b"\xff\x52"  # COD
_FILL = re.compile(rb"\xff+")
_END_MARKER = b"\xff\xd9"  # EOI of the JPEG family, EOC of JPEG 2000
#: JPEG 2000 allows 65,535 tiles; a damaged tile size makes decoders work for minutes on that many.
_MAX_TILES = 65_535
_LOSSY_JPEG = frozenset({"JPEG baseline", "JPEG extended", "JPEG progressive"})

#: What each encapsulated transfer syntax may hold (PS3.5 section 8.2 and annex A.4).
_HOLDS: dict[UID, frozenset[str]] = {
    JPEGBaseline8Bit: _LOSSY_JPEG,
    JPEGExtended12Bit: _LOSSY_JPEG,
    JPEGLossless: frozenset({"JPEG lossless"}),
    JPEGLosslessSV1: frozenset({"JPEG lossless"}),
    JPEGLSLossless: frozenset({"JPEG-LS"}),
    JPEGLSNearLossless: frozenset({"JPEG-LS"}),
} | dict.fromkeys((JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL), frozenset({"JPEG 2000"}))


@dataclass(frozen=True)
class BitstreamHeader:
    """The frame header of a compressed image.

    Attributes:
        kind: ``JPEG baseline``, ``JPEG extended``, ``JPEG progressive``, ``JPEG lossless``, ``JPEG-LS`` or ``JPEG 2000``.
        rows: height in pixels.
        columns: width in pixels.
        components: 1 is grey, 3 is colour.
        precision: bits per component.
        signed: the values are signed (only JPEG 2000 can state this).
        lossless: the codestream states that its values are exactly those that were compressed.
    """

    kind: str
    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False
    lossless: bool = False


def check_bitstream(data: bytes, syntax: UID, rows: int, columns: int, samples: int) -> BitstreamHeader | None:
    """Check a compressed frame against the DICOM header around it.

    Args:
        data: one encapsulated frame.
        syntax: the file's transfer syntax; those without a codestream header (RLE) are not checked.
        rows: Rows.
        columns: Columns.
        samples: Samples per Pixel.

    Returns:
        the codestream's header, or None if the syntax has none.

    Raises:
        ContradictionError: the two contradict each other, or the frame is cut; the message says how.
    """
    expected = _HOLDS.get(syntax)
    if expected is None:
        return None
    header = describe(data)
    if header.kind not in expected:
        raise ContradictionError(Reason("bitstream_of_other_kind", expected=syntax.name, actual=header.kind))
    if (header.rows, header.columns) != (rows, columns):
        raise ContradictionError(
            Reason(
                "bitstream_of_other_size", rows=rows, columns=columns, actual_rows=header.rows, actual_columns=header.columns
            )
        )
    if header.components != samples:
        raise ContradictionError(Reason("bitstream_of_other_samples", expected=samples, actual=header.components))
    is_jp2 = data[4:8] == b"jP  "  # JP2 boxes may follow the codestream
    if not (_END_MARKER in data[-4096:] if is_jp2 else data.rstrip(b"\0 \xff").endswith(_END_MARKER)):
        raise ContradictionError(Reason("bitstream_cut"))
    return header


def starts_bitstream(fragment: bytes, syntax: UID) -> bool:
    """Return whether an encapsulated fragment begins a new image."""
    if syntax == RLELossless:  # a 64-byte header: the number of segments, and the offset of the first, which follows it
        return 1 <= int.from_bytes(fragment[:4], "little") <= 15 and fragment[4:8] == b"\x40\0\0\0"
    return fragment[:3] == b"\xff\xd8\xff" or fragment[:4] == _J2K_START


def describe(data: bytes) -> BitstreamHeader:
    """Read the frame header of a JPEG (ITU-T T.81), JPEG-LS (T.87) or JPEG 2000 (T.800) codestream.

    Raises:
        ContradictionError: the bytes hold no valid frame header.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _describe_jpeg(data)
        start = data.find(_J2K_START, 0, 4096)  # at 0, or after the boxes of a JP2 file
        if start >= 0:
            header, tiles = _describe_j2k(data, start)
            if _tiles(data, start) < tiles:
                raise ContradictionError(Reason("bitstream_tiles_missing", expected=tiles))
            return header
    except (struct.error, IndexError) as error:
        raise ContradictionError(Reason("bitstream_header_cut")) from error
    raise ContradictionError(Reason("bitstream_unknown", actual=data[:4].hex(" ") or "nothing"))


def _describe_jpeg(data: bytes) -> BitstreamHeader:
    position = 2
    while True:
        if data[position] != 0xFF:
            raise ContradictionError(Reason("bitstream_header_damaged"))
        fill = _FILL.match(data, position)
        assert fill is not None
        position = fill.end() - 1  # any number of fill bytes may precede a marker
        marker = data[position + 1]
        if marker in _START_OF_FRAME:
            precision, rows, columns, components = struct.unpack(">BHHB", data[position + 4 : position + 10])
            kind = _START_OF_FRAME[marker]
            lossless = kind == "JPEG lossless" or (kind == "JPEG-LS" and _nearness(data, position) == 0)
            return BitstreamHeader(kind, rows, columns, components, precision, lossless=lossless)
        if marker in (0xD9, 0xDA):
            raise ContradictionError(Reason("bitstream_without_frame_header"))
        position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]


def _nearness(data: bytes, position: int) -> int:
    """Return the NEAR parameter of a JPEG-LS scan header (T.87 C.2.3): the largest error of a value."""
    scan = data.find(b"\xff\xda", position)
    if scan < 0:
        raise ContradictionError(Reason("bitstream_without_scan_header"))
    return data[scan + 5 + 2 * data[scan + 4]]


def _is_reversible(data: bytes, start: int) -> bool:
    """Return whether a JPEG 2000 codestream uses the reversible wavelet (T.800 A.6.1)."""
    position = start + 2  # behind SOC
    while data[position : position + 2] != _J2K_CODING_STYLE:
        if data[position] != 0xFF or data[position : position + 2] == _J2K_TILE_PART[:2]:
            raise ContradictionError(Reason("bitstream_without_coding_style"))
        position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
    return data[position + 13] == 1


def _describe_j2k(data: bytes, start: int) -> tuple[BitstreamHeader, int]:
    siz = data[start : start + 64]
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = struct.unpack(">8I", siz[8:40])
    components, precision, step_x, step_y = struct.unpack(">HBBB", siz[40:45])
    if not (tile_width and tile_height and step_x and step_y and components and left < right and top < bottom):
        raise ContradictionError(Reason("bitstream_header_damaged"))
    tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    if tiles > _MAX_TILES:
        raise ContradictionError(Reason("bitstream_tiles_over_limit", limit=_MAX_TILES))
    rows, columns = -(-bottom // step_y) - -(-top // step_y), -(-right // step_x) - -(-left // step_x)
    bits, signed = (precision & 0x7F) + 1, bool(precision & 0x80)
    return BitstreamHeader("JPEG 2000", rows, columns, components, bits, signed, _is_reversible(data, start)), tiles


def _tiles(data: bytes, start: int) -> int:
    """Count the distinct tiles of a JPEG 2000 codestream by its tile-part headers (T.800 A.4.2)."""
    position, indices = data.find(_J2K_TILE_PART, start), set()
    while 0 <= position < len(data) - 12 and data[position : position + 4] == _J2K_TILE_PART:
        tile, length = struct.unpack(">HI", data[position + 4 : position + 10])
        indices.add(tile)
        if length < 14:  # 0: extends to the end
            break
        position += length
    return len(indices)
