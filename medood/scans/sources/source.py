"""List the sources in files, folders, archives, DICOM file-sets and manifests lazily, in a fixed order, within limits."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from medood.config.schema import ReadConfig
from medood.reasons import Reason
from medood.scans.scan import Identity, Refusal, RefusedError, Status, file_sha256
from medood.scans.sources.archive_members import Member, joined, refused
from medood.scans.sources.compression import (
    PACKED_PEEK,
    PEEK,
    PIECE,
    Unpacked,
    holds_tar,
    in_pieces,
    is_compressed,
    is_tar,
)
from medood.scans.sources.dicomweb import fetch, is_dicomweb
from medood.scans.sources.folder import File, check_there, find_files
from medood.scans.sources.listed_file import ListedFile
from medood.scans.sources.tar_archive import tar_members
from medood.scans.sources.zip_archive import ZippedMember, is_zip, open_zip, read_zip_member, zip_members, zipped_member

#: Disk space kept free when an archive inside an archive is copied to a temporary file.
_RESERVE = 1024**3
_DAMAGED = Reason("zip_damaged")


@dataclass(frozen=True)
class Source:
    """A place that may hold scans: a file, or one member of an archive.

    Attributes:
        path: path of the file or archive.
        member: name inside the archive, empty for a plain file; ``inner.zip!name`` for a nested archive.
        zipped: location of the member's bytes in a zip on disk.
        content: the bytes, if they had to be read already (tar, nested archives).
        patient: a hash that distinguishes patients, if a manifest states a patient.
        sha256: the digest that a manifest states; empty if none.
        url: address of an instance in a PACS, with an empty ``path``.
    """

    path: Path
    member: str = ""
    zipped: ZippedMember | None = None
    content: bytes | None = None
    patient: str = ""
    sha256: str = ""
    url: str = ""

    @property
    def identity(self) -> Identity:
        """The identity as known before the bytes are read."""
        return Identity(self.url or str(self.path), self.member)


def find_sources(path: str | Path, options: ReadConfig | None = None) -> Iterator[Source | Refusal]:
    """Yield the sources at ``path`` one at a time; memory does not grow with their number.

    A folder's files are sorted by name, to any depth; links that lead out of the folder, and links to folders, are
    refused. Zip and tar archives, compressed or not, are opened, and so are archives in them, but no deeper. If ``path``
    itself is a DICOMDIR, or a CSV with a column ``file``, it stands for the files that it lists. The address of a PACS
    (:mod:`medood.scans.sources.dicomweb`) stands for its instances.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        UnavailableError: the PACS does not answer, or refuses access.
    """
    options = options or ReadConfig()
    if not is_dicomweb(path):
        check_there(Path(path))
    for file in find_files(path):
        yield from open_file(file, options)


def open_file(file: File | Refusal, options: ReadConfig) -> Iterator[Source | Refusal]:
    """Yield the sources of a file: the file itself, or an archive's members."""
    if isinstance(file, Refusal):
        yield file
    elif file.url:
        yield Source(file.path, url=file.url)
    elif file.listed is not None:
        yield from _open_listed(file.listed, options)
    elif file.root is None:
        yield from _open(file.path, options)
    else:
        where = Identity(str(file.path))
        try:
            if file.path.is_symlink() and (file.path.is_dir() or not _stays_inside(file.path, file.root)):
                problem = Reason("link_not_followed")
                yield Refusal(where, Status.UNSAFE_PATH, problem)
                return
        except OSError as error:
            yield Refusal(where, Status.UNREADABLE, Reason("file_not_looked_up", problem=error.strerror or "a system error"))
            return
        yield from _open(file.path, options)


def count_sources(path: Path) -> int | None:
    """Count the sources that :func:`find_sources` will yield, for a progress bar; None if that needs reading them all."""
    walked = os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]
    count = 0
    for folder, _, names in walked:
        count += len(names)
        for name in names:
            if name.endswith((".tar", ".tgz", ".txz", ".tzst", ".csv")) or ".tar." in name:
                return None
            if not name.endswith(".zip"):
                continue
            file = Path(folder) / name
            with contextlib.suppress(Exception):  # a damaged archive is refused when it is opened for reading
                count += len(_open_nested(file, file.stat().st_mtime_ns, ReadConfig().max_members)[0].filelist) - 1
    return count


