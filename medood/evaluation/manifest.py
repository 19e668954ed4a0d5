"""The manifest a benchmark reads: a CSV with one row a file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from medood.errors import MedoodError

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


def read_manifest(path: Path) -> list[Entry]:
    """Read and check a manifest.

    Raises:
        MedoodError: it cannot be read, a column is missing, or a row holds what no row may.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.DictReader(stream)
            rows, names = list(reader), reader.fieldnames or []
    except (OSError, csv.Error) as error:
        raise MedoodError(f"The manifest {path} cannot be read: {error}.") from error
    absent = [name for name in COLUMNS if name not in names]
    if absent and len(names) == 1 and ";" in names[0]:
        raise MedoodError(f"{path}: the columns are separated by ';'; expected commas. Save it as CSV with commas.")
    if absent:
        raise MedoodError(f"{path}: the column {absent[0]!r} is missing; expected {', '.join(COLUMNS)}.")
    entries = []
    for number, row in enumerate(rows, start=2):
        values = {name: (row.get(name) or "").strip() for name in (*COLUMNS, "patient_id")}
        for name in ("dataset", "patient_id"):  # a file's name must stay as it is on disk, these need not
            values[name] = values[name].encode("utf-8", "backslashreplace").decode()
        for name, known in (("split", SPLITS), ("group", GROUPS)):
            if values[name] not in known:
                raise MedoodError(f"{path}, line {number}: {name} is {values[name]!r}; expected {', '.join(known)}.")
        if not values["file"] or not values["dataset"]:
            raise MedoodError(f"{path}, line {number}: file and dataset must not be empty.")
        entries.append(Entry(**values))
    return entries
