"""Runs looked at from outside: which there are, what one holds, and what changed between two."""

from __future__ import annotations

import contextlib
import csv
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medood.errors import MedoodError
from medood.scans.scan import Status
from medood.screening.ledger import UNFINISHED, Ledger
from medood.text import spreadsheet_cell

#: What a scan is in a run that does not hold it.
ABSENT = "absent"
#: Facts of a run that explain why its verdicts differ from another's, and their names in the ledger.
_SETTINGS = {
    "detector": "detector",
    "calibration": "calibration",
    "false-alarm rate": "fpr",
    "false-discovery rate": "fdr",
    "threshold": "threshold",
    "medood": "medood",
}
#: Columns of the changes as CSV; the rows' names are those of the second run, or of the first where the second lacks them.
COLUMNS = ("source", "member", "frame", "sha256", "before", "after", "score_before", "score_after", "p_before", "p_after")

_ROWS = f"""
CREATE TEMP TABLE {{0}}_rows (key TEXT, frame INTEGER, source TEXT, member TEXT, sha256 TEXT, state TEXT, score REAL,
    p_value REAL, PRIMARY KEY (key, frame)) WITHOUT ROWID;
INSERT OR IGNORE INTO {{0}}_rows SELECT CASE sha256 WHEN '' THEN source || char(10) || member ELSE sha256 END, frame, source,
    member, sha256, CASE decision WHEN '' THEN status ELSE decision END, score, p_value
    FROM {{0}}.scans WHERE status NOT IN ('{Status.DUPLICATE}', '{Status.NOT_SELECTED}')
"""  # noqa: S608 - our own words
#: A view ``pairs`` over two attached ledgers, with the columns of ``COLUMNS``; in two halves: older SQLite has no full join.
_PAIRS = f"""
{_ROWS.format("before")};{_ROWS.format("after")};
CREATE TEMP VIEW pairs AS
SELECT coalesce(a.source, b.source) AS source, coalesce(a.member, b.member) AS member, frame, b.sha256 AS sha256,
    b.state AS before, coalesce(a.state, '{ABSENT}') AS after, b.score AS score_before, a.score AS score_after,
    b.p_value AS p_before, a.p_value AS p_after
    FROM before_rows AS b LEFT JOIN after_rows AS a USING (key, frame)
UNION ALL
SELECT a.source, a.member, frame, a.sha256, '{ABSENT}', a.state, NULL, a.score, NULL, a.p_value
    FROM after_rows AS a LEFT JOIN before_rows AS b USING (key, frame) WHERE b.state IS NULL
"""  # noqa: S608


@dataclass(frozen=True)
class RunLine:
    """One run in a list.

    Attributes:
        folder: where it lies.
        started: when, in UTC.
        finished: when; empty where it was not.
        rows: in its ledger.
        flagged: of them.
        detector: name and the beginning of its SHA-256.
        calibration: its name.
        rate: what it was decided at, as the option says it.
        damaged: why its ledger cannot be read; empty where it can.
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
class Compared:
    """What changed from one run to another.

    Attributes:
        counts: scans by (decision or status before, after); ``absent`` where a run does not hold them.
        settings: what the runs were made with where it differs: name, before, after.
    """

    counts: dict[tuple[str, str], int]
    settings: list[tuple[str, Any, Any]]

    @property
    def changed(self) -> int:
        """Scans whose decision or status is another one, or that only one run holds."""
        return sum(count for (before, after), count in self.counts.items() if before != after)


def find_runs(folder: Path) -> Iterator[RunLine]:
    """Every run in a folder, to any depth, by path.

    Raises:
        MedoodError: there is no such folder.
    """
    if not folder.is_dir():
        raise MedoodError(f"{folder} is not a folder. Give the one that holds the runs of medood screen --out.")
    for path in sorted(folder.rglob("ledger.sqlite")):
        if path.parent.name == UNFINISHED:
            continue
        try:
            ledger = Ledger(path.parent)
            try:
                facts, counts = ledger.run(), ledger.counts()
            finally:
                ledger.close()
            yield RunLine(
                path.parent,
                facts.get("started", ""),
                facts.get("finished", ""),
                sum(counts.values()),
                counts.get((Status.SCORED, "out_of_distribution"), 0),
                _told(facts.get("detector", {})),
                facts.get("calibration", {}).get("name", ""),
                f"fdr {facts['fdr']:g}" if facts.get("fdr") is not None else f"fpr {facts.get('fpr', 0):g}",
            )
        except (MedoodError, sqlite3.Error, ValueError) as error:
            yield RunLine(path.parent, damaged=str(error))


def compare(first: Path, second: Path, changes: Path | None = None) -> Compared:
    """Hold the verdicts of two runs against each other. Scans are told by their SHA-256 and frame, wherever they lie; files
    whose bytes could not be read by their names. Duplicates and what a selection left out do not count.

    Args:
        first: the run's folder.
        second: the other's.
        changes: a CSV file to write, a row for each scan that changed.

    Raises:
        MedoodError: there is no run, or the file cannot be written.
    """
    facts = [Ledger.facts_of(run) for run in (first, second)]
    with contextlib.closing(sqlite3.connect("", uri=True)) as database:
        for name, run in (("before", first), ("after", second)):
            database.execute(f"ATTACH ? AS {name}", (f"{(run / 'ledger.sqlite').absolute().as_uri()}?mode=ro",))
        for statement in _PAIRS.split(";"):
            database.execute(statement)
        counted = database.execute("SELECT before, after, count(*) FROM pairs GROUP BY 1, 2 ORDER BY 1, 2")
        counts = {(before, after): count for before, after, count in counted}
        if changes is not None:
            listed = "SELECT * FROM pairs WHERE before != after ORDER BY source, member, frame"
            _write(changes, database.execute(listed))
    values = [(name, facts[0].get(fact), facts[1].get(fact)) for name, fact in _SETTINGS.items()]
    return Compared(counts, [(name, _told(a), _told(b)) for name, a, b in values if _contents(a) != _contents(b)])


def _contents(value: Any) -> Any:
    """What tells a detector or a calibration from another, whatever its name is."""
    return value.get("sha256") if isinstance(value, dict) else value


def _told(value: Any) -> Any:
    """A detector or a calibration by its name and the beginning of its SHA-256; anything else as it is."""
    return f"{value.get('name', '')} {value.get('sha256', '')[:12]}".strip() if isinstance(value, dict) else value


def _write(target: Path, rows: Iterator[Any]) -> None:
    partial = target.with_name(f".{target.name}.part")
    try:
        with partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for row in rows:
                plain = ["" if value is None else value for value in row]
                writer.writerow([spreadsheet_cell(value) if isinstance(value, str) else value for value in plain])
        partial.replace(target)
    except OSError as error:
        raise MedoodError(f"{target} cannot be written: {error.strerror or error}.") from error