def _stays_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # a link to nothing, or to itself
        return False


def _open_listed(entry: ListedFile, options: ReadConfig) -> Iterator[Source | Refusal]:
    for source in _open(entry.path, options):
        if not isinstance(source, Source):
            yield source
            continue
        if source.member and entry.sha256 and file_sha256(entry.path) != entry.sha256:
            problem = Reason("bytes_differ_from_manifest")
            yield Refusal(Identity(str(entry.path)), Status.UNREADABLE, problem)
            break
        yield replace(source, patient=entry.patient, sha256="" if source.member else entry.sha256)


def _open(path: Path, options: ReadConfig) -> Iterator[Source | Refusal]:
    where = Identity(str(path))
    try:
        if not os.path.lexists(path):
            yield Refusal(where, Status.UNREADABLE, Reason("file_deleted"))
            return
        if not path.is_file():
            yield Refusal(where, Status.NOT_AN_IMAGE, Reason("not_a_regular_file"))
            return
        with path.open("rb") as stream:
            start = stream.read(PACKED_PEEK)
            if is_zip(start):
                archive, unread = _open_nested(path, path.stat().st_mtime_ns, options.max_members)
                yield from _from_zip(path, archive, path.stat().st_size, where, options)
                if unread:
                    yield Refusal(where, Status.UNREADABLE, unread)
            elif is_tar(start) or (is_compressed(start) and holds_tar(start, options)):
                stream.seek(0)
                yield from _from_tar(path, stream, start, where, options)
            else:
                yield Source(path)
    except RefusedError as error:
        yield Refusal(where, error.status, error.reason)
    except zipfile.BadZipFile:
        yield Refusal(where, Status.UNREADABLE, _DAMAGED)
    except OSError as error:
        yield Refusal(where, Status.UNREADABLE, Reason("file_not_opened", problem=error.strerror or "a system error"))
    except Exception:  # the zip parser raises many exception types on damaged archives
        yield Refusal(where, Status.UNREADABLE, _DAMAGED)


def _from_zip(
    path: Path, archive: zipfile.ZipFile, size: int, where: Identity, options: ReadConfig
) -> Iterator[Source | Refusal]:
    """Yield the sources of a zip on disk; members are read later, except those that are archives themselves."""
    for member in zip_members(archive, size, where, options):
        if isinstance(member, Refusal):
            yield member
            continue
        try:
            with archive.open(archive.filelist[member.index]) as stream:
                start = stream.read(PEEK)
                if is_compressed(start):
                    start += stream.read(PACKED_PEEK - PEEK)
        except Exception:  # damaged members are reported when they are read
            start = b""
        if _is_archive(start, options):
            with archive.open(archive.filelist[member.index]) as stream:
                yield from _from_archive(path, stream, member, start, where, options)
        else:
            yield Source(path, member.name, zipped_member(archive, member.index))


def _from_tar(
    path: Path, stream: BinaryIO, start: bytes, where: Identity, options: ReadConfig, *, nested: bool = False
) -> Iterator[Source | Refusal]:
    """Yield the sources of a tar, compressed or not."""
    unpacked = Unpacked(stream, start, options)
    for member in tar_members(io.BufferedReader(unpacked, PIECE), where, options):
        if isinstance(member, Refusal):
            yield member
            continue
        assert member.stream is not None
        try:
            head = member.stream.read(PACKED_PEEK)
            if not nested and _is_archive(head, options):
                rest = _Chained(head, member.stream)
                yield from _from_archive(path, rest, member, head, where, options)
                continue
            if member.size > options.max_bytes:
                raise RefusedError(
                    Status.TOO_LARGE,
                    Reason("member_too_large", size=member.size, limit=options.max_bytes),
                )
            content = head + in_pieces(member.stream, options)
            if len(content) != member.size:
                raise EOFError
            leaf = _leaf(path, content, Identity(where.source, joined(where.member, member.name)))
        except RefusedError as error:
            if unpacked.is_over:
                raise
            yield refused(where, member.name, error)
        except Exception as error:  # damaged archives fail in tarfile and in four decompressors, each in its own way
            raise RefusedError(Status.UNREADABLE, Reason("archive_damaged_in_file", count=member.index)) from error
        else:
            yield leaf
    if unpacked.behind:
        raise RefusedError(Status.UNREADABLE, Reason("bytes_after_compressed_archive", count=unpacked.behind))


