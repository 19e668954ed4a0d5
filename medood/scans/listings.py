"""Files that list other files: the DICOMDIR of a file-set, and a CSV manifest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pydicom

from medood.scans.csv_table import CsvTable, TableError, find_listed, why_not_there
from medood.scans.dicom_file import parse_dicom
from medood.scans.scan import Identity, Refusal, Status
from medood.schema import ReadConfig

_FILE_SET_CLASS = b"1.2.840.10008.1.3.10"
_MEDIA_CLASS = b"\x02\x00\x02\x00UI"  # Media Storage SOP Class UID; its length follows
_COLUMNS = ("file", "patient_id", "sha256")


@dataclass(frozen=True)
class Entry:
    """A listed file.

    Attributes:
        path: where it lies.
        patient: a hash that tells patients apart, empty where none is stated.
        sha256: the digest stated for it, empty where none is.
    """

    path: Path
    patient: str = ""
    sha256: str = ""


def is_file_set(path: Path, start: bytes) -> bool:
    """True where the first bytes are those of a DICOMDIR (PS3.10 section 8.6)."""
    place = start.find(_MEDIA_CLASS, 132)
    return start[128:132] == b"DICM" and place > 0 and start[place + 8 :].startswith(_FILE_SET_CLASS)


def read_file_set(path: Path) -> Iterator[Entry | Refusal]:
    """The files of a DICOMDIR in the order of its records; names that lead out of its folder are refused.

    Media are often copied to file systems that change the case of names, or by programs that add an extension: a file is
    found whatever its case, and with an extension where it is the only one of its name.
    """
    try:
        content = path.read_bytes()
        records = parse_dicom(content, ReadConfig()).dataset.get("DirectoryRecordSequence") or []
        names = [_components(record) for record in records]
    except Exception:  # pydicom raises many kinds on damaged files
        yield Refusal(Identity(str(path)), Status.UNREADABLE, "the DICOMDIR is damaged")
        return
    files = [name for name in names if name]
    if not files:
        yield Refusal(Identity(str(path)), Status.NOT_AN_IMAGE, "the DICOMDIR lists no file")
    for name in files:
        place = path.parent.joinpath(*name)
        if any(part in ("", ".", "..") or "\0" in part for part in name):
            yield Refusal(Identity(str(path), "/".join(name)), Status.UNSAFE_PATH, "the DICOMDIR points out of its folder")
            continue
        try:
            found = _whatever_case(path.parent, name)
            inside = found is not None and found.resolve().is_relative_to(path.parent.resolve())
        except (OSError, RuntimeError):  # a name that no file system takes, a link to itself
            found, inside = None, False
        if found is None or not inside:
            yield Refusal(Identity(str(place)), Status.UNREADABLE, "the DICOMDIR lists this file, it is not there")
        else:
            yield Entry(found)


def _components(record: pydicom.Dataset) -> list[str]:
    value = record.get("ReferencedFileID")
    if not value:
        return []
    parts = [value] if isinstance(value, str) else [str(part) for part in value]
    return [
        piece for part in parts for piece in re.split(r"[/\\]", part.strip())
    ]  # some writers put the whole path into one


def _whatever_case(folder: Path, name: list[str]) -> Path | None:
    exact = folder.joinpath(*name)
    if exact.is_file():
        return exact
    for part in name:
        names = _casefolded(folder, folder.stat().st_mtime_ns)
        match = names.get(part.casefold())
        if match is None and part is name[-1]:  # a copy may have given the files an extension
            longer = [found for key, found in names.items() if key.rpartition(".")[0] == part.casefold()]
            match = longer[0] if len(longer) == 1 else None
        if match is None:
            return None
        folder = folder / match
    return folder


@lru_cache(maxsize=64)
def _casefolded(folder: Path, modified: int) -> dict[str, str]:
    return {p.name.casefold(): p.name for p in sorted(folder.iterdir(), reverse=True)} if folder.is_dir() else {}


def is_manifest(path: Path) -> bool:
    """True where the file is named as a CSV; it was given as a list of files."""
    return path.suffix.lower() == ".csv"


def read_manifest(path: Path) -> Iterator[Entry | Refusal]:
    """The rows of a CSV with a column ``file`` (or ``path``), relative to its folder.

    Columns ``patient_id`` (keeps a patient's scans on one side of a split) and ``sha256`` (bytes that differ are refused)
    are used where they are there; others are not looked at.
    """
    where = Identity(str(path))
    try:
        table = manifest_table(path)
        number = 0
        for number, row in table.rows():
            values = [table.value(row, name) for name in _COLUMNS]
            yield _entry(path, number, *values)
        if not number:
            yield Refusal(where, Status.NOT_AN_IMAGE, "the manifest lists no file")
    except TableError as error:
        yield Refusal(where, Status.NOT_AN_IMAGE, f"the manifest cannot be used: {error}")
    except OSError as error:
        yield Refusal(where, Status.UNREADABLE, f"the manifest cannot be read: {error.strerror}")


def manifest_table(path: Path) -> CsvTable:
    """A manifest's rows and the columns that are used of it.

    Raises:
        TableError: it has no column of files, or is no table.
        OSError: it cannot be read.
    """
    return CsvTable(path, _COLUMNS, needed=("file",))


def _entry(manifest: Path, number: int, name: str, patient: str, sha256: str) -> Entry | Refusal:
    if not name or "\0" in name:
        return Refusal(Identity(str(manifest)), Status.UNREADABLE, f"line {number} of the manifest names no file")
    found = find_listed(manifest.parent, name)
    if found is None:
        return Refusal(Identity(str(manifest.parent / name)), Status.UNREADABLE, why_not_there(name))
    if found.is_dir():
        return Refusal(Identity(str(found)), Status.NOT_AN_IMAGE, "the manifest lists a folder; expected a file in each row")
    return Entry(found, patient_hash(patient), sha256.lower())


def file_sha256(path: Path) -> str:
    """Hex digest of a file of any size; empty where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def patient_hash(patient: str) -> str:
    """16 hex digits that tell patients apart without naming them; empty for an empty identifier."""
    return hashlib.sha256(patient.encode("utf-8", "replace")).hexdigest()[:16] if patient else ""
