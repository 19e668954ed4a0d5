"""Files, folders and zip archives to members, in a fixed order and inside limits. Nothing is ever unpacked to disk."""

from __future__ import annotations

import os
import zipfile
import zlib
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


@dataclass(frozen=True)
class Source:
    """A place that may hold scans: a file, or one member of an archive."""

    path: Path
    member: str = ""


def find_sources(path: Path) -> Iterator[Source | Refusal]:
    """List what lies at ``path``: the file itself, the members of a zip, or a folder's files, sorted by name.

    Folders are walked to any depth; links that lead out of the folder are not followed.

    Raises:
        FileNotFoundError: nothing is there.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_dir():
        yield from _open_file(path)
        return
    root = path.resolve()
    closed: list[OSError] = []
    for folder, folders, names in os.walk(path, onerror=closed.append):
        folders.sort()
        for name in sorted(names):
            found = Path(folder) / name
            if not found.is_symlink() or found.resolve().is_relative_to(root):
                yield from _open_file(found)
    for error in closed:
        yield Refusal(Identity(str(error.filename)), Status.UNREADABLE, f"the folder cannot be opened: {error.strerror}")


def _open_file(path: Path) -> Iterator[Source | Refusal]:
    if not path.is_file():
        yield Refusal(
            Identity(str(path)), Status.NOT_AN_IMAGE, "this is no regular file (a link to nothing, a device, a pipe)"
        )
        return
    try:
        if not zipfile.is_zipfile(path):
            yield Source(path)
            return
        with zipfile.ZipFile(path) as archive:
            members = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda i: i.filename)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        yield Refusal(Identity(str(path)), Status.UNREADABLE, f"the file cannot be opened: {error}")
        return
    for info in members:
        identity = Identity(str(path), info.filename)
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
            yield Refusal(identity, Status.UNSAFE_PATH, "the member's name leads out of the archive; it was not opened")
        elif info.flag_bits & 0x1:
            yield Refusal(identity, Status.ENCRYPTED, "the member is encrypted; unlock the archive first")
        elif info.file_size > MAX_BYTES or (
            info.file_size > 64 * 1024**2 and info.file_size > MAX_RATIO * max(info.compress_size, 1)
        ):
            yield Refusal(
                identity,
                Status.TOO_LARGE,
                f"the member would unpack from {info.compress_size:,} to {info.file_size:,} bytes, over the limits",
            )
        else:
            yield Source(path, info.filename)


def read_bytes(source: Source) -> bytes:
    """The bytes of a source.

    Raises:
        RefusedError: they cannot be read or are too many.
    """
    try:
        if source.member:
            with _opened(source.path, source.path.stat().st_mtime_ns).open(source.member) as stream:
                content = stream.read(MAX_BYTES + 1)
        else:
            if source.path.stat().st_size > MAX_BYTES:
                raise RefusedError(Status.TOO_LARGE, f"the file is larger than {MAX_BYTES:,} bytes")
            content = source.path.read_bytes()
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError) as error:
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
