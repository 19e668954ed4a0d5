"""The manifest a benchmark reads: a CSV with one row a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medood.errors import MedoodError
from medood.scans.sources.csv_table import CsvTable, TableError, find_listed

#: Columns that a manifest must have; ``patient_id`` is used where it is known.
COLUMNS = ("file", "split", "group", "dataset")
SPLITS = ("train", "calibration", "test")
#: What may stand in ``group``.
GROUPS = ("in_distribution", "id_shift", "near", "far")


@dataclass(frozen=True)
class Entry:
    """One row.

    Attributes:
        file: path relative to the manifest, always with ``/``.
        split: ``train``, ``calibration`` or ``test``.
        group: ``in_distribution`` (accept), ``id_shift`` (accept: healthy, from elsewhere), ``near`` or ``far`` (flag).
        dataset: name of the data set; what stands before its first ``_`` names the source that it shares with others.
        patient_id: the patient within that source; empty where unknown.
    """

    file: str
    split: str
    group: str
    dataset: str
    patient_id: str = ""

    @property
    def patient(self) -> str:
        """A name that two files share where they are of one patient; a file of an unknown patient stands for itself."""
        source = self.dataset.split("_")[0]
        return f"{source}/{self.patient_id}" if self.patient_id else f"{self.dataset}//{self.file}"


def manifest_table(path: Path) -> CsvTable:
    """A manifest's rows and the columns that are used of it.

    Raises:
        TableError: a column is missing, or it is no table.
        OSError: it cannot be read.
    """
    return CsvTable(path, (*COLUMNS, "patient_id"), needed=COLUMNS)


def missing_files(path: Path, entries: list[Entry]) -> list[str]:
    """The files of a manifest that are not there, found out before any is read.

    Args:
        path: of the manifest.
        entries: its rows.

    Raises:
        MedoodError: so many are missing that nothing can be measured.
    """
    chosen = [entry for entry in entries if entry.split in ("train", "test")]
    missing = {entry.file for entry in chosen if not (path.parent / entry.file).is_file()}
    for split in ("test", "train"):
        wanted = [entry for entry in chosen if entry.split == split and (split == "train" or entry.group == GROUPS[0])]
        if not any(entry.file not in missing for entry in wanted):
            first = f" ({len(wanted)} are named, and none of them is there, such as {wanted[0].file})" if wanted else ""
            raise MedoodError(
                f"{path}: needs rows of the group in_distribution with the split test, and of the split train, whose files "
                f"are there; of the split {split} there is none{first}. Files are looked for beside the manifest."
            )
    return [entry.file for entry in chosen if entry.file in missing]


def read_manifest(path: Path) -> list[Entry]:
    """Read and check a manifest.

    Raises:
        MedoodError: it cannot be read, a column is missing, or a row holds what no row may.
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
        found = find_listed(path.parent, values["file"]) if values["file"] else None
        if found is not None and found != path.parent / values["file"]:
            values["file"] = os.path.relpath(found, path.parent).replace(os.sep, "/")
        for name, known in (("split", SPLITS), ("group", GROUPS)):
            if values[name] not in known:
                raise MedoodError(f"{path}, line {number}: {name} is {values[name]!r}; expected {', '.join(known)}.")
        if not values["file"] or not values["dataset"]:
            raise MedoodError(f"{path}, line {number}: file and dataset must not be empty.")
        entries.append(Entry(**values))
    return entries
