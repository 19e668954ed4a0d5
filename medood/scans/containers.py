"""Zip and tar archives and compressed files to members, inside limits. Nothing is ever unpacked to disk."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from backports import zstd

from medood.scans.scan import Identity, Refusal, RefusedError, Status
from medood.schema import ReadConfig

_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP, _XZ, _BZIP2, _ZSTANDARD = b"\x1f\x8b\x08", b"\xfd7zXZ\x00", b"BZh", b"\x28\xb5\x2f\xfd"
#: Below this many unpacked bytes the ratio to the packed ones says nothing.
_RATIO_COUNTS_FROM = 64 * 1024**2
#: Largest header that describes a tar member (a long name, extended attributes).
_MAX_TAR_HEADER = 1024**2
#: Where the end record of a zip lies at the latest: behind it is a comment of at most 64 KiB.
_END_OF_ZIP = 66_000
#: Bytes unpacked at a time.
_PIECE = 1024**2
#: Bytes looked at to tell a format.
PEEK = 1024

# names that a method whose parameter is called tarfile can use
_ENDS_TOO_SOON = (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined]
_InvalidHeaderError, _ReadError = tarfile.InvalidHeaderError, tarfile.ReadError  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Member:
    """One file of an archive.

    Attributes:
        name: as the archive spells it.
        index: its place in the archive; two members may have one name.
        content: its bytes; none where they are read later (the members of a zip on disk).
    """

    name: str
    index: int
    content: bytes | None = None


def is_zip(start: bytes) -> bool:
    """True where the first bytes are those of a zip archive."""
    return start.startswith(_ZIP_MAGIC)


def is_compressed(start: bytes) -> bool:
    """True where the first bytes are those of gzip, xz, bzip2 or Zstandard."""
    return start.startswith((_GZIP, _XZ, _BZIP2, _ZSTANDARD))


def is_tar(start: bytes) -> bool:
    """True where the first 512 bytes are a tar header whose checksum holds."""
    try:
        tarfile.TarInfo.frombuf(start[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


class Unpacked(io.RawIOBase):
    """A stream that unpacks another and stops where it grows beyond the limits.

    Args:
        packed: gzip, xz, bzip2 or Zstandard; anything else passes through.
        start: its first bytes.
        options: the limits.

    Raises:
        RefusedError: while reading, over a limit.
    """

    def __init__(self, packed: BinaryIO, start: bytes, options: ReadConfig) -> None:
        self._packed = packed
        self._options = options
        self._read = 0
        self._stream: BinaryIO
        if start.startswith(_GZIP):
            self._stream = gzip.GzipFile(fileobj=packed)  # type: ignore[assignment]
        elif start.startswith(_XZ):
            self._stream = lzma.LZMAFile(packed)  # type: ignore[assignment]  # noqa: SIM115 - it is this stream that is handed on
        elif start.startswith(_BZIP2):
            self._stream = bz2.BZ2File(packed)  # type: ignore[assignment]
        elif start.startswith(_ZSTANDARD):
            window = {int(zstd.DecompressionParameter.window_log_max): 27}
            self._stream = zstd.ZstdFile(packed, options=window)  # type: ignore[assignment]
        else:
            self._stream = packed

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: object) -> int:
        """Read into a buffer and count."""
        view = memoryview(buffer)  # type: ignore[arg-type]
        content = self._stream.read(len(view))
        view[: len(content)] = content
        self._read += len(content)
        if self._read > self._options.max_unpacked:
            raise RefusedError(Status.TOO_LARGE, f"it unpacks to more than {self._options.max_unpacked:,} bytes")
        packed = self._packed.tell()
        if self._read > _RATIO_COUNTS_FROM and self._read > self._options.max_ratio * packed:
            raise RefusedError(Status.TOO_LARGE, f"it unpacks to more than {self._options.max_ratio} times its size")
        return len(content)


def check_member_name(name: str) -> None:
    """Refuse names that lead out of the archive, although nothing is unpacked to disk.

    Raises:
        RefusedError: the name is absolute, holds ``..`` or a drive, or is empty.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
        raise RefusedError(Status.UNSAFE_PATH, "the member's name leads out of the archive; it was not opened")


