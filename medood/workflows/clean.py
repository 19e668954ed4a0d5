"""Clean a data set: list what is unreadable, faulty, out of distribution or there twice, and everything else."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np

from medood.config.resources import DEFAULT
from medood.config.schema import ReadConfig
from medood.detection.conformal import Decision
from medood.detection.detector import Detector
from medood.detection.perceptual_hash import NEAR, near_pairs
from medood.errors import MedoodError, StoppedError
from medood.evidence.burned_in_text import check_text
from medood.evidence.fault_codes import ABNORMALITIES
from medood.evidence.header_contradictions import contradiction
from medood.output_folder import atomic_write
from medood.progress import Progress
from medood.reporting.pages.cleaning import KINDS, Issue, write_page
from medood.reporting.renderings import draw_thumbnails, hash_scans
from medood.reporting.report_data import name_of
from medood.scans.scan import Status
from medood.scans.sources.dicomweb import is_dicomweb
from medood.screening.ledger.database import Ledger, Row
from medood.screening.run import screen
from medood.screening.run_options import RunOptions
from medood.text import spreadsheet_cell
from medood.workflows.data_set import ISSUES, Groups, check_folder, read_groups

#: Scans of each kind that the page shows.
_SHOWN = 60


@dataclass(frozen=True)
class Cleaning:
    """Result of cleaning a data set. ``pandas.DataFrame(cleaning.issues)`` is its table.

    Attributes:
        issues: by kind; faults and outliers by score, highest first.
        clean: file (absolute), member and frame of the scans without an issue.
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
    text: bool = False,
    read: ReadConfig | None = None,
    options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Cleaning:
    """Screen a data set and list its issues in ``issues.csv``, the other scans in ``clean.csv``, and both on ``clean.html``.

    Nothing is moved or deleted. Called again after an interruption it goes on where it stopped.

    Args:
        sources: files, folders and archives.
        out: the output folder; the run is in its folder ``run``.
        detector: the detector's folder, or the name of a shipped one.
        fpr: share of in-distribution scans that may be called outliers.
        calibration: name of the detector's calibration.
        table: a CSV with the columns ``file`` and any of ``patient_id`` and ``split``; duplicates that cross patients or
            splits are then marked. Files are matched by the end of their path.
        text: also look for text that is burnt into the images, which takes 0.4 s a scan and needs the extra ``text``.
        read: how scans are read.
        options: workers and time limit of the screening.
        progress: progress display; None shows nothing.

    Raises:
        MedoodError: as by :func:`medood.screening.run.screen`; the extra ``text`` is needed and not installed; the table
            cannot be read or knows none of the scans; the output folder holds a cleaning already, or lies in the data set.
    """
    progress, out = progress or Progress(quiet=True), Path(out)
    check_folder(sources, out)
    check_text(text)
    groups = Groups(read_groups(Path(table)) if table else {})
    run, resumed = out / "run", replace(options or RunOptions(), resume=True)
    loaded = Detector.load(detector, calibration)
    screen(sources, loaded, run, fpr=fpr, calibration=calibration, read=read, options=resumed, progress=progress)
    ledger = Ledger(run)
    try:
        metadata = ledger.metadata()
        rows = list(ledger.rows())
    finally:
        ledger.close()
    working, reading = Path(metadata.working_directory), metadata.read
    scored = [row for row in rows if row.status == Status.SCORED]
    hashes: dict[str, bytes] = {}
    unread: dict[str, str] = {}
    texts: dict[str, int] = {}
    hashed = hash_scans(scored, loaded, working, reading, text=text)
    for row, result in progress.track(hashed, len(scored), "comparing scans"):
        if isinstance(result, str):
            unread[row.key] = result
        else:
            hashes[row.key], texts[row.key] = result
        if resumed.stopped():
            raise StoppedError(f"Stopped; {out} holds the screening, but no issues yet. Go on with the same command.")
    issues = [*_refused(rows, unread, groups), *_flagged(scored), *_near_duplicates(scored, hashes, groups)]
    if loaded.metadata.is_chest:
        issues += _contradicted(scored)
    issues += [
        Issue(row.source, row.member, row.frame, "burned_in_text", f"{count}", "", row.score, row.p_value)
        for row in scored
        if (count := texts.get(row.key, 0))
    ]
    issues.sort(key=lambda issue: (KINDS.index(issue.issue), -(issue.score or 0.0) if issue.issue in KINDS[1:3] else 0.0))
    if table and not any(groups.of(row) for row in scored):
        raise MedoodError(f"--table: {table} knows none of the {len(scored)} scans. Give paths that end as theirs do.")
    listed = {(issue.file, issue.member, issue.frame) for issue in issues}
    clean_scans = [place for row in scored if (place := (row.source, row.member, row.frame)) not in listed]
    clean_scans = [_located(place, working) for place in clean_scans]
    shown = _shown(issues, [row for row in scored if row.key in hashes])
    again = draw_thumbnails(list(shown.values()), loaded, working, reading)
    thumbnails = {
        (row.source, row.member, row.frame): result[0]
        for row, result in progress.track(again, len(shown), "thumbnails")
        if not isinstance(result, str)
    }
    write_page(issues, len(clean_scans), len(rows), thumbnails, out / "clean.html", _SHOWN, text_looked_for=text)
    _write(out / "clean.csv", ["file", "member", "frame"], clean_scans)
    _write(out / ISSUES, [field.name for field in fields(Issue)], [astuple(issue) for issue in issues])
    return Cleaning(issues, clean_scans, len(rows))


