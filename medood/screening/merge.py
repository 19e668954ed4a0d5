"""Merge the runs of an archive's shards into one run."""

from __future__ import annotations

import heapq
import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medood.errors import MedoodError
from medood.output_folder import new_folder
from medood.progress import Progress
from medood.scans.scan import Status
from medood.screening.finished_run import detector_folder
from medood.screening.ledger.database import UNFINISHED, Ledger, Row, check_run_free
from medood.screening.ledger.run_metadata import RunMetadata
from medood.screening.run_lock import locked

if TYPE_CHECKING:
    from medood.detection.detector import Detector
    from medood.screening.finalize import Summary

_BATCH = 1000
#: Statuses of sources whose contents were never read, so that no shard could be determined for them.
_UNREAD = (Status.WORKER_DIED, Status.TIMED_OUT)
#: Metadata that must be equal in all shards.
_COMMON = ("medood", "sources", "fpr", "fdr", "read", "calibration")


def merge(
    parts: Sequence[Path], out: Path, *, detector: str | Path | None = None, progress: Progress | None = None
) -> Summary:
    """Merge the runs of all shards into one run, with decisions and statistics over the whole archive.

    Rows keep the listing order, as if the archive had been screened in one run.

    Args:
        parts: folders of the shards' runs, each once.
        out: the new run's folder; it must not hold a run.
        detector: the detector's folder, if it has moved since the ledgers recorded it.
        progress: progress display; ``None`` is quiet.

    Raises:
        MedoodError: a part is missing, given twice, unfinished or from another run.
    """
    progress = progress or Progress(quiet=True)
    metadata = [Ledger.read_metadata(part) for part in parts]
    _check(parts, metadata)
    folder = detector_folder(parts[0], metadata[0], detector)
    check_run_free(out)
    from medood.detection.detector import Detector  # after the checks, because torch takes seconds to import

    loaded = Detector.load(folder, metadata[0].calibration.name)
    if loaded.sha256 != metadata[0].detector.sha256:
        raise MedoodError(f"{parts[0]} was scored by another detector than {folder}. Give the right one with --detector.")
    with new_folder(out), locked(out):
        check_run_free(out)
        unfinished = out / UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)
        summary = _merge_parts(parts, metadata, unfinished, loaded, progress)
        for name in ("ledger.sqlite-wal", "ledger.sqlite-shm"):  # left by a ledger that was removed
            (out / name).unlink(missing_ok=True)
        for name in ("verdicts.csv", "ledger.sqlite"):  # the ledger last: it makes the folder a run
            (unfinished / name).replace(out / name)
        unfinished.rmdir()
    return summary


def _merge_parts(
    parts: Sequence[Path], metadata: list[RunMetadata], out: Path, detector: Detector, progress: Progress
) -> Summary:
    ledger = Ledger(out, create=True)
    ledgers = [Ledger(part) for part in parts]
    try:
        started = min(shard.started for shard in metadata)
        merged = replace(metadata[0], started=started, shard="", shards=len(parts), listing=None, finished=None)
        ledger.set_metadata(**merged.to_dict())
        rows = _each_once(heapq.merge(*map(_with_part, range(len(ledgers)), ledgers), key=lambda pair: _place(pair[1])))
        with progress.bar(sum(shard.count() for shard in ledgers), "merging") as bar:
            for batch in _batches(rows):
                ledger.add(batch)
                bar(len(batch), "")
        for shard in ledgers:
            ledger.statistics.add_shard(shard.statistics)
        from medood.screening.finalize import finalize

        summary = finalize(ledger, detector, merged.fdr, progress)
        ledger.merge_write_ahead_log()
        return summary
    finally:
        for opened in [ledger, *ledgers]:
            opened.close()


def _check(parts: Sequence[Path], metadata: list[RunMetadata]) -> None:
    for part, part_metadata in zip(parts, metadata, strict=True):
        if not part_metadata.finished:
            raise MedoodError(f"{part} is not finished. Resume it with its command and --resume, then merge.")
        if not part_metadata.shard:
            raise MedoodError(f"{part} is a complete run, not a shard of one (medood screen --shard I/N).")
        for name in _COMMON:
            values = [stored.to_dict()[name] for stored in (part_metadata, metadata[0])]
            if values[0] != values[1]:
                raise MedoodError(f"{part} and {parts[0]} differ in {name}: {values[0]!r} and {values[1]!r}.")
        if part_metadata.detector.sha256 != metadata[0].detector.sha256:
            raise MedoodError(f"{part} and {parts[0]} were scored by different detectors.")
        if part_metadata.listing != metadata[0].listing:
            raise MedoodError(
                f"{part} and {parts[0]} did not find the same files ({_files(part_metadata)}, {_files(metadata[0])}): some "
                "came, went or were renamed. Screen the parts anew, on a CSV manifest of the files or a folder that does "
                "not change."
            )
    count = int(metadata[0].shard.partition("/")[2])
    present = sorted(part_metadata.shard for part_metadata in metadata)
    expected = sorted(f"{i + 1}/{count}" for i in range(count))
    if present != expected:
        missing = ", ".join(sorted(set(expected) - set(present))) or "none"
        raise MedoodError(f"These are the parts {', '.join(present)}; each of {count} is needed once. Missing: {missing}.")


def _files(metadata: RunMetadata) -> str:
    return str(metadata.listing).partition(",")[0]


def _with_part(part: int, ledger: Ledger) -> Iterator[tuple[int, Row]]:
    return ((part, row) for row in ledger.rows())


def _place(row: Row) -> tuple[int, int]:
    return row.file, row.item


def _each_once(rows: Iterator[tuple[int, Row]]) -> Iterator[Row]:
    """Rows of each source from one part only: a source that could not be read has a row in every part that tried it."""
    for _, group in itertools.groupby(rows, key=lambda pair: _place(pair[1])):
        copies = list(group)
        read = [part for part, row in copies if row.status not in _UNREAD]
        chosen = read[0] if read else copies[0][0]
        yield from (row for part, row in copies if part == chosen)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(itertools.islice(rows, _BATCH)):
        yield batch