def check_zip(stream: BinaryIO, options: ReadConfig) -> None:
    """Hold a zip's end record against the limit on members before its directory is parsed into memory.

    Raises:
        RefusedError: it states more.
    """
    stream.seek(0, io.SEEK_END)
    stream.seek(max(0, stream.tell() - _END_OF_ZIP))
    tail = stream.read()
    place, large = tail.rfind(b"PK\x05\x06"), tail.rfind(b"PK\x06\x06")
    stated = int.from_bytes(tail[place + 10 : place + 12], "little") if place >= 0 else 0
    if large >= 0:
        stated = max(stated if stated != 0xFFFF else 0, int.from_bytes(tail[large + 32 : large + 40], "little"))
    if stated > options.max_members:
        raise RefusedError(
            Status.TOO_LARGE, f"the archive was not opened: it holds {stated:,} files, the limit is {options.max_members:,}"
        )


def zip_members(
    archive: zipfile.ZipFile, packed_size: int, where: Identity, options: ReadConfig
) -> Iterator[Member | Refusal]:
    """The members of a zip, sorted by name, their bytes not yet read; those that may not be opened are refusals."""
    files = [(info, i) for i, info in enumerate(archive.infolist()) if not info.filename.endswith("/")]
    total = sum(info.file_size for info, _ in files)
    over = ""
    if len(files) > options.max_members:
        over = f"it holds {len(files):,} files, the limit is {options.max_members:,}"
    elif total > options.max_unpacked:
        over = f"it would unpack to {total:,} bytes, the limit is {options.max_unpacked:,}"
    elif total > 16 * _RATIO_COUNTS_FROM and total > options.max_ratio * packed_size:
        over = f"it would unpack from {packed_size:,} to {total:,} bytes, the limit is {options.max_ratio} times"
    if over or not files:
        status = Status.TOO_LARGE if over else Status.NOT_AN_IMAGE
        yield Refusal(where, status, f"the archive was not opened: {over}" if over else "the archive holds no file")
        return
    for info, i in sorted(files, key=lambda pair: (pair[0].filename, pair[1])):
        try:
            check_member_name(info.filename)
            if info.flag_bits & 0x1:
                raise RefusedError(Status.ENCRYPTED, "the member is encrypted; unlock the archive first")
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise RefusedError(Status.UNSAFE_PATH, "the member is a link; not followed")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise RefusedError(Status.UNREADABLE, "the member is packed by another method than deflate; pack it anew")
            bomb = info.file_size > _RATIO_COUNTS_FROM and info.file_size > options.max_ratio * max(info.compress_size, 1)
            if info.file_size > options.max_bytes or bomb:
                sizes = f"from {info.compress_size:,} to {info.file_size:,} bytes"
                raise RefusedError(Status.TOO_LARGE, f"the member would unpack {sizes}, over the limits")
        except RefusedError as refused:
            yield Refusal(Identity(where.source, joined(where.member, info.filename)), refused.status, refused.reason)
        else:
            yield Member(info.filename, i)


def read_zip_member(archive: zipfile.ZipFile, index: int, options: ReadConfig) -> bytes:
    """The bytes of a member.

    Raises:
        RefusedError: they cannot be read or are too many.
    """
    try:
        with archive.open(archive.infolist()[index]) as stream:
            return in_pieces(stream, options)
    except RefusedError:
        raise
    except Exception as error:  # damaged members fail in zlib and zipfile, each in its own way
        raise RefusedError(Status.UNREADABLE, f"the bytes cannot be read: {error}") from error


def in_pieces(stream: Any, options: ReadConfig) -> bytes:
    """All of a stream, read in pieces, so that no statement about its size asks for memory.

    Raises:
        RefusedError: it is longer than the limit.
    """
    content = io.BytesIO()
    while piece := stream.read(_PIECE):
        content.write(piece)
        if content.tell() > options.max_bytes:
            raise RefusedError(Status.TOO_LARGE, f"it is larger than {options.max_bytes:,} bytes")
    return content.getvalue()