def _located(place: tuple[str, str, int], working: Path) -> tuple[str, str, int]:
    """A scan with its file's absolute path, by which a manifest finds it from any folder."""
    source, member, frame = place
    return source if is_dicomweb(source) else str((working / source).absolute()), member, frame


def _refused(rows: Sequence[Row], unread: Mapping[str, str], groups: Groups) -> Iterator[Issue]:
    first = {row.sha256: row for row in reversed(rows) if row.sha256 and row.status != Status.DUPLICATE}
    for row in rows:
        if row.status == Status.DUPLICATE and row.sha256 in first:
            other = first[row.sha256]
            yield Issue(row.source, row.member, row.frame, "exact_duplicate", groups.crossed(row, [other]), name_of(other))
        elif row.status not in (Status.SCORED, Status.NOT_SELECTED):
            yield Issue(row.source, row.member, row.frame, "unreadable", f"{row.status}: {row.reason}")
        elif row.key in unread:
            yield Issue(row.source, row.member, row.frame, "unreadable", unread[row.key])


def _flagged(rows: Sequence[Row]) -> Iterator[Issue]:
    for row in rows:
        if row.decision == Decision.OUT_OF_DISTRIBUTION:
            kind = "outlier" if row.finding in ("", *ABNORMALITIES) else "fault"
            yield Issue(row.source, row.member, row.frame, kind, row.finding, "", row.score, row.p_value)


def _contradicted(rows: Sequence[Row]) -> Iterator[Issue]:
    for row in rows:
        flagged = row.decision == Decision.OUT_OF_DISTRIBUTION
        if names := contradiction((row.metadata or {}).get("attributes", {}), row.finding, flagged=flagged):
            yield Issue(row.source, row.member, row.frame, "header_differs", names, "", row.score, row.p_value)


def _near_duplicates(rows: Sequence[Row], hashes: Mapping[str, bytes], groups: Groups) -> Iterator[Issue]:
    """Scans that look like an earlier one of another file, each listed once, with the first scan that looks so."""
    hashed = [row for row in rows if row.key in hashes]
    if not hashed:
        return
    first = list(range(len(hashed)))
    for i, j in near_pairs(np.stack([np.frombuffer(hashes[row.key], np.uint8) for row in hashed]), NEAR):
        first[j] = min(first[j], first[i])
    alike: dict[int, list[Row]] = defaultdict(list)
    for j, leader in enumerate(first):
        alike[leader].append(hashed[j])
    for leader, members in alike.items():
        start = hashed[leader]
        for row in members:
            if (row.source, row.member) != (start.source, start.member):  # frames of one file may well look alike
                other = name_of(start) + (f", {start.frame}" if start.frame else "")
                crossed = groups.crossed(row, members)
                yield Issue(row.source, row.member, row.frame, "near_duplicate", crossed, other, row.score, row.p_value)


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
