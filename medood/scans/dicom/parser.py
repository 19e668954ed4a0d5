"""Parse DICOM bytes to a data set: find its start and end, inflate it, and check that it is complete."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Literal

import pydicom
from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pydicom.valuerep import VR

from medood.config.schema import ReadConfig
from medood.reasons import Reason
from medood.scans.library_settings import library_settings
from medood.scans.scan import RefusedError, Status

#: Attributes that hold pixels (PS3.3 C.7.6.3, C.7.6.24 and C.7.6.25).
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_LAST_PIXEL_TAG = pydicom.tag.Tag("PixelData")  # the others come before it
_PREAMBLE = 128
_PREFIX = b"DICM"
#: Start of the file meta information of a further object: the prefix, and the tag, VR and length of its group length.
_FURTHER_OBJECT = _PREFIX + b"\x02\x00\x00\x00UL\x04\x00"
_VALUE_REPRESENTATIONS = frozenset(str(vr).encode() for vr in VR if len(str(vr)) == 2)
_UNDEFINED = 0xFFFFFFFF
#: The tag of Specific Character Set in little endian, and how far into a file it is searched for.
_CHARACTER_SET, _CHARACTER_SET_REACH = b"\x08\x00\x05\x00", 4096
#: Value representations of pixel data, the group of pixel data, and signatures of other file formats whose first bytes
#: would read as a group above it.
_PIXEL_REPRESENTATIONS, _PIXEL_GROUP = (b"OB", b"OW", b"OF", b"OD", b"UN"), 0x7FE0
_FOREIGN = (b"\xff\xd8\xff", b"\xfd7zXZ\x00", b"\x1f\x8b", b"\x89PNG", b"\x28\xb5\x2f\xfd")
#: The tag of an item, and a complete sequence delimitation item (PS3.5 table A.4-1).
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
#: Bytes unpacked at a time.
_PIECE = 1024**2


@dataclass(frozen=True)
class DicomFile:
    """A parsed DICOM file.

    Attributes:
        dataset: the data set, with ``file_meta`` if the file has any.
        is_deflated: the file was in the Deflated transfer syntax and was parsed as Explicit VR Little Endian.
        behind: what follows the object and was not parsed; ``None`` if nothing does.
        cut: where the file is cut; ``None`` if it is complete up to and including its pixels.
    """

    dataset: pydicom.Dataset
    is_deflated: bool = False
    behind: Reason | None = None
    cut: Reason | None = None


def is_dicom(content: bytes) -> bool:
    """Return whether the bytes have the DICM prefix (PS3.10 section 7.1), or begin like a data set without it."""
    return content[_PREAMBLE : _PREAMBLE + 4] == _PREFIX or content.startswith(_PREFIX) or _begins_dataset(content)


@library_settings()
def parse_dicom(content: bytes, options: ReadConfig) -> DicomFile:
    """Parse the first DICOM object in the bytes.

    A compressed object that lacks only the delimiter after its last frame counts as complete.

    Args:
        content: the bytes of a file for which :func:`is_dicom` is true.
        options: limits for deflated objects.

    Raises:
        RefusedError: it is damaged, or cut inside a sequence or a compressed frame; the reason says how.
    """
    if content.startswith(_PREFIX) and content[_PREAMBLE : _PREAMBLE + 4] != _PREFIX:
        content = bytes(_PREAMBLE) + content
    further = content.find(_FURTHER_OBJECT, _PREAMBLE + len(_FURTHER_OBJECT))
    if further > 0:
        complete = _parse_whole(content[: further - _PREAMBLE])
        if complete is not None and not _missing_bytes(complete):
            count = len(content) - further + _PREAMBLE
            return DicomFile(complete, behind=Reason("second_object_follows", count=count))
    inflated, is_deflated = _inflate(content, options)
    dataset = _parse(inflated)
    end = _end_of_object(inflated)
    if end < len(inflated):
        behind = Reason("bytes_after_object", count=len(inflated) - end)
        return DicomFile(_parse(inflated[:end]), is_deflated, behind=behind)
    if not any(name in dataset for name in PIXEL_KEYWORDS):
        dataset = _without_delimiter(inflated) or dataset
    expected = _missing_bytes(dataset)
    cut = Reason("file_cut", actual=len(inflated), expected=expected) if expected else None
    if not cut and _ends_inside_an_element(dataset, len(inflated)):
        cut = Reason("file_cut_in_header", actual=len(inflated))
    return DicomFile(dataset, is_deflated, cut=cut)


def _begins_dataset(content: bytes) -> bool:
    """Whether the bytes begin with an element of group 0002 or 0008, in any uncompressed encoding (PS3.5 section 7.1)."""
    if len(content) < 16:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", content[:4])
        if group not in (0x0002, 0x0008) or not (element == 0 or dictionary_has_tag(group << 16 | element)):
            continue
        if content[4:6] in _VALUE_REPRESENTATIONS:
            return True
        length = struct.unpack("<I", content[4:8])[0]
        if order == "<" and length < len(content) - 8:  # implicit VR, which is little endian
            after = content[8 + length : 12 + length]
            return len(after) < 4 or struct.unpack("<HH", after) > (group, element)
    return False


def _inflate(content: bytes, options: ReadConfig) -> tuple[bytes, bool]:
    """Inflate a file in the Deflated transfer syntax (PS3.5 A.5) within the limits for archives; return others unchanged."""
    uid = DeflatedExplicitVRLittleEndian.encode()
    if content[128:132] != _PREFIX or uid not in content[:1024]:
        return content, False
    start = 144 + int.from_bytes(content[140:144], "little")  # File Meta Information Group Length is the first element
    meta = content[:start].replace(uid, ExplicitVRLittleEndian.encode().ljust(len(uid), b"\0"))
    if content[132:138] != b"\x02\x00\x00\x00UL" or meta == content[:start]:
        return content, False
    inflated, unpacker, rest = io.BytesIO(meta), zlib.decompressobj(-15), content[start:]
    inflated.seek(0, io.SEEK_END)
    try:
        while rest and not unpacker.eof:
            inflated.write(unpacker.decompress(rest, _PIECE))
            rest = unpacker.unconsumed_tail
            size = inflated.tell()
            if size > options.max_bytes or (size > 64 * _PIECE and size > options.max_ratio * len(content)):
                raise RefusedError(Status.TOO_LARGE, Reason("deflated_too_large", limit=size - _PIECE))
    except zlib.error as error:
        raise RefusedError(Status.UNREADABLE, Reason("deflated_damaged")) from error
    if not unpacker.eof:
        raise RefusedError(Status.UNREADABLE, Reason("deflated_cut", actual=len(content)))
    return inflated.getvalue(), True


def _parse_whole(content: bytes) -> pydicom.Dataset | None:
    """Return the data set, or None if it is damaged or has no pixels."""
    try:
        dataset = _parse(content)
    except RefusedError:
        return None
    return dataset if any(name in dataset for name in PIXEL_KEYWORDS) else None


def _parse(content: bytes) -> pydicom.Dataset:
    has_prefix = content[_PREAMBLE : _PREAMBLE + 4] == _PREFIX
    try:
        if not has_prefix and content[:2] == b"\x00\x02":  # file meta information in big endian, which the standard forbids
            return _in_big_endian(content)
        return pydicom.dcmread(io.BytesIO(content), force=not has_prefix)
    except InvalidDicomError as error:
        raise RefusedError(Status.UNREADABLE, Reason("dicom_header_damaged_at_start")) from error
    except EOFError as error:
        raise RefusedError(Status.UNREADABLE, Reason("header_cut", actual=len(content))) from error
    except Exception as error:  # pydicom raises many exception types on damaged headers; none may stop a run
        blanked = _without_character_set(content)
        if blanked != content:
            return _parse(blanked)
        raise RefusedError(Status.UNREADABLE, Reason("dicom_header_damaged")) from error


def _without_character_set(content: bytes) -> bytes:
    """Blank Specific Character Set: pydicom fails if it is not text, and pixels do not need it."""
    position = content.find(_CHARACTER_SET, 0, _CHARACTER_SET_REACH)
    if position < 0:
        return content
    if content[position + 4 : position + 6] in _VALUE_REPRESENTATIONS:
        is_long = content[position + 6 : position + 8] == b"\0\0"
        start = position + (12 if is_long else 8)
        length = int.from_bytes(content[start - 4 : start] if is_long else content[start - 2 : start], "little")
    else:
        start, length = position + 8, int.from_bytes(content[position + 4 : position + 8], "little")
    length = min(length, _CHARACTER_SET_REACH, len(content) - start)
    return content[:start] + b" " * length + content[start + length :]


def _in_big_endian(content: bytes) -> pydicom.Dataset:
    parsed = read_dataset(io.BytesIO(content), is_implicit_VR=False, is_little_endian=False)
    dataset = parsed[0x00030000:]
    dataset.file_meta = FileMetaDataset(parsed.group_dataset(0x0002))
    dataset.set_original_encoding(False, False)
    return dataset


def _missing_bytes(dataset: pydicom.Dataset) -> int:
    """Return the file size that a truncated value would need for its stated length; 0 if no value is truncated.

    Truncation after the pixel data loses no image and does not count.
    """
    for element in dataset.values():
        if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
            continue
        if element.tag <= _LAST_PIXEL_TAG and len(element.value) < element.length != _UNDEFINED:
            return int(element.value_tell + element.length)
    return 0


def _ends_inside_an_element(dataset: pydicom.Dataset, size: int) -> bool:
    """Return whether an object without pixels ends within the first bytes of an element, too few to parse."""
    if any(name in dataset for name in PIXEL_KEYWORDS):
        return False
    ends = [
        element.value_tell + element.length
        for element in dataset.values()
        if isinstance(element, RawDataElement) and element.length != _UNDEFINED
    ]
    return bool(ends) and 0 < size - max(ends) < 8


def _pixel_element(content: bytes) -> tuple[int, int] | None:
    """Return where the value of the first pixel data begins, and its length; None without any, or in odd encodings."""
    stream = io.BytesIO(content)
    try:
        with warnings.catch_warnings(action="ignore"):
            pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    except Exception:  # it was already parsed as far as possible
        return None
    position = stream.tell()
    tag, vr = content[position : position + 4], content[position + 4 : position + 6]
    order: Literal["little", "big"] = "little" if tag[:2] == b"\xe0\x7f" else "big"
    if tag[:2] not in (b"\xe0\x7f", b"\x7f\xe0"):
        return None
    start = position + (12 if vr in _PIXEL_REPRESENTATIONS else 8)
    return start, int.from_bytes(content[start - 4 : start], order)


def _end_of_object(content: bytes) -> int:
    """Return where an object with pixels ends: the length of the bytes if nothing else follows, or if this is unclear.

    Elements of later groups and zeros may follow the pixel data. Anything else, such as another data set, would be parsed
    as elements of this one and change it.
    """
    element = _pixel_element(content)
    if element is None:
        return len(content)
    start, length = element
    if length == _UNDEFINED:
        end = start
        while content[end : end + 4] == _ITEM:
            end += 8 + int.from_bytes(content[end + 4 : end + 8], "little")
        if content[end : end + 8] != _DELIMITER:
            return len(content)  # cut or damaged, which is reported elsewhere
        end += 8
    else:
        end = start + length
    rest = content[end : end + 4]
    groups = [int.from_bytes(rest[:2], order) for order in ("little", "big")] if len(rest) == 4 else []
    is_later = any(group >= _PIXEL_GROUP for group in groups) and not content[end:].startswith(_FOREIGN)
    return len(content) if end >= len(content) or is_later or not any(content[end:]) else end


def _without_delimiter(content: bytes) -> pydicom.Dataset | None:
    """Parse a compressed object whose pixel data do not end with a delimiter (PS3.5 A.4).

    Returns:
        the data set as if the delimiter were present; None if the file does not end in compressed pixel data.

    Raises:
        RefusedError: the last fragment is cut.
    """
    element = _pixel_element(content)
    if element is None or element[1] != _UNDEFINED:
        return None
    position = element[0]
    while content[position : position + 4] == _ITEM and position + 8 <= len(content):
        end = position + 8 + int.from_bytes(content[position + 4 : position + 8], "little")
        if end > len(content):
            raise RefusedError(Status.UNREADABLE, Reason("file_cut_at_least", actual=len(content), expected=end))
        position = end
    if not _DELIMITER.startswith(content[position:]):
        raise RefusedError(Status.UNREADABLE, Reason("file_cut_in_pixel_data", actual=len(content)))
    return _parse(content[:position] + _DELIMITER)
