"""Zip archives to members, inside limits. Nothing is unpacked to disk."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from medood.config.schema import ReadConfig
from medood.scans.scan import Identity, Refusal, RefusedError, Status
from medood.scans.sources.archive_members import Member, check_member_name, refused
from medood.scans.sources.compression import RATIO_COUNTS_FROM, in_pieces

_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_END, _END_64, _ENTRY, _MEMBER = b"PK\x05\x06", b"PK\x06\x06", b"PK\x01\x02", b"PK\x03\x04"
#: Where the end record lies at the latest: behind it is a comment of at most 64 KiB.
_END_REACH = 66_000
#: Bytes of the directory for each member that is allowed: what is parsed of it stays in memory.
_ENTRY_BYTES = 256
_FOLDER = 0x10


def is_zip(start: bytes) -> bool:
    """True where the first bytes are those of a zip archive."""
    return start.startswith(_MAGIC)


def open_zip(stream: BinaryIO, max_members: int) -> tuple[zipfile.ZipFile, str]:
    """Open an archive, after its directory was held against the limits.

    Args:
        stream: seekable.
        max_members: the limit.

    Returns:
        the archive, and a sentence on bytes that are of none of its members; empty where there are none.

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
        at = start + end
        if large >= 0 and len(tail) >= large + 48:
            directory, at = struct.unpack("<Q", tail[large + 40 : large + 48])[0], start + large
        _check_directory(stream, max(0, at - directory), at, max_members)
    archive = zipfile.ZipFile(stream)
    before = min((info.header_offset for info in archive.filelist), default=0)
    parts = [f"{count:,} bytes {place}" for count, place in ((before, "before its members"), (behind, "behind its end"))]
    unread = [part for part, count in zip(parts, (before, behind), strict=True) if count > 0]
    if not unread:
        return archive, ""
    return (
        archive,
        f"the archive has {' and '.join(unread)} that are of no member, as where two archives are joined; not read",
    )


def _check_directory(stream: BinaryIO, start: int, end: int, limit: int) -> None:
    """Count the entries of the central directory (APPNOTE 4.3.12): the number in the end record may be another one."""
    if end - start > max(limit * _ENTRY_BYTES, 1024**2):
        raise RefusedError(
            Status.TOO_LARGE,
            f"the archive was not opened: its directory has {end - start:,} bytes, too many for {limit:,} files",
        )
    stream.seek(start)
    directory = memoryview(stream.read(end - start))
    at, count = 0, 0
    while at + 46 <= len(directory) and directory[at : at + 4] == _ENTRY:
        name, extra, comment = struct.unpack_from("<HHH", directory, at + 28)
        at += 46 + name + extra + comment
        count += 1
        if count > limit:
            raise RefusedError(
                Status.TOO_LARGE, f"the archive was not opened: it holds more than {limit:,} files (--max-members)"
            )


def zip_members(
    archive: zipfile.ZipFile, packed_size: int, where: Identity, options: ReadConfig
) -> Iterator[Member | Refusal]:
    """The members of a zip, sorted by name, their bytes not yet read; those that may not be opened are refusals."""
    entries = archive.filelist
    order = sorted((i for i, info in enumerate(entries) if not _is_folder(info)), key=lambda i: entries[i].filename)
    total = sum(entries[i].file_size for i in order)
    over = ""
    if total > options.max_unpacked:
        over = f"it would unpack to {total:,} bytes, the limit is {options.max_unpacked:,}"
    elif total > 16 * RATIO_COUNTS_FROM and total > options.max_ratio * packed_size:
        over = f"it would unpack from {packed_size:,} to {total:,} bytes, the limit is {options.max_ratio} times"
    if over or not order:
        status = Status.TOO_LARGE if over else Status.NOT_AN_IMAGE
        yield Refusal(where, status, f"the archive was not opened: {over}" if over else "the archive holds no file")
        return
    for i in order:
        info = entries[i]
        try:
            check_member_name(info.filename)
            if info.flag_bits & 0x1:
                raise RefusedError(Status.ENCRYPTED, "the member is encrypted; unlock the archive first")
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise RefusedError(Status.UNSAFE_PATH, "the member is a link; not followed")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise RefusedError(
                    Status.UNSUPPORTED_SYNTAX, "the member is packed by another method than deflate; pack it anew"
                )
            if info.file_size > RATIO_COUNTS_FROM and info.file_size > options.max_ratio * max(info.compress_size, 1):
                sizes = f"from {info.compress_size:,} to {info.file_size:,} bytes"
                raise RefusedError(Status.TOO_LARGE, f"the member would unpack {sizes}, over the limits")
        except RefusedError as error:
            yield refused(where, info.filename, error)
        else:
            yield Member(info.filename, i, info.file_size)


def _is_folder(info: zipfile.ZipInfo) -> bool:
    """Programs of .NET end a folder's name with a backslash, some by its attribute alone."""
    return info.file_size == 0 and (bool(info.external_attr & _FOLDER) or info.filename.endswith(("/", "\\")))


@dataclass(frozen=True)
class ZippedMember:
    """Where a member's bytes lie in a zip, so that whoever reads them need not parse the directory.

    Attributes:
        offset: of its local header.
        packed_size: in bytes.
        size: unpacked.
        crc: CRC-32 of the unpacked bytes.
        method: 0 is stored, 8 deflated.
    """

    offset: int
    packed_size: int
    size: int
    crc: int
    method: int


def zipped_member(archive: zipfile.ZipFile, index: int) -> ZippedMember:
    """Where the member with this place in the directory lies."""
    info = archive.filelist[index]
    return ZippedMember(info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type)


def read_zip_member(stream: BinaryIO, member: ZippedMember, options: ReadConfig) -> bytes:
    """The bytes of a member.

    Args:
        stream: of the archive; seekable.
        member: of it.
        options: the limits.

    Raises:
        RefusedError: they cannot be read or are too many.
    """
    if member.size > options.max_bytes:
        limit = f"{options.max_bytes:,} (--max-bytes)"
        raise RefusedError(Status.TOO_LARGE, f"the member would unpack to {member.size:,} bytes, the limit is {limit}")
    try:
        with open_member(stream, member) as content:
            return in_pieces(content, options)
    except RefusedError:
        raise
    except Exception as error:  # damaged members fail in zlib and zipfile, each in its own way
        raise RefusedError(
            Status.UNREADABLE, "the bytes of the member cannot be unpacked; the archive is damaged"
        ) from error


def open_member(stream: BinaryIO, member: ZippedMember) -> BinaryIO:
    """The bytes of a member as a stream.

    Raises:
        zipfile.BadZipFile: no member lies there.
    """
    stream.seek(member.offset)
    header = stream.read(30)
    if len(header) < 30 or header[:4] != _MEMBER:
        raise zipfile.BadZipFile("there is no member at this place")
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
