"""List runs in a folder, summarize each, and compare the verdicts of two."""

from __future__ import annotations

import contextlib
import csv
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medood.detection.conformal import Decision
from medood.errors import MedoodError
from medood.output_folder import atomic_write
from medood.scans.scan import Status
from medood.screening.ledger.database import UNFINISHED, Ledger
from medood.screening.ledger.run_metadata import CalibrationInfo, DetectorInfo
from medood.screening.ledger.run_pair import COLUMNS, RunPair
from medood.text import spreadsheet_cell

#: Settings that can explain why the verdicts of two runs differ, and their names in the ledger.
_SETTINGS = {
    "detector": "detector",
    "calibration": "calibration",
    "false-alarm rate": "fpr",
    "false-discovery rate": "fdr",
    "threshold": "threshold",
    "medood": "medood",
}


@dataclass(frozen=True)
class RunListEntry:
    """One run in a list.

    Attributes:
        folder: the run's folder.
        started: start time in UTC.
        finished: end time in UTC; empty if unfinished.
        rows: number of rows in its ledger.
        flagged: number of flagged scans.
        detector: name and first digits of its SHA-256.
        calibration: name of the calibration.
        rate: rate used for the decisions, ``fpr`` or ``fdr`` and its value.
        damaged: why its ledger cannot be read; empty if it can.
    """

    folder: Path
    started: str = ""
    finished: str = ""
    rows: int = 0
    flagged: int = 0
    detector: str = ""
    calibration: str = ""
    rate: str = ""
    damaged: str = ""


@dataclass(frozen=True)
class RunDiff:
    """What changed from one run to another.

    Attributes:
        counts: number of scans by (decision or status before, after); ``absent`` if a run does not contain them.
        settings: settings that differ, each as (name, before, after).
    """

    counts: dict[tuple[str, str], int]
    settings: list[tuple[str, Any, Any]]

    @property
    def changed(self) -> int:
        """Number of scans whose decision or status changed, or that only one run contains."""
        return sum(count for (before, after), count in self.counts.items() if before != after)


def find_runs(folder: Path) -> Iterator[RunListEntry]:
    """All runs in a folder and its subfolders, sorted by path.

    Raises:
        MedoodError: there is no such folder.
    """
    if not folder.is_dir():
        raise MedoodError(f"{folder} is not a folder. Give the folder that contains the runs of medood screen --out.")
    for path in sorted(folder.rglob("ledger.sqlite")):
        if path.parent.name == UNFINISHED:
            continue
        try:
            ledger = Ledger(path.parent)
            try:
                metadata, counts = ledger.metadata(), ledger.counts()
            finally:
                ledger.close()
            yield RunListEntry(
                path.parent,
                metadata.started,
                metadata.finished or "",
                sum(counts.values()),
                counts.get((Status.SCORED, Decision.OUT_OF_DISTRIBUTION), 0),
                _short_name(metadata.detector),
                metadata.calibration.name,
                f"fdr {metadata.fdr:g}" if metadata.fdr is not None else f"fpr {metadata.fpr:g}",
            )
        except (MedoodError, sqlite3.Error, ValueError) as error:
            yield RunListEntry(path.parent, damaged=str(error))


def diff_runs(first: Path, second: Path, changes: Path | None = None) -> RunDiff:
    """Compare the verdicts of two runs.

    Scans are matched by SHA-256 and frame, whatever their paths; unreadable files are matched by name. Duplicates and scans
    left out by the selection are ignored.

    Args:
        first: folder of the first run.
        second: folder of the second run.
        changes: CSV file to write, with one row per changed scan.

    Raises:
        MedoodError: there is no run, or the file cannot be written.
    """
    metadata = [Ledger.read_metadata(run) for run in (first, second)]
    with contextlib.closing(RunPair(first, second)) as pair:
        counts = pair.counts()
        if changes is not None:
            _write(changes, pair.changes())
    values = [(name, getattr(metadata[0], item), getattr(metadata[1], item)) for name, item in _SETTINGS.items()]
    return RunDiff(counts, [(name, _short_name(a), _short_name(b)) for name, a, b in values if _contents(a) != _contents(b)])


def _contents(value: Any) -> Any:
    """The digest of a detector or a calibration, whatever its name; any other value unchanged."""
    return value.sha256 if isinstance(value, DetectorInfo | CalibrationInfo) else value


def _short_name(value: Any) -> Any:
    """The name of a detector or a calibration and the first digits of its SHA-256; any other value unchanged."""
    return f"{value.name} {value.sha256[:12]}".strip() if isinstance(value, DetectorInfo | CalibrationInfo) else value


def _write(target: Path, rows: Iterator[Any]) -> None:
    try:
        with atomic_write(target) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for row in rows:
                plain = ["" if value is None else value for value in row]
                writer.writerow([spreadsheet_cell(value) if isinstance(value, str) else value for value in plain])
    except OSError as error:
        raise MedoodError(f"{target} cannot be written: {error.strerror or error}.") from error
