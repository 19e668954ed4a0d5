"""The manifest of a benchmark: a CSV with one row per file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medood.errors import MedoodError
from medood.scans.sources.csv_table import CsvTable, TableError, find_listed

#: Columns that a manifest must have; ``patient_id`` is used if present.
COLUMNS = ("file", "split", "group", "dataset")
SPLITS = ("train", "calibration", "test")
#: Allowed values of ``group``.
GROUPS = ("in_distribution", "id_shift", "near", "far")


@dataclass(frozen=True)
class Entry:
    """One row of a manifest.

    Attributes:
        file: path relative to the manifest, always with ``/``.
        split: ``train``, ``calibration`` or ``test``.
        group: ``in_distribution`` (accept), ``id_shift`` (accept: healthy, from elsewhere), ``near`` or ``far`` (flag).
        dataset: name of the data set; the part before the first ``_`` names its source, which data sets may share.
        patient_id: the patient within that source; empty if unknown.
    """

    file: str
    split: str
    group: str
    dataset: str
    patient_id: str = ""

    @property
    def patient(self) -> str:
        """Name of the patient, the same for all files of one patient; each file of an unknown patient gets its own."""
        source = self.dataset.split("_")[0]
        return f"{source}/{self.patient_id}" if self.patient_id else f"{self.dataset}//{self.file}"


def manifest_table(path: Path) -> CsvTable:
    """A manifest's rows, with the columns that medood uses.

    Raises:
        TableError: a column is missing, or the file is not a table.
        OSError: the file cannot be read.
    """
    return CsvTable(path, (*COLUMNS, "patient_id"), needed=COLUMNS)


def missing_files(path: Path, entries: list[Entry]) -> list[str]:
    """Missing files of a manifest, found before any file is read.

    Args:
        path: path of the manifest.
        entries: rows of the manifest.

    Raises:
        MedoodError: too many files are missing to measure anything.
    """
    chosen = [entry for entry in entries if entry.split in ("train", "test")]
    missing = {entry.file for entry in chosen if not (path.parent / entry.file).is_file()}
    for split in ("test", "train"):
        needed = [entry for entry in chosen if entry.split == split and (split == "train" or entry.group == GROUPS[0])]
        if not any(entry.file not in missing for entry in needed):
            first = f" ({len(needed)} are named, and none of them is there, such as {needed[0].file})" if needed else ""
            raise MedoodError(
                f"{path}: needs rows of the group in_distribution with the split test, and of the split train, whose files "
                f"are there; of the split {split} there is none{first}. Files are looked for beside the manifest."
            )
    return [entry.file for entry in chosen if entry.file in missing]


def read_manifest(path: Path) -> list[Entry]:
    """Read and check a manifest.

    Raises:
        MedoodError: the manifest cannot be read, a column is missing, or a row is invalid.
    """
    try:
        table = manifest_table(path)
        rows = list(table.rows())
    except TableError as error:
        raise MedoodError(f"The manifest {path} cannot be used: {error}.") from error
    except OSError as error:
        raise MedoodError(f"The manifest {path} cannot be read: {error.strerror or error}.") from error
    entries = []
    for number, row in rows:
        values = {name: table.value(row, name) for name in (*COLUMNS, "patient_id")}
        located = find_listed(path.parent, values["file"]) if values["file"] else None
        if located is not None and located != path.parent / values["file"]:
            values["file"] = os.path.relpath(located, path.parent).replace(os.sep, "/")
        for name, allowed in (("split", SPLITS), ("group", GROUPS)):
            if values[name] not in allowed:
                raise MedoodError(f"{path}, line {number}: {name} is {values[name]!r}; expected {', '.join(allowed)}.")
        if not values["file"] or not values["dataset"]:
            raise MedoodError(f"{path}, line {number}: file and dataset must not be empty.")
        entries.append(Entry(**values))
    return entries
