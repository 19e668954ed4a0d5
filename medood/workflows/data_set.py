"""What is known of a data set before it is cleaned: where the result goes, and the patient and split of each file."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from medood.errors import MedoodError
from medood.scans.sources.csv_table import CsvTable, TableError
from medood.screening.ledger.database import Row

#: Columns of a table of the data set that are used: the file's, and those that a duplicate must not cross.
TABLE_COLUMNS = ("file", "patient_id", "split")
#: The list of issues, written last.
ISSUES = "issues.csv"


def check_folder(sources: Sequence[str | Path], out: Path) -> None:
    """Check that nothing is mixed up: the output is neither a finished cleaning nor part of the data set.

    Raises:
        MedoodError: it is.
    """
    if (out / ISSUES).exists():
        raise MedoodError(f"{out} holds the issues of a data set already. Give another --out to clean anew, or remove it.")
    for source in sources:
        if Path(source).is_dir() and out.resolve().is_relative_to(Path(source).resolve()):
            raise MedoodError(f"--out {out} lies in {source}, so that its own files would be listed. Give a folder outside.")


def read_groups(path: Path) -> dict[str, tuple[str, str]]:
    """Patient and split of each file of a table.

    Raises:
        MedoodError: it cannot be read, or has no column ``file``.
    """
    try:
        opened = CsvTable(path, TABLE_COLUMNS, ("file",))
        if len(opened.used) == 1:
            raise TableError(f"it has the columns {', '.join(opened.columns)}; expected any of patient_id and split too")
        names = {key: opened.used.get(key, "") for key in TABLE_COLUMNS}
        rows = [{key: row.get(name, "") for key, name in names.items()} for _, row in opened.rows()]
    except (OSError, TableError) as error:
        raise MedoodError(f"--table: {path} cannot be used: {error}.") from error
    return {posixpath.normpath(row["file"].replace("\\", "/")): (row["patient_id"], row["split"]) for row in rows}


class Groups:
    """Patient and split of each scan.

    Args:
        groups: patient and split by file, see :func:`read_groups`.
    """

    def __init__(self, groups: dict[str, tuple[str, str]]) -> None:
        self._groups = groups
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in groups:
            self._by_name[posixpath.basename(path)].append(path)

    def of(self, row: Row) -> tuple[str, str] | None:
        """Patient and split of a scan, by the longest common end of its path and one of the table; none if unknown."""
        path = posixpath.normpath("/".join(part for part in (row.source, row.member) if part).replace("\\", "/"))
        ends = [other for other in self._by_name[posixpath.basename(path)] if _ends_alike(path, other)]
        return self._groups[max(ends, key=len)] if ends else None

    def crossed(self, row: Row, others: Sequence[Row]) -> str:
        """What a scan and others that look like it cross: ``patients``, ``splits`` or both."""
        if not self._groups:
            return ""
        own, theirs = self.of(row) or ("", ""), [self.of(other) or ("", "") for other in others]
        names = ("patients", "splits")
        differ = [any(own[i] and other[i] and own[i] != other[i] for other in theirs) for i in range(2)]
        return " and ".join(name for name, differs in zip(names, differ, strict=True) if differs)


def _ends_alike(path: str, other: str) -> bool:
    short, long = sorted((path.lstrip("/"), other.lstrip("/")), key=len)
    return long == short or long.endswith("/" + short)
