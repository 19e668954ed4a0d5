"""The parts of an archive that were screened apart, put together into one run."""

from __future__ import annotations

import heapq
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medood.config.resources import find_detector
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.output_folder import new_folder
from medood.progress import Progress
from medood.scans.scan import Status
from medood.screening.archive_statistics import Whole
from medood.screening.finalize import Summary, conclude
from medood.screening.ledger import UNFINISHED, Ledger, Row, taken
from medood.screening.run_lock import locked

_BATCH = 1000
#: Statuses of sources whose contents were never known, and so neither which part has them.
_UNREAD = (Status.WORKER_DIED, Status.TIMED_OUT)
#: Facts of the parts that must be the same.
_SAME = ("medood", "sources", "fpr", "fdr", "read", "calibration")


def merge(
    parts: Sequence[Path], out: Path, *, detector: str | Path | None = None, progress: Progress | None = None
) -> Summary:
    """Put the runs of all shards together into one run, with decisions and statements over the archive as a whole.

    Rows stand in the order of the listing, as if the archive had been screened at once.

    Args:
        parts: folders of the shards' runs, each once.
        out: the new run's folder; it must not hold a run.
        detector: the detector's folder, where it is no longer the one noted in the ledgers.
        progress: where to draw; none is quiet.

    Raises:
        MedoodError: a part is missing, twice, unfinished or of another run.
    """
    progress = progress or Progress(quiet=True)
    facts = [Ledger.facts_of(part) for part in parts]
    _check(parts, facts)
    folder = detector or facts[0]["detector"]["folder"]
    if not folder or not (find_detector(folder) / "detector.json").is_file():
        raise MedoodError(f"The detector of {parts[0]} is no longer at {folder or 'any known place'}. Give --detector.")
    loaded = Detector.load(folder, facts[0]["calibration"]["name"])
    if loaded.sha256 != facts[0]["detector"]["sha256"]:
        raise MedoodError(f"{parts[0]} was scored by another detector than {folder}. Give the right one with --detector.")
    with new_folder(out), locked(out):
        if (out / "ledger.sqlite").exists():
            raise taken(out)
        unfinished = out / UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)
        found = _merged(parts, facts, unfinished, loaded, progress)
        for name in ("ledger.sqlite-wal", "ledger.sqlite-shm"):  # of a ledger that was taken away
            (out / name).unlink(missing_ok=True)
        for name in ("verdicts.csv", "ledger.sqlite"):  # the latter makes it a run
            (unfinished / name).replace(out / name)
        unfinished.rmdir()
    return found


def _merged(
    parts: Sequence[Path], facts: list[dict[str, Any]], out: Path, detector: Detector, progress: Progress
) -> Summary:
    ledger = Ledger(out, create=True)
    ledgers = [Ledger(part) for part in parts]
    try:
        known = {name: value for name, value in facts[0].items() if name not in ("finished", "shard", "listing")}
        ledger.state(**known | {"started": min(some["started"] for some in facts), "shard": "", "shards": len(parts)})
        rows = _each_once(heapq.merge(*map(_with_part, range(len(ledgers)), ledgers), key=lambda pair: _place(pair[1])))
        with progress.bar(sum(some.size() for some in ledgers), "merging") as bar:
            for batch in _batches(rows):
                ledger.add(batch)
                bar(len(batch), "")
        whole = Whole(ledger)
        for some in ledgers:
            whole.take(some)
        found = conclude(ledger, detector, known["fdr"], progress)
        ledger.fold()
        return found
    finally:
        for some in [ledger, *ledgers]:
            some.close()


def _check(parts: Sequence[Path], facts: list[dict[str, Any]]) -> None:
    for part, some in zip(parts, facts, strict=True):
        if "finished" not in some:
            raise MedoodError(f"{part} was not finished. Go on with its command and --resume, then merge.")
        if not some.get("shard"):
            raise MedoodError(f"{part} is a whole run, not a part of one (medood screen --shard I/N).")
        for name in _SAME:
            if some[name] != facts[0][name]:
                raise MedoodError(f"{part} and {parts[0]} differ in {name}: {some[name]!r} and {facts[0][name]!r}.")
        if some["detector"]["sha256"] != facts[0]["detector"]["sha256"]:
            raise MedoodError(f"{part} and {parts[0]} were scored by different detectors.")
        if some.get("listing") != facts[0].get("listing"):
            raise MedoodError(
                f"{part} and {parts[0]} did not find the same files ({_files(some)}, {_files(facts[0])}): some came or went "
                "or were renamed. Screen the parts anew, on a CSV manifest of the files or a folder that stays as it is."
            )
    count = int(facts[0]["shard"].partition("/")[2])
    there = sorted(some["shard"] for some in facts)
    wanted = sorted(f"{i + 1}/{count}" for i in range(count))
    if there != wanted:
        missing = ", ".join(sorted(set(wanted) - set(there))) or "none"
        raise MedoodError(f"These are the parts {', '.join(there)}; each of {count} is needed once. Missing: {missing}.")


def _files(facts: dict[str, Any]) -> str:
    return str(facts.get("listing")).partition(",")[0]


def _with_part(part: int, ledger: Ledger) -> Iterator[tuple[int, Row]]:
    return ((part, row) for row in ledger.rows())


def _place(row: Row) -> tuple[int, int]:
    return row.file, row.item


def _each_once(rows: Iterator[tuple[int, Row]]) -> Iterator[Row]:
    """The rows of each source of one part alone: one that could not be read has a row in every part that tried."""
    for _, group in itertools.groupby(rows, key=lambda pair: _place(pair[1])):
        some = list(group)
        read = [part for part, row in some if row.status not in _UNREAD]
        chosen = read[0] if read else some[0][0]
        yield from (row for part, row in some if part == chosen)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(itertools.islice(rows, _BATCH)):
        yield batch
