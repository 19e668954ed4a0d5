"""Clean a data set: list what is unreadable, faulty, out of distribution or there twice, and everything else."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np

from medood.config.resources import DEFAULT
from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.detection.perceptual_hash import NEAR, near_pairs
from medood.errors import MedoodError
from medood.evidence.fault_codes import ABNORMALITIES
from medood.output_folder import atomic_write
from medood.progress import Progress
from medood.reporting.pages.cleaning import KINDS, Issue, write_page
from medood.reporting.renderings import draw_thumbnails
from medood.reporting.report_data import name_of
from medood.scans.scan import Status
from medood.scans.sources.csv_table import CsvTable, TableError
from medood.screening.ledger.database import Ledger, Row
from medood.screening.run import screen
from medood.screening.run_options import RunOptions
from medood.text import spreadsheet_cell

#: Columns of a table of the data set that are used: the file's, and those that a duplicate must not cross.
TABLE_COLUMNS = ("file", "patient_id", "split")
#: Scans of each kind that the page shows.
_SHOWN = 60


@dataclass(frozen=True)
class Cleaning:
    """Result of cleaning a data set. ``pandas.DataFrame(cleaning.issues)`` is its table.

    Attributes:
        issues: by kind; faults and outliers by score, highest first.
        clean: names of the scans without an issue.
        scans: number of scans, and of files that hold none.
    """

    issues: list[Issue]
    clean: list[tuple[str, str, int]]
    scans: int


def clean(
    sources: Sequence[str | Path],
    out: str | Path,
    detector: str | Path = DEFAULT,
    *,
    fpr: float = 0.05,
    calibration: str = "training",
    table: str | Path | None = None,
    read: ReadConfig | None = None,
    options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Cleaning:
    """Screen a data set and list its issues in ``issues.csv``, the other scans in ``clean.csv``, and both on ``clean.html``.

    Nothing is moved or deleted. Called again it goes on where it stopped.

    Args:
        sources: files, folders and archives.
        out: the output folder; the run is in its folder ``run``.
        detector: the detector's folder, or the name of a shipped one.
        fpr: share of in-distribution scans that may be called outliers.
        calibration: name of the detector's calibration.
        table: a CSV with the columns ``file`` and any of ``patient_id`` and ``split``; duplicates that cross patients or
            splits are then marked. Files are matched by the end of their path.
        read: how scans are read.
        options: workers and time limit of the screening.
        progress: progress display; None shows nothing.

    Raises:
        MedoodError: as by :func:`medood.screening.run.screen`, or the table cannot be read.
    """
    progress, out = progress or Progress(quiet=True), Path(out)
    groups = read_groups(Path(table)) if table else {}
    run, resumed = out / "run", replace(options or RunOptions(), resume=True)
    loaded = Detector.load(detector, calibration)
    screen(sources, detector, run, fpr=fpr, calibration=calibration, read=read, options=resumed, progress=progress)
    ledger = Ledger(run)
    try:
        metadata = ledger.metadata()
        rows = list(ledger.rows())
    finally:
        ledger.close()
    working, reading = Path(metadata.working_directory), metadata.read
    scored = [row for row in rows if row.status == Status.SCORED]
    hashes: dict[str, bytes] = {}
    drawn = draw_thumbnails(scored, loaded, working, reading)
    for row, result in progress.track(drawn, len(scored), "comparing scans"):
        if not isinstance(result, str):
            hashes[row.key] = result[1]
    issues = [*_refused(rows), *_flagged(scored), *_near_duplicates(scored, hashes, groups)]
    issues.sort(key=lambda issue: (KINDS.index(issue.issue), -(issue.score or 0.0) if issue.issue in KINDS[1:3] else 0.0))
    listed = {(issue.file, issue.member, issue.frame) for issue in issues}
    clean_scans = [place for row in scored if (place := (row.source, row.member, row.frame)) not in listed]
    cleaning = Cleaning(issues, clean_scans, len(rows))
    _write(out / "issues.csv", [field.name for field in fields(Issue)], [astuple(issue) for issue in issues])
    _write(out / "clean.csv", ["file", "member", "frame"], clean_scans)
    shown = _shown(issues, scored)
    thumbnails = {
        row.key: result[0]
        for row, result in progress.track(
            draw_thumbnails(list(shown.values()), loaded, working, reading), len(shown), "thumbnails"
        )
        if not isinstance(result, str)
    }
    by_place = {place: thumbnails.get(row.key) for place, row in shown.items()}
    write_page(cleaning.issues, len(clean_scans), len(rows), by_place, out / "clean.html", _SHOWN)
    return cleaning


def _refused(rows: Sequence[Row]) -> Iterator[Issue]:
    for row in rows:
        if row.status == Status.DUPLICATE:
            yield Issue(row.source, row.member, row.frame, "exact_duplicate", "", _first(row))
        elif row.status not in (Status.SCORED, Status.NOT_SELECTED):
            yield Issue(row.source, row.member, row.frame, "unreadable", f"{row.status}: {row.reason}")


def _first(row: Row) -> str:
    """The scan that a row's bytes were read from first."""
    values = getattr(row.reason, "values", {})
    return str(values.get("first", ""))


