"""List the files in a CSV manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medood.reasons import Reason
from medood.scans.scan import Identity, Refusal, Status, patient_hash
from medood.scans.sources.csv_table import CsvTable, TableError, find_listed, why_not_there
from medood.scans.sources.listed_file import ListedFile

_COLUMNS = ("file", "patient_id", "sha256")


def is_manifest(path: Path) -> bool:
    """Return whether the file's name ends in ``.csv``; such a file is read as a list of files."""
    return path.suffix.lower() == ".csv"


def read_manifest(path: Path) -> Iterator[ListedFile | Refusal]:
    """Yield the files of a CSV with a column ``file`` (or ``path``), relative to its folder.

    The columns ``patient_id`` (keeps a patient's scans on one side of a split) and ``sha256`` (bytes that differ are
    refused) are used if present; others are ignored.
    """
    where = Identity(str(path))
    try:
        table = manifest_table(path)
        number = 0
        for number, row in table.rows():
            values = [table.value(row, name) for name in _COLUMNS]
            yield _listed_file(path, number, *values)
        if not number:
            yield Refusal(where, Status.NOT_AN_IMAGE, Reason("manifest_empty"))
    except TableError as error:
        yield Refusal(where, Status.NOT_AN_IMAGE, Reason("manifest_unusable", problem=str(error)))
    except OSError as error:
        yield Refusal(where, Status.UNREADABLE, Reason("manifest_not_read", problem=error.strerror or "a system error"))


def manifest_table(path: Path) -> CsvTable:
    """Open a manifest as a table with its known columns.

    Raises:
        TableError: it has no column of files, or is not a table.
        OSError: it cannot be read.
    """
    return CsvTable(path, _COLUMNS, needed=("file",))


def _listed_file(manifest: Path, number: int, name: str, patient: str, sha256: str) -> ListedFile | Refusal:
    if not name or "\0" in name:
        return Refusal(Identity(str(manifest)), Status.UNREADABLE, Reason("manifest_line_without_file", line=number))
    located = find_listed(manifest.parent, name)
    if located is None:
        return Refusal(Identity(str(manifest.parent / name)), Status.UNREADABLE, why_not_there(name))
    if located.is_dir():
        return Refusal(Identity(str(located)), Status.NOT_AN_IMAGE, Reason("manifest_lists_folder"))
    return ListedFile(located, patient_hash(patient), sha256.lower())
