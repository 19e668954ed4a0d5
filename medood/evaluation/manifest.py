"""The manifest of a benchmark: a CSV with one row per file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from medood.errors import MedoodError
from medood.scans.sources.csv_table import CsvTable, TableError, find_listed

#: Columns that a manifest must have.
COLUMNS = ("file", "split", "group", "dataset")
#: Columns that are used if present.
OPTIONAL_COLUMNS = ("patient_id", "pair", "severity")
#: What a scan is in a pair of sets of one source.
ROLES = ("normal", "disease")
#: Prefix of an encoder's folder, as timm writes it.
LOCAL = "local-dir:"
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
        pair: pairs of a normal and a disease set of one source that the scan is in, as ``NAME:normal`` or ``NAME:disease``,
            separated by spaces.
        severity: how severe the disease is, a number of any scale; empty if unknown.
    """

    file: str
    split: str
    group: str
    dataset: str
    patient_id: str = ""
    pair: str = ""
    severity: str = ""

    @property
    def roles(self) -> dict[str, str]:
        """The scan's role, one of ``ROLES``, by the name of the pair."""
        return dict(text.rsplit(":", 1) for text in self.pair.split())

    @property
    def source(self) -> str:
        """Name of the source of the data set."""
        return self.dataset.split("_")[0]

    @property
    def patient(self) -> str:
        """Name of the patient, the same for all files of one patient; each file of an unknown patient gets its own."""
        return f"{self.source}/{self.patient_id}" if self.patient_id else f"{self.dataset}//{self.file}"


def manifest_table(path: Path) -> CsvTable:
    """A manifest's rows, with the columns that medood uses.

    Raises:
        TableError: a column is missing, or the file is not a table.
        OSError: the file cannot be read.
    """
    return CsvTable(path, (*COLUMNS, *OPTIONAL_COLUMNS), needed=COLUMNS)


def with_pairs(entries: list[Entry]) -> list[Entry]:
    """The rows as they are if any states a pair, else with a pair for each source of both an id_shift and a near set."""
    if any(entry.pair for entry in entries):
        return entries
    sources = [{entry.source for entry in entries if entry.group == group} for group in ("id_shift", "near")]
    roles = {"id_shift": "normal", "near": "disease"}
    return [
        replace(entry, pair=f"{entry.source}:{roles[entry.group]}")
        if entry.group in roles and entry.source in sources[0] & sources[1]
        else entry
        for entry in entries
    ]


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
        values = {name: table.value(row, name) for name in (*COLUMNS, *OPTIONAL_COLUMNS)}
        located = find_listed(path.parent, values["file"]) if values["file"] else None
        if located is not None and located != path.parent / values["file"]:
            values["file"] = os.path.relpath(located, path.parent).replace(os.sep, "/")
        for name, allowed in (("split", SPLITS), ("group", GROUPS)):
            if values[name] not in allowed:
                raise MedoodError(f"{path}, line {number}: {name} is {values[name]!r}; expected {', '.join(allowed)}.")
        if not values["file"] or not values["dataset"]:
            raise MedoodError(f"{path}, line {number}: file and dataset must not be empty.")
        for text in values["pair"].split():
            if not text.partition(":")[0] or text.rpartition(":")[2] not in ROLES:
                raise MedoodError(f"{path}, line {number}: pair is {text!r}; expected NAME:normal or NAME:disease.")
        if values["severity"] and not _is_number(values["severity"]):
            raise MedoodError(f"{path}, line {number}: severity is {values['severity']!r}; expected a number, or nothing.")
        entries.append(Entry(**values))
    return entries


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