def _flagged(rows: Sequence[Row]) -> Iterator[Issue]:
    for row in rows:
        if row.decision == "out_of_distribution":
            kind = "outlier" if row.finding in ("", *ABNORMALITIES) else "fault"
            yield Issue(row.source, row.member, row.frame, kind, row.finding, "", row.score, row.p_value)


def _near_duplicates(rows: Sequence[Row], hashes: dict[str, bytes], groups: dict[str, tuple[str, str]]) -> Iterator[Issue]:
    """Scans that look like an earlier one, each listed once, with the first scan of its kind."""
    hashed = [row for row in rows if row.key in hashes]
    if not hashed:
        return
    pairs = near_pairs(np.stack([np.frombuffer(hashes[row.key], np.uint8) for row in hashed]), NEAR)
    first = list(range(len(hashed)))
    for i, j in pairs:
        first[j] = min(first[j], first[i])
    for j, leader in enumerate(first):
        if leader == j:
            continue
        row, other = hashed[j], hashed[leader]
        crossed = _crossed(_group_of(row, groups), _group_of(other, groups))
        yield Issue(row.source, row.member, row.frame, "near_duplicate", crossed, name_of(other), row.score, row.p_value)


def _crossed(one: tuple[str, str], other: tuple[str, str]) -> str:
    """What a pair of duplicates crosses: patients, splits or both."""
    names = ("patients", "splits")
    return " and ".join(name for name, a, b in zip(names, one, other, strict=True) if a and b and a != b)


def _group_of(row: Row, groups: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """Patient and split of a scan, by the longest end of its path that the table holds."""
    parts = Path(row.source, row.member).parts
    return next((groups[name] for i in range(len(parts)) if (name := "/".join(parts[i:])) in groups), ("", ""))


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
    return {row["file"].replace("\\", "/"): (row["patient_id"], row["split"]) for row in rows}


def _shown(issues: Sequence[Issue], scored: Sequence[Row]) -> dict[tuple[str, str, int], Row]:
    """The rows of the scans that the page shows."""
    by_place = {(row.source, row.member, row.frame): row for row in scored}
    shown: dict[tuple[str, str, int], Row] = {}
    for kind in KINDS:
        for issue in [issue for issue in issues if issue.issue == kind][:_SHOWN]:
            place = (issue.file, issue.member, issue.frame)
            if place in by_place:
                shown[place] = by_place[place]
    return shown


def _write(target: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    try:
        with atomic_write(target) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            writer.writerows([spreadsheet_cell(value) if isinstance(value, str) else value for value in row] for row in rows)
    except OSError as error:
        raise MedoodError(f"{target} cannot be written: {error.strerror or error}.") from error
