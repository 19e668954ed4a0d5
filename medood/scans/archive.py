"""Files, folders, archives, DICOM file-sets and manifests to sources, one at a time, in a fixed order, inside limits."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from medood.scans.containers import (
    PEEK,
    Unpacked,
    check_zip,
    is_compressed,
    is_tar,
    is_zip,
    joined,
    read_zip_member,
    tar_members,
    zip_members,
)
from medood.scans.listings import Entry, file_sha256, is_file_set, is_manifest, read_file_set, read_manifest
from medood.scans.pacs import fetch, find_instances, is_dicomweb
from medood.scans.scan import Identity, Refusal, RefusedError, Status
from medood.schema import ReadConfig

_DAMAGED = "the zip archive is damaged, or was not copied to its end: {}"


@dataclass(frozen=True)
class Source:
    """A place that may hold scans: a file, or one member of an archive.

    Attributes:
        path: of the file or archive.
        member: name inside the archive, empty for a plain file; ``inner.zip!name`` inside an archive in it.
        index: the member's place in a zip on disk; two members may have one name.
        content: the bytes, where they had to be read on the way (tar, nested archives).
        patient: a hash that tells patients apart, where a manifest states one.
        sha256: the digest that a manifest states, empty where it states none.
        url: address of an instance in a PACS; ``path`` is empty then.
    """

    path: Path
    member: str = ""
    index: int = 0
    content: bytes | None = None
    patient: str = ""
    sha256: str = ""
    url: str = ""

    @property
    def identity(self) -> Identity:
        """Its identity, before its bytes are read."""
        return Identity(self.url or str(self.path), self.member)


def check_there(path: Path) -> None:
    """Find out early that nothing lies at a path.

    Raises:
        FileNotFoundError: nothing is there, or it cannot be looked up.
    """
    try:
        is_there = path.exists() or path.is_symlink()
    except OSError as error:
        raise FileNotFoundError(f"{str(path)[:200]} cannot be looked up: {error.strerror}") from error
    if not is_there:
        raise FileNotFoundError(f"{path} does not exist")


def find_sources(path: str | Path, options: ReadConfig | None = None) -> Iterator[Source | Refusal]:
    """List what lies at ``path``, one source at a time; memory does not grow with their number.

    A folder's files come sorted by name, to any depth; links that lead out of the folder, and links to folders, are not
    followed but refused. Zip and tar archives, compressed or not, are opened, and the archives in them, but no deeper. Of
    the file given itself, a DICOMDIR stands for the files that it lists, and a CSV with a column ``file`` likewise. The
    address of a PACS (:mod:`medood.scans.pacs`) stands for its instances.

    Raises:
        FileNotFoundError: nothing is there.
        UnavailableError: the PACS does not answer, or refuses.
    """
    options = options or ReadConfig()
    if not is_dicomweb(path):
        check_there(Path(path))
    for file in find_files(path):
        yield from open_file(file, options)


@dataclass(frozen=True)
class File:
    """A file that was found and not yet opened.

    Attributes:
        place: where it lies, as text: of a million files that are skipped none becomes a path.
        root: the folder that it was found in, which it must not lead out of; none for a file that was given or listed.
        listed: what a list of files states of it; none where it is on none.
        url: address of an instance in a PACS; ``place`` is empty then.
    """

    place: str
    root: Path | None = None
    listed: Entry | None = None
    url: str = ""

    @property
    def name(self) -> str:
        """As its rows name it."""
        return self.url or self.place

    @property
    def path(self) -> Path:
        """Where it lies."""
        return Path(self.place)


def find_files(source: str | Path) -> Iterator[File | Refusal]:
    """The files of a source in the order of :func:`find_sources`, unopened but for a list of files itself."""
    if is_dicomweb(source):
        yield from (File("", url=address) for address in find_instances(str(source)))
        return
    path = Path(source)
    if path.is_dir():
        closed: list[OSError] = []
        root = path.resolve()
        for folder, folders, names in os.walk(path, onerror=closed.append):
            folders.sort()
            linked = [name for name in folders if (Path(folder) / name).is_symlink()]
            before = "" if (here := str(Path(folder))) == "." else os.path.join(here, "")  # noqa: PTH118 - see place
            for name in sorted([*names, *linked]):
                yield File(before + name, root)
        for denied in closed:
            yield Refusal(
                Identity(str(denied.filename)), Status.UNREADABLE, f"the folder cannot be opened: {denied.strerror}"
            )
        return
    start = b""
    with contextlib.suppress(OSError):  # it will be refused when it is opened for reading
        if path.is_file():  # a pipe would keep its reader waiting
            with path.open("rb") as stream:
                start = stream.read(PEEK)
    if is_file_set(path, start) or is_manifest(path, start):
        for entry in read_file_set(path) if is_file_set(path, start) else read_manifest(path):
            yield entry if isinstance(entry, Refusal) else File(str(entry.path), listed=entry)
    else:
        yield File(str(path))


def open_file(file: File | Refusal, options: ReadConfig) -> Iterator[Source | Refusal]:
    """The sources of a file: itself, or an archive's members."""
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
                why = "a link to a folder, out of the folder or to nothing; not followed"
                yield Refusal(where, Status.UNSAFE_PATH, why)
                return
        except OSError as error:
            yield Refusal(where, Status.UNREADABLE, f"the file cannot be looked up: {error.strerror}")
            return
        yield from _open(file.path, options)


