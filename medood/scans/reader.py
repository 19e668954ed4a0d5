"""Read sources as scans: the first bytes choose the reader, and whatever cannot be read becomes a refusal."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from medood.config.schema import ReadConfig
from medood.errors import MedoodError
from medood.reasons import Reason
from medood.scans.dicom.parser import is_dicom
from medood.scans.dicom.reader import read_dicom
from medood.scans.frames import wanted_frames
from medood.scans.library_settings import with_library_settings
from medood.scans.nifti import PLANES, is_nifti, read_nifti
from medood.scans.raster import is_raster, read_raster
from medood.scans.scan import Identity, Refusal, RefusedError, Scan, Status, UnavailableError, sha256_of
from medood.scans.selection import parse_selection
from medood.scans.sources.compression import is_compressed, is_tar, unpack
from medood.scans.sources.source import Source, find_sources, read_bytes
from medood.scans.sources.zip_archive import is_zip

#: How images are decoded for a network: whole, or at the lowest resolution that suffices.
DECODE = ("full", "scored")


def least_side_for(size: int, options: ReadConfig) -> int:
    """Pixels that each side of an image must keep for a network whose input has ``size``; 0 decodes images whole.

    Text can only be read in whole images.
    """
    return 2 * size if options.decode == "scored" and not options.text else 0


class DigestStore:
    """Digests of the contents seen so far in a run, on disk beyond a few megabytes, so that an archive can have any size."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # a private temporary file, gone when closed
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("CREATE TABLE seen (sha256 BLOB PRIMARY KEY, name TEXT) WITHOUT ROWID")

    def first(self, sha256: str, name: str) -> str | None:
        """Return the name under which these bytes were first seen, or None and record the name if they are new."""
        digest = bytes.fromhex(sha256)
        inserted = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (digest, _text(name))).rowcount
        if inserted:
            return None
        return str(self._database.execute("SELECT name FROM seen WHERE sha256 = ?", (digest,)).fetchone()[0])

    def has(self, sha256: str) -> bool:
        """Return whether these bytes were seen before."""
        cursor = self._database.execute("SELECT 1 FROM seen WHERE sha256 = ?", (bytes.fromhex(sha256),))
        return cursor.fetchone() is not None


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def check_options(options: ReadConfig) -> None:
    """Check the options before anything is read.

    Raises:
        MedoodError: an option is invalid; the message names it.
    """
    try:
        wanted_frames(options.frames, 1, 1)
    except ValueError as error:
        raise MedoodError(f"read.{error}.") from error
    if options.decode not in DECODE:
        raise MedoodError(f"read.decode is {options.decode!r}; expected one of {', '.join(DECODE)}.")
    if options.plane not in PLANES:
        raise MedoodError(f"read.plane is {options.plane!r}; expected one of {', '.join(PLANES)}.")
    if options.select:
        parse_selection(options.select)
    for name in ("max_pixels", "max_bytes", "max_members", "max_unpacked", "max_ratio", "max_frames", "max_decoder_memory"):
        if getattr(options, name) < 1:
            raise MedoodError(f"read.{name} is {getattr(options, name)}; expected at least 1.")


def read_scans(path: str | Path, options: ReadConfig | None = None) -> Iterator[Scan | Refusal]:
    """Read every scan of a file, folder, archive, DICOMDIR, CSV manifest or PACS, in a fixed order.

    Args:
        path: what to read.
        options: the frames and objects to read, and the limits.

    Yields:
        a :class:`Scan` for each frame of each image, a :class:`Refusal` for each file without an image.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        MedoodError: an option is invalid.
    """
    options = options or ReadConfig()
    check_options(options)
    digests = DigestStore()
    for source in find_sources(path, options):
        if isinstance(source, Refusal):
            yield source
        else:
            yield from read_source(source, options, digests)


def read_source(
    source: Source,
    options: ReadConfig | None = None,
    digests: DigestStore | None = None,
    in_shard: Callable[[str], bool] | None = None,
    least_side: int = 0,
) -> Iterator[Scan | Refusal]:
    """Yield the scans of one source, or one refusal that says why there is none. Never raises on bad input.

    Args:
        source: what to read.
        options: the frames and objects to read, and the limits.
        digests: store used to refuse contents seen before as duplicates; new contents are added.
        in_shard: predicate on the SHA-256 of the bytes, called before decoding; if false, nothing is yielded.
        least_side: pixels that each side must keep where an image can be decoded at a lower resolution; 0 decodes it whole.
    """
    options = options or ReadConfig()
    identity = source.identity
    try:
        content = read_bytes(source, options)
        if not content:
            raise RefusedError(Status.UNREADABLE, Reason("file_empty"))
        identity = replace(identity, sha256=sha256_of(content))
        if in_shard is not None and not in_shard(identity.sha256):
            return
        if source.sha256 and source.sha256 != identity.sha256:
            raise RefusedError(Status.UNREADABLE, Reason("bytes_differ_from_manifest"))
        first = digests.first(identity.sha256, identity.name) if digests is not None else None
        if first is not None:
            raise RefusedError(Status.DUPLICATE, Reason("same_bytes", first=first))
        for scan in with_library_settings(read_content(content, identity, options, least_side)):
            yield replace(scan, patient=source.patient) if source.patient else scan
            identity = replace(identity, frame=scan.identity.frame + 1)
    except RefusedError as refused:
        yield Refusal(identity, refused.status, refused.reason)
    except UnavailableError:
        raise
    except Exception:  # a parser or decoder may raise anything on a damaged file, which must not stop the run
        yield Refusal(identity, Status.UNREADABLE, Reason("file_damaged"))


def read_content(content: bytes, identity: Identity, options: ReadConfig, least_side: int = 0) -> Iterator[Scan]:
    """Read the bytes with the reader for their format, which the first bytes identify.

    Raises:
        RefusedError: no reader supports the format, or the reader found no image.
    """
    if is_compressed(content):
        content, behind = _unpack(content, options)
        yield from read_content(content, identity, options, least_side)
        if behind:
            raise RefusedError(Status.UNREADABLE, behind)
        return
    if is_dicom(content):
        yield from read_dicom(content, identity, options, least_side)
        return
    if options.select:
        raise RefusedError(Status.NOT_SELECTED, Reason("not_selected_no_dicom", select=options.select))
    if is_raster(content):
        yield from read_raster(content, identity, options, least_side)
    elif is_nifti(content):
        yield from read_nifti(content, identity, options)
    else:
        raise RefusedError(Status.NOT_AN_IMAGE, Reason("format_unknown"))


def _unpack(content: bytes, options: ReadConfig) -> tuple[bytes, Reason | None]:
    """Unpack the first file in compressed bytes; also say what follows it, ``None`` if nothing does."""
    plain = unpack(content, options)
    if is_zip(plain.content) or is_compressed(plain.content) or is_tar(plain.content):
        raise RefusedError(Status.NOT_AN_IMAGE, Reason("packed_too_deep"))
    for start in plain.starts:  # several joined files, or one file packed as several streams
        if start and _begins_file(plain.content[start:]):
            return plain.content[:start], Reason("further_files_packed")
    if plain.behind:
        return plain.content, Reason("bytes_after_compressed_file", count=plain.behind)
    return plain.content, None


def _begins_file(content: bytes) -> bool:
    is_archive = is_zip(content) or is_compressed(content) or is_tar(content)
    return is_archive or is_dicom(content) or is_raster(content) or is_nifti(content)
