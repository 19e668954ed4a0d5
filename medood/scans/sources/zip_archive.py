"""Read the members of zip archives within limits. Nothing is unpacked to disk."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from medood.config.schema import ReadConfig
from medood.reasons import Reason
from medood.scans.scan import Identity, Refusal, RefusedError, Status
from medood.scans.sources.archive_members import Member, check_member_name, refused
from medood.scans.sources.compression import RATIO_COUNTS_FROM, in_pieces

_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_END, _END_64, _ENTRY, _MEMBER = b"PK\x05\x06", b"PK\x06\x06", b"PK\x01\x02", b"PK\x03\x04"
#: Largest distance of the end record from the end of the file: a comment of at most 64 KiB follows it.
_END_REACH = 66_000
#: Bytes of the directory allowed per member of the limit, because the parsed directory stays in memory.
_ENTRY_BYTES = 256
_FOLDER = 0x10


def is_zip(start: bytes) -> bool:
    """Return whether the first bytes are those of a zip archive."""
    return start.startswith(_MAGIC)


def open_zip(stream: BinaryIO, max_members: int) -> tuple[zipfile.ZipFile, Reason | None]:
    """Open an archive after checking its directory against the limits.

    Args:
        stream: a seekable stream.
        max_members: largest number of members.

    Returns:
        the archive, and what is said of bytes that belong to no member; ``None`` if there are none.

    Raises:
        RefusedError: it has more members than the limit, or its directory is too long.
        zipfile.BadZipFile: it is damaged.
    """
    size = stream.seek(0, io.SEEK_END)
    start = stream.seek(max(0, size - _END_REACH))
    tail = stream.read()
    end = tail.rfind(_END)
    behind = 0
    if end >= 0 and len(tail) >= end + 22:
        directory, comment = (
            struct.unpack("<I", tail[end + 12 : end + 16])[0],
            struct.unpack("<H", tail[end + 20 : end + 22])[0],
        )
        behind = max(0, len(tail) - end - 22 - comment)
        large = tail.rfind(_END_64, 0, end)
        position = start + end
        if large >= 0 and len(tail) >= large + 48:
            directory, position = struct.unpack("<Q", tail[large + 40 : large + 48])[0], start + large
        _check_directory(stream, max(0, position - directory), position, max_members)
    archive = zipfile.ZipFile(stream)
    before = min((info.header_offset for info in archive.filelist), default=0)
    if before > 0 and behind > 0:
        return archive, Reason("zip_bytes_around", before=before, behind=behind)
    if before > 0:
        return archive, Reason("zip_bytes_before", before=before)
    return archive, Reason("zip_bytes_behind", behind=behind) if behind > 0 else None


def _check_directory(stream: BinaryIO, start: int, end: int, limit: int) -> None:
    """Count the entries of the central directory (APPNOTE 4.3.12), as the number in the end record may be wrong."""
    if end - start > max(limit * _ENTRY_BYTES, 1024**2):
        raise RefusedError(
            Status.TOO_LARGE,
            Reason("zip_directory_too_large", size=end - start, limit=limit),
        )
    stream.seek(start)
    directory = memoryview(stream.read(end - start))
    position, count = 0, 0
    while position + 46 <= len(directory) and directory[position : position + 4] == _ENTRY:
        name, extra, comment = struct.unpack_from("<HHH", directory, position + 28)
        position += 46 + name + extra + comment
        count += 1
        if count > limit:
            raise RefusedError(Status.TOO_LARGE, Reason("zip_over_members", limit=limit))


def zip_members(
    archive: zipfile.ZipFile, packed_size: int, where: Identity, options: ReadConfig
) -> Iterator[Member | Refusal]:
    """Yield the members of a zip, sorted by name, without reading them; those that must not be opened become refusals."""
    entries = archive.filelist
    order = sorted((i for i, info in enumerate(entries) if not _is_folder(info)), key=lambda i: entries[i].filename)
    total = sum(entries[i].file_size for i in order)
    over = None
    if total > options.max_unpacked:
        over = Reason("zip_unpacks_over_limit", total=total, limit=options.max_unpacked)
    elif total > 16 * RATIO_COUNTS_FROM and total > options.max_ratio * packed_size:
        over = Reason("zip_unpacks_over_ratio", packed=packed_size, total=total, limit=options.max_ratio)
    if over or not order:
        yield (
            Refusal(where, Status.TOO_LARGE, over) if over else Refusal(where, Status.NOT_AN_IMAGE, Reason("archive_empty"))
        )
        return
    for i in order:
        info = entries[i]
        try:
            check_member_name(info.filename)
            if info.flag_bits & 0x1:
                raise RefusedError(Status.ENCRYPTED, Reason("member_encrypted"))
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise RefusedError(Status.UNSAFE_PATH, Reason("member_is_link"))
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise RefusedError(Status.UNSUPPORTED_SYNTAX, Reason("member_method"))
            if info.file_size > RATIO_COUNTS_FROM and info.file_size > options.max_ratio * max(info.compress_size, 1):
                sizes = {"packed": info.compress_size, "size": info.file_size}
                raise RefusedError(Status.TOO_LARGE, Reason("member_over_ratio", **sizes))
        except RefusedError as error:
            yield refused(where, info.filename, error)
        else:
            yield Member(info.filename, i, info.file_size)


def _is_folder(info: zipfile.ZipInfo) -> bool:
    """Return whether an entry is a folder; .NET programs mark one by a trailing backslash, some only by its attribute."""
    return info.file_size == 0 and (bool(info.external_attr & _FOLDER) or info.filename.endswith(("/", "\\")))


@dataclass(frozen=True)
class ZippedMember:
    """Location of a member's bytes in a zip, to read them without parsing the directory.

    Attributes:
        offset: offset of the local header.
        packed_size: packed size in bytes.
        size: unpacked size in bytes.
        crc: CRC-32 of the unpacked bytes.
        method: 0 is stored, 8 deflated.
    """

    offset: int
    packed_size: int
    size: int
    crc: int
    method: int


def zipped_member(archive: zipfile.ZipFile, index: int) -> ZippedMember:
    """Return the location of the member at this index in the directory."""
    info = archive.filelist[index]
    return ZippedMember(info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type)


def read_zip_member(stream: BinaryIO, member: ZippedMember, options: ReadConfig) -> bytes:
    """Read the bytes of a member.

    Args:
        stream: the archive's seekable stream.
        member: location of the member.
        options: the limits.

    Raises:
        RefusedError: they cannot be read or exceed the limit.
    """
    if member.size > options.max_bytes:
        sizes = {"size": member.size, "limit": options.max_bytes}
        raise RefusedError(Status.TOO_LARGE, Reason("member_unpacks_over_limit", **sizes))
    try:
        with open_member(stream, member) as content:
            return in_pieces(content, options)
    except RefusedError:
        raise
    except Exception as error:  # zlib and zipfile each fail in their own way on damaged members
        raise RefusedError(Status.UNREADABLE, Reason("member_damaged")) from error


def open_member(stream: BinaryIO, member: ZippedMember) -> BinaryIO:
    """Open a member as a stream of its unpacked bytes.

    Raises:
        zipfile.BadZipFile: there is no member at this offset.
    """
    stream.seek(member.offset)
    header = stream.read(30)
    if len(header) < 30 or header[:4] != _MEMBER:
        raise zipfile.BadZipFile("there is no member at this offset")
    name, extra = struct.unpack("<HH", header[26:30])
    stream.seek(name + extra, io.SEEK_CUR)
    info = zipfile.ZipInfo()
    info.compress_type, info.compress_size, info.file_size, info.CRC = (
        member.method,
        member.packed_size,
        member.size,
        member.crc,
    )
    return zipfile.ZipExtFile(stream, "r", info)  # type: ignore[return-value]