def count_sources(path: Path) -> int | None:
    """How many sources :func:`find_sources` will list, for a progress bar; none where only reading it all would tell."""
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
            with contextlib.suppress(Exception):  # a damaged one will be refused when it is opened for reading
                count += len(_opened(file, file.stat().st_mtime_ns).infolist()) - 1
    return count


def _stays_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # a link to nothing, or to itself
        return False


def _open_listed(entry: Entry, options: ReadConfig) -> Iterator[Source | Refusal]:
    for found in _open(entry.path, options):
        if not isinstance(found, Source):
            yield found
            continue
        if found.member and entry.sha256 and file_sha256(entry.path) != entry.sha256:
            why = "the bytes are not those that the manifest states (SHA-256 differs)"
            yield Refusal(Identity(str(entry.path)), Status.UNREADABLE, why)
            break
        yield replace(found, patient=entry.patient, sha256="" if found.member else entry.sha256)


def _open(path: Path, options: ReadConfig) -> Iterator[Source | Refusal]:
    where = Identity(str(path))
    try:
        if not os.path.lexists(path):
            yield Refusal(where, Status.UNREADABLE, "the file is gone: it was there when its folder was listed")
            return
        if not path.is_file():
            yield Refusal(where, Status.NOT_AN_IMAGE, "this is no regular file (a device, a pipe, a link to nothing)")
            return
        with path.open("rb") as stream:
            start = stream.read(PEEK)
            if is_zip(start):
                size = path.stat().st_size
                check_zip(stream, options)
                archive = _opened(path, path.stat().st_mtime_ns)
                yield from _from_zip(path, archive, size, where, options)
            elif is_compressed(start) or is_tar(start):
                stream.seek(0)
                yield from _from_stream(path, stream, start, where, options)
            else:
                yield Source(path)
    except RefusedError as refused:
        yield Refusal(where, refused.status, refused.reason)
    except zipfile.BadZipFile as error:
        yield Refusal(where, Status.UNREADABLE, _DAMAGED.format(error))
    except Exception as error:  # the zip parser raises many kinds on damaged archives
        yield Refusal(where, Status.UNREADABLE, f"the file cannot be opened: {error}")


def _from_zip(
    path: Path, archive: zipfile.ZipFile, size: int, where: Identity, options: ReadConfig
) -> Iterator[Source | Refusal]:
    """A zip on disk: members are read when they are needed, but those that are archives themselves."""
    for member in zip_members(archive, size, where, options):
        if isinstance(member, Refusal):
            yield member
            continue
        try:
            start = _start_of(archive, member.index)
        except Exception:  # it is damaged, or packed in a way that zipfile does not know: reading it will say so
            start = b""
        if is_zip(start) or is_compressed(start) or is_tar(start):
            inside = Identity(where.source, member.name)
            try:
                content = read_zip_member(archive, member.index, options)
            except RefusedError as refused:
                yield Refusal(inside, refused.status, refused.reason)
            else:
                yield from _from_content(path, content, inside, options)
        else:
            yield Source(path, member.name, member.index)