def _is_archive(start: bytes, options: ReadConfig) -> bool:
    return is_zip(start) or is_tar(start) or (is_compressed(start) and holds_tar(start, options))


def _from_archive(
    path: Path, stream: Any, member: Member, start: bytes, where: Identity, options: ReadConfig
) -> Iterator[Source | Refusal]:
    """Yield the sources of an archive in an archive: a tar as a stream, a zip (needs seeking) from a temporary file."""
    inside = Identity(where.source, joined(where.member, member.name))
    try:
        if not is_zip(start):
            yield from _from_tar(path, stream, start, inside, options, nested=True)
            return
        with _temporary(stream, member.size) as spooled:
            archive, unread = open_zip(spooled, options.max_members)
            for inner in zip_members(archive, member.size, inside, options):
                if isinstance(inner, Refusal):
                    yield inner
                    continue
                try:
                    content = read_zip_member(spooled, zipped_member(archive, inner.index), options)
                except RefusedError as error:
                    yield refused(inside, inner.name, error)
                else:
                    yield _leaf(path, content, Identity(where.source, joined(inside.member, inner.name)))
            if unread:
                yield Refusal(inside, Status.UNREADABLE, unread)
    except RefusedError as error:
        yield Refusal(inside, error.status, error.reason)
    except zipfile.BadZipFile:
        yield Refusal(inside, Status.UNREADABLE, _DAMAGED)
    except Exception:  # as in _open
        yield Refusal(inside, Status.UNREADABLE, Reason("inner_archive_damaged"))


@contextlib.contextmanager
def _temporary(stream: BinaryIO, size: int) -> Iterator[BinaryIO]:
    """Copy the stream to an unnamed temporary file (in ``TMPDIR``).

    Raises:
        RefusedError: the disk has too little free space.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free - _RESERVE:
        raise RefusedError(Status.TOO_LARGE, Reason("inner_archive_too_large", size=size, folder=folder, free=free))
    with tempfile.TemporaryFile() as spooled:
        shutil.copyfileobj(stream, spooled, PIECE)
        yield spooled


class _Chained(io.RawIOBase):
    """A stream of bytes that were read ahead, followed by the rest of their stream."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest, self._at = io.BytesIO(head), rest, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        content = self._head.read(len(view)) or self._rest.read(len(view))
        view[: len(content)] = content
        self._at += len(content)
        return len(content)

    def tell(self) -> int:
        return self._at


def _leaf(path: Path, content: bytes, where: Identity) -> Source | Refusal:
    """Return a source with its bytes in memory; refuse an archive, as nesting stops here."""
    if is_zip(content) or is_tar(content[:PEEK]):
        return Refusal(where, Status.NOT_AN_IMAGE, Reason("packed_too_deep"))
    return Source(path, where.member, content=content)


def read_bytes(source: Source, options: ReadConfig) -> bytes:
    """Read the bytes of a source.

    Raises:
        RefusedError: they cannot be read or exceed the limit.
    """
    if source.content is not None:
        return source.content
    if source.url:
        content = fetch(source.url)
        if len(content) > options.max_bytes:
            raise RefusedError(Status.TOO_LARGE, Reason("object_larger_than_limit", limit=options.max_bytes))
        return content
    try:
        if source.zipped is not None:
            with source.path.open("rb") as stream:
                return read_zip_member(stream, source.zipped, options)
        if source.path.stat().st_size > options.max_bytes:
            raise RefusedError(Status.TOO_LARGE, Reason("file_larger_than_limit", limit=options.max_bytes))
        return source.path.read_bytes()
    except OSError as error:
        raise RefusedError(Status.UNREADABLE, Reason("bytes_not_read", problem=error.strerror or str(error))) from error


@lru_cache(maxsize=2)
def _open_nested(path: Path, modified: int, max_members: int) -> tuple[zipfile.ZipFile, Reason | None]:
    """Open an archive and keep it open while its members are read, so that its directory is parsed once."""
    return open_zip(path.open("rb"), max_members)