def tar_members(stream: BinaryIO, where: Identity, options: ReadConfig) -> Iterator[Member | Refusal]:
    """The members of a tar in the order in which they are stored, with their bytes: a stream is read once.

    Raises:
        RefusedError: the archive is damaged or goes over a limit; what came before stands.
    """
    index = 0
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header, errors="surrogateescape") as archive:
            while (info := archive.next()) is not None:
                archive.pax_headers = {}  # global headers of a stream pile up otherwise
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header of a stream it can never go back in
                if info.isdir():
                    continue
                if index >= options.max_members:
                    raise RefusedError(Status.TOO_LARGE, f"it holds more than {options.max_members:,} files")
                try:
                    yield Member(info.name, index, _tar_content(archive, info, options))
                except RefusedError as refused:
                    if refused.status == Status.TOO_LARGE and info.size <= options.max_bytes:
                        raise
                    yield Refusal(Identity(where.source, joined(where.member, info.name)), refused.status, refused.reason)
                index += 1
    except RefusedError:
        raise
    except Exception as error:  # damaged archives fail in tarfile and in four decompressors, each in its own way
        raise RefusedError(Status.UNREADABLE, f"the archive is damaged after {index} files: {error}") from error
    if not index:
        raise RefusedError(Status.NOT_AN_IMAGE, "the archive holds no file")


def _tar_content(archive: tarfile.TarFile, info: tarfile.TarInfo, options: ReadConfig) -> bytes:
    check_member_name(info.name)
    if info.issym() or info.islnk():
        raise RefusedError(Status.UNSAFE_PATH, "the member is a link; not followed")
    if not info.isfile() or info.issparse():
        raise RefusedError(Status.NOT_AN_IMAGE, "this is no regular file (a device, a pipe, a sparse file)")
    if info.size > options.max_bytes:
        raise RefusedError(Status.TOO_LARGE, f"the member is larger than {options.max_bytes:,} bytes")
    stream = archive.extractfile(info)
    assert stream is not None
    content = stream.read()
    if len(content) != info.size:
        raise tarfile.ReadError("the archive ends inside a file")
    return content


class _Header(tarfile.TarInfo):
    """A tar header that is damaged or missing ends the archive with an error, and that asks for little memory.

    tarfile takes a damaged header for the end of the archive; what comes after it would vanish.
    """

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _Header:
        """Read the next header; only a block of zeros ends an archive."""
        try:
            return super().fromtarfile(tarfile)
        except _ENDS_TOO_SOON as error:
            raise _ReadError("it ends without its end mark") from error
        except _InvalidHeaderError as error:
            raise _ReadError("a header in it is damaged") from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Parse and hold against the limit."""
        header = super().frombuf(buf, encoding, errors)
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("it holds a sparse file")
        if not header.isfile() and header.size > _MAX_TAR_HEADER and not header.isdev() and not header.isdir():
            raise tarfile.ReadError("a header of the archive is too long")
        return header


def unpacked(content: bytes, options: ReadConfig) -> bytes:
    """The bytes of one compressed file.

    Raises:
        RefusedError: it is damaged, goes over a limit, or is an archive.
    """
    try:
        plain = in_pieces(Unpacked(io.BytesIO(content), content[:PEEK], options), options)
    except RefusedError:
        raise
    except Exception as error:  # damaged files fail in each decompressor in its own way
        raise RefusedError(Status.UNREADABLE, f"the file cannot be unpacked: {error}") from error
    if is_zip(plain) or is_compressed(plain) or is_tar(plain[:PEEK]):
        raise RefusedError(Status.NOT_AN_IMAGE, "it is packed more than one level deep; unpack it first")
    return plain


def joined(member: str, name: str) -> str:
    """The name of a member inside a member, written with ``!`` between them."""
    return f"{member}!{name}" if member else name