def _start_of(archive: zipfile.ZipFile, index: int) -> bytes:
    with archive.open(archive.infolist()[index]) as stream:
        return stream.read(PEEK)


def _from_content(path: Path, content: bytes, where: Identity, options: ReadConfig) -> Iterator[Source | Refusal]:
    """What lies in a member whose bytes are here: an archive's members, or the member itself."""
    try:
        if is_zip(content):
            check_zip(io.BytesIO(content), options)
            archive = zipfile.ZipFile(io.BytesIO(content))
            for member in zip_members(archive, len(content), where, options):
                if isinstance(member, Refusal):
                    yield member
                    continue
                inside = Identity(where.source, joined(where.member, member.name))
                try:
                    content = read_zip_member(archive, member.index, options)
                except RefusedError as refused:
                    yield Refusal(inside, refused.status, refused.reason)
                else:
                    yield _leaf(path, content, inside)
        elif is_compressed(content) or is_tar(content[:PEEK]):
            yield from _from_stream(path, io.BytesIO(content), content[:PEEK], where, options, packed=content)
        else:
            yield Source(path, where.member, content=content)
    except RefusedError as refused:
        yield Refusal(where, refused.status, refused.reason)
    except zipfile.BadZipFile as error:
        yield Refusal(where, Status.UNREADABLE, _DAMAGED.format(error))
    except Exception as error:  # as in _open
        yield Refusal(where, Status.UNREADABLE, f"the archive cannot be opened: {error}")


def _from_stream(
    path: Path, stream: BinaryIO, start: bytes, where: Identity, options: ReadConfig, packed: bytes | None = None
) -> Iterator[Source | Refusal]:
    """A tar, compressed or not; one compressed file is a source as it is, and unpacked when it is read."""
    unpacked = io.BufferedReader(Unpacked(stream, start, options), 1024**2)
    try:
        beginning = unpacked.peek(PEEK)[:PEEK]
    except RefusedError:
        raise
    except Exception as error:  # damaged files fail in each decompressor in its own way
        raise RefusedError(Status.UNREADABLE, f"the file cannot be unpacked: {error}") from error
    if not is_tar(beginning):
        yield Source(path, where.member, content=packed)
        return
    for member in tar_members(unpacked, where, options):
        if isinstance(member, Refusal):
            yield member
            continue
        assert member.content is not None
        inside = Identity(where.source, joined(where.member, member.name))
        if packed is not None:
            yield _leaf(path, member.content, inside)
        else:
            yield from _from_content(path, member.content, inside, options)


def _leaf(path: Path, content: bytes, where: Identity) -> Source | Refusal:
    """A source whose bytes are here; an archive is opened no deeper than this."""
    if is_zip(content) or is_tar(content[:PEEK]):
        return Refusal(where, Status.NOT_AN_IMAGE, "it is packed more than one level deep; unpack it first")
    return Source(path, where.member, content=content)


def read_bytes(source: Source, options: ReadConfig) -> bytes:
    """The bytes of a source.

    Raises:
        RefusedError: they cannot be read or are too many.
    """
    if source.content is not None:
        return source.content
    if source.url:
        content = fetch(source.url)
        if len(content) > options.max_bytes:
            raise RefusedError(Status.TOO_LARGE, f"the object is larger than {options.max_bytes:,} bytes")
        return content
    try:
        if source.member:
            return read_zip_member(_opened(source.path, source.path.stat().st_mtime_ns), source.index, options)
        if source.path.stat().st_size > options.max_bytes:
            raise RefusedError(Status.TOO_LARGE, f"the file is larger than {options.max_bytes:,} bytes")
        return source.path.read_bytes()
    except OSError as error:
        raise RefusedError(Status.UNREADABLE, f"the bytes cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=2)
def _opened(path: Path, modified: int) -> zipfile.ZipFile:
    """One archive stays open while its members are read, so that its directory is parsed once."""
    return zipfile.ZipFile(path)
