"""Files, folders and zip archives to members, in a fixed order and inside limits. Nothing is ever unpacked to disk."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from medood.scans.dicom import is_dicom, read_dicom
from medood.scans.raster import is_raster, read_raster
from medood.scans.scan import Identity, Refusal, RefusedError, Scan, Status, sha256_of

#: A file or member of more bytes than this is refused as ``too_large``.
MAX_BYTES = 2 * 1024**3
#: A member that unpacks to more than this many times its packed size is refused, once it is over 64 MiB.
MAX_RATIO = 200


_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True)
class Source:
    """A place that may hold scans: a file, or one member of an archive.

    Attributes:
        path: of the file or archive.
        member: name inside the archive, empty for a plain file.
        index: the member's place in the archive's directory; two members may have one name.
    """

    path: Path
    member: str = ""
    index: int = 0


def find_sources(path: Path) -> Iterator[Source | Refusal]:
    """List what lies at ``path``: the file itself, the members of a zip, or a folder's files, sorted by name.

    Folders are walked to any depth; links that lead out of the folder, and links to folders, are not followed but refused.

    Raises:
        FileNotFoundError: nothing is there.
    """
    try:
        is_folder, is_there = path.is_dir(), path.exists() or path.is_symlink()
    except OSError as error:
        raise FileNotFoundError(f"{str(path)[:200]} cannot be looked up: {error.strerror}") from error
    if not is_there:
        raise FileNotFoundError(f"{path} does not exist")
    if not is_folder:
        yield from _open_file(path)
        return
    root = path.resolve()
    closed: list[OSError] = []
    for folder, folders, names in os.walk(path, onerror=closed.append):
        folders.sort()
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *linked]):
            found = Path(folder) / name
            if found.is_symlink() and (name in linked or not _stays_inside(found, root)):
                yield Refusal(
                    Identity(str(found)),
                    Status.UNSAFE_PATH,
                    "a link to a folder, out of the folder or to nothing; not followed",
                )
            else:
                yield from _open_file(found)
    for denied in closed:
        yield Refusal(Identity(str(denied.filename)), Status.UNREADABLE, f"the folder cannot be opened: {denied.strerror}")


def _stays_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # a link to nothing, or to itself
        return False


def _open_file(path: Path) -> Iterator[Source | Refusal]:
    if not path.is_file():
        yield Refusal(
            Identity(str(path)), Status.NOT_AN_IMAGE, "this is no regular file (a device, a pipe, a link to nothing)"
        )
        return
    try:
        with path.open("rb") as stream:
            if not stream.read(4).startswith(_ZIP_MAGIC):
                yield Source(path)
                return
        members = [(info, i) for i, info in enumerate(_opened(path, path.stat().st_mtime_ns).infolist())]
    except Exception as error:  # the zip parser raises many kinds on damaged archives
        yield Refusal(Identity(str(path)), Status.UNREADABLE, f"the file cannot be opened: {error}")
        return
    files = [(info, i) for info, i in members if not info.filename.endswith("/")]
    if not files:
        yield Refusal(Identity(str(path)), Status.NOT_AN_IMAGE, "the archive holds no file")
    for info, i in sorted(files, key=lambda pair: (pair[0].filename, pair[1])):
        yield _member(path, info, i)


def _member(path: Path, info: zipfile.ZipInfo, index: int) -> Source | Refusal:
    identity = Identity(str(path), info.filename)
    name = PurePosixPath(info.filename.replace("\\", "/"))
    if not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        return Refusal(identity, Status.UNSAFE_PATH, "the member's name leads out of the archive; it was not opened")
    if info.flag_bits & 0x1:
        return Refusal(identity, Status.ENCRYPTED, "the member is encrypted; unlock the archive first")
    bomb = info.file_size > 64 * 1024**2 and info.file_size > MAX_RATIO * max(info.compress_size, 1)
    if info.file_size > MAX_BYTES or bomb:
        sizes = f"from {info.compress_size:,} to {info.file_size:,} bytes"
        return Refusal(identity, Status.TOO_LARGE, f"the member would unpack {sizes}, over the limits")
    return Source(path, info.filename, index)


def read_bytes(source: Source) -> bytes:
    """The bytes of a source.

    Raises:
        RefusedError: they cannot be read or are too many.
    """
    try:
        if source.member:
            archive = _opened(source.path, source.path.stat().st_mtime_ns)
            with archive.open(archive.infolist()[source.index]) as stream:
                content = stream.read(MAX_BYTES + 1)
        else:
            if source.path.stat().st_size > MAX_BYTES:
                raise RefusedError(Status.TOO_LARGE, f"the file is larger than {MAX_BYTES:,} bytes")
            content = source.path.read_bytes()
    except RefusedError:
        raise
    except Exception as error:  # damaged members fail in zlib, bz2, lzma and zipfile, each in its own way
        raise RefusedError(Status.UNREADABLE, f"the bytes cannot be read: {error}") from error
    if len(content) > MAX_BYTES:
        raise RefusedError(Status.TOO_LARGE, f"the member is larger than {MAX_BYTES:,} bytes")
    return content


@lru_cache(maxsize=2)
def _opened(path: Path, modified: int) -> zipfile.ZipFile:
    """One archive stays open while its members are read, so that its directory is parsed once."""
    return zipfile.ZipFile(path)


def read_source(source: Source) -> Iterator[Scan | Refusal]:
    """The scans of one source, or the one refusal that says why there is none. Never raises for bad input."""
    identity = Identity(str(source.path), source.member)
    try:
        content = read_bytes(source)
        identity = Identity(identity.source, identity.member, 0, sha256_of(content))
        for scan in read_content(content, identity):
            yield scan
            identity = replace(identity, frame=scan.identity.frame + 1)
    except RefusedError as refused:
        yield Refusal(identity, refused.status, refused.reason)
    except Exception as error:  # a parser or decoder may raise anything on a damaged file, and no file may stop a run
        yield Refusal(identity, Status.UNREADABLE, f"the file cannot be read ({type(error).__name__}: {str(error)[:200]})")


def read_content(content: bytes, identity: Identity) -> Iterator[Scan]:
    """Hand the bytes to the reader that their first bytes ask for.

    Raises:
        RefusedError: no reader takes them, or the reader found no picture.
    """
    if not content:
        raise RefusedError(Status.UNREADABLE, "the file is empty (0 bytes)")
    if is_dicom(content):
        yield from read_dicom(content, identity)
    elif is_raster(content):
        yield from read_raster(content, identity)
    else:
        raise RefusedError(
            Status.NOT_AN_IMAGE, "the file is none of DICOM, PNG, JPEG or TIFF (its first bytes say so, not its name)"
        )


def read_scans(path: str | Path) -> Iterator[Scan | Refusal]:
    """Read every scan of a file, folder or zip archive, in a fixed order.

    Yields:
        A :class:`Scan` for each frame of each picture, a :class:`Refusal` for each file without one.

    Raises:
        FileNotFoundError: nothing lies at ``path``.
    """
    for found in find_sources(Path(path)):
        if isinstance(found, Refusal):
            yield found
        else:
            yield from read_source(found)
