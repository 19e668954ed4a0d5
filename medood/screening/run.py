"""The screening pipeline: list, read, batch, embed, judge, write. Bad input becomes a ledger row and never stops the run.

Results arrive in listing order and are judged in batches of ``BATCH``, counted from the start of the run. Each batch is
committed as a whole, so a resumed run forms the same batches as an uninterrupted one, and its scores match to the last bit.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from medood.config.resources import find_detector, software_sha256
from medood.config.schema import ReadConfig
from medood.detection.conformal import Decision, fpr_interval, threshold
from medood.detection.detector import Detector, Verdict
from medood.detection.detector_folder import TRAINING, calibration_names
from medood.errors import MedoodError, StoppedError
from medood.evidence.fault_codes import FaultName
from medood.evidence.fault_names import name_faults
from medood.output_folder import new_folder
from medood.progress import Bar, Progress
from medood.reasons import Reason, both_reasons
from medood.scans.scan import Status, UnavailableError
from medood.screening.archive_statistics import ArchiveStatistics
from medood.screening.execution.base import Embedded, Engine
from medood.screening.execution.engines import make_engine
from medood.screening.execution.onnx_graph import OnnxGraph
from medood.screening.finalize import Summary, finalize, summary
from medood.screening.ledger.database import Ledger, ResumePoint, Row
from medood.screening.ledger.run_metadata import CalibrationInfo, DetectorInfo, RunMetadata
from medood.screening.read_worker import ReadSpec, Result
from medood.screening.run_lock import locked
from medood.screening.run_options import RunOptions, check_run
from medood.screening.source_listing import ListingPosition, NextSource, Shard, SourceListing
from medood.screening.throughput import Throughput

BATCH = 32
#: Batches embedding or queued while the next ones are read, in addition to one per worker.
_AHEAD = 1
#: Statuses that end a source: no further rows follow.
_FINAL_STATUSES = (Status.DUPLICATE, Status.WORKER_DIED, Status.TIMED_OUT)
#: Metadata of a run that must not change where it is resumed.
_FIXED_SETTINGS = ("medood", "sources", "fpr", "fdr", "read", "calibration", "detector", "shard", "watch", "runtime")


def screen(
    sources: Sequence[str | Path],
    detector: str | Path | Detector,
    out: str | Path,
    *,
    fpr: float = 0.05,
    fdr: float | None = None,
    calibration: str = TRAINING,
    read: ReadConfig | None = None,
    options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Screen files, folders, archives, DICOMDIRs, CSV manifests and PACS into a folder: ``ledger.sqlite``, ``verdicts.csv``.

    Args:
        sources: what to screen.
        detector: a detector, its folder, or the name of a shipped one.
        out: the run's folder; it must not hold a run unless that run is resumed.
        fpr: share of in-distribution scans that may be flagged.
        fdr: decide over the whole archive instead: share of the flagged scans that may be in-distribution.
        calibration: name of the detector's calibration to use, if ``detector`` is a folder.
        read: which frames and objects become scans, and the limits.
        options: execution options: workers, time limit, shard, resume.
        progress: progress display; ``None`` is quiet.

    Raises:
        MedoodError: a source is missing, the detector is damaged, the rate cannot be reached, the folder already holds a
            run, or the resumed run had other settings.
        StoppedError: the run was stopped.
    """
    progress, read, options = progress or Progress(quiet=True), read or ReadConfig(), options or RunOptions()
    out = Path(out)
    folder_given = None if isinstance(detector, Detector) else detector
    check_run(sources, out, detector=folder_given, fpr=fpr, fdr=fdr, calibration=calibration, read=read, options=options)
    shard = Shard.parse(options.shard) if options.shard else Shard()
    folder = "" if isinstance(detector, Detector) else str(find_detector(detector).resolve())
    loaded = detector if isinstance(detector, Detector) else Detector.load(detector, calibration)
    reference = loaded.calibration
    if fdr is None:
        reference.check(fpr)
    graph = OnnxGraph(options.graph, loaded.sha256) if options.graph else None
    metadata = RunMetadata(
        medood=version("medood"),
        software=software_sha256(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        sources=[str(source) for source in sources],
        working_directory=str(Path.cwd()),
        fpr=fpr if fdr is None else None,
        fdr=fdr,
        limit=fpr,
        read=read,
        shard=f"{shard.index + 1}/{shard.count}" if options.shard else "",
        watch=options.watch,
        threshold=None if reference.by else threshold(reference.scores, fpr),
        fpr_interval=None if fdr is not None else list(fpr_interval(min(reference.counts().values()), fpr)),
        calibration=CalibrationInfo(**reference.to_dict()),
        runtime=graph.name if graph else None,
        detector=DetectorInfo(
            folder, loaded.sha256, loaded.metadata.name, loaded.score_name, loaded.metadata.data.get("training_scans")
        ),
    )
    listing = SourceListing(sources, out, read, digested=bool(options.shard))
    total = None if options.watch else listing.count()
    if len(names := calibration_names(Path(folder)) if folder else []) > 1:
        progress.say(
            f"calibrations of this detector: {', '.join(f'{n} (used)' if n == reference.name else n for n in names)}"
        )
    for line in listing.manifests():
        progress.say(line)
    with new_folder(out) as keep, locked(out):
        ledger = Ledger(out, create=True, resume=options.resume)
        try:
            previous = ledger.metadata()
            if previous.medood:
                _check_same(previous, metadata, out)
            if previous.finished and not options.watch:
                if not options.shard:
                    ledger.statistics.delete()
                progress.say(f"{out} is already finished")
                return summary(ledger)
            if previous.medood:
                ledger.delete_metadata("finished")
            else:
                ledger.set_metadata(**metadata.to_dict())
            reading = ReadSpec(read, loaded.preprocess, reference.by, shard)
            options.metrics.event("resumed" if previous.medood else "started", rows=ledger.count())
            engine = make_engine(options.engine, reading, loaded, options.workers, options.timeout, options.scheduler, graph)
            try:
                listing.freeze(progress, options.stopped)
                keep()
                with progress.bar(total, "screening") as bar:
                    _Run(ledger, loaded, fpr, max(fpr, fdr or 0.0), engine, options, bar).process(listing)
            except UnavailableError as error:
                raise UnavailableError(f"{error}. Then resume with the same command and --resume.") from error
            finally:
                engine.close()
                options.metrics.write()
            if options.stopped() and not options.watch:
                raise StoppedError(f"Stopped; {out} holds {ledger.count()} rows. Go on with the same command and --resume.")
            if options.shard:
                ledger.set_metadata(listing=listing.digest)
            result = finalize(ledger, loaded, fdr, progress, is_shard=bool(options.shard), resumable=options.watch)
            options.metrics.event("finished", rows=result.scanned, flagged=result.flagged)
            return result
        finally:
            ledger.close()


def _check_same(previous: RunMetadata, metadata: RunMetadata, out: Path) -> None:
    """Refuse to resume a run with other settings than it began with.

    Raises:
        MedoodError: a setting differs.
    """
    before, now = previous.to_dict(), json.loads(json.dumps(metadata.to_dict()))
    before["detector"], now["detector"] = previous.detector.sha256, metadata.detector.sha256
    for name in _FIXED_SETTINGS:
        earlier, later = before.get(name, ""), now.get(name, "")
        if earlier != later:
            raise MedoodError(
                f"{out} was started with a different {name}: {earlier!r}, now {later!r}. Give another folder with --out."
            )


class _Run:
    """The loop from sources to rows.

    Args:
        ledger: where rows go.
        detector: scores and judges images.
        fpr: the limit on p-values.
        named_to: the largest p-value that may be flagged in the end, up to which faults are named.
        engine: reads sources and embeds batches.
        options: execution options.
        bar: progress bar, advanced by one per source.
    """

    def __init__(
        self,
        ledger: Ledger,
        detector: Detector,
        fpr: float,
        named_to: float,
        engine: Engine,
        options: RunOptions,
        bar: Bar,
    ) -> None:
        self._ledger, self._detector, self._fpr, self._bar = ledger, detector, fpr, bar
        self._named_to = named_to
        self._engine, self._options = engine, options
        self._statistics = ArchiveStatistics(ledger)
        self._pending_names: dict[str, str] = {}  # SHA-256 to name, for rows not yet in the ledger
        self._embedding: deque[tuple[list[tuple[ListingPosition, Result]], Future[Embedded] | None]] = deque()
        self._throughput = Throughput()

    def process(self, listing: SourceListing) -> None:
        """Read, embed, judge and write everything not yet in the ledger; if stopped, write complete batches only."""
        end = self._ledger.resume_point()
        self._bar(end.file if end else 0, "")  # most files hold one source
        listed: Iterator[NextSource] = (
            listing.watch_sources(end, self._ledger.has_source) if self._options.watch else listing.enumerate_sources(end)
        )
        pending: list[tuple[ListingPosition, Result]] = []
        for readout in self._throughput.waiting(self._engine.read(listed, self._options.stopped)):
            if readout is None:  # no new source at present: flush the pending results
                self._finish(pending)
                pending = []
                continue
            place, results = readout
            resumed = end is not None and (place.file, place.item) == (end.file, end.item)
            for result in _remaining(results, end) if end and resumed else self._replace_duplicates(results):
                self._throughput.read(result)
                pending.append((place, result))
                if len(pending) == BATCH:
                    self._embed(pending)
                    pending = []
            self._bar(1, self._throughput.summary())
        if not self._options.stopped() or self._options.watch:
            self._finish(pending)

    def _finish(self, pending: list[tuple[ListingPosition, Result]]) -> None:
        """Embed and write all pending results."""
        if pending:
            self._embed(pending)
        while self._embedding:
            self._write()

    def _replace_duplicates(self, results: list[Result]) -> list[Result]:
        """The results, or a single ``duplicate`` result if the same bytes were read before."""
        if not results or not (sha256 := results[0].identity.sha256):
            return results
        identity = results[0].identity
        first = self._pending_names.get(sha256) or self._ledger.first_occurrence(sha256)
        if first is not None:
            return [Result(identity, Status.DUPLICATE, Reason("same_bytes", first=first), host=results[0].host)]
        if results[0].status != Status.UNREADABLE:
            self._pending_names[sha256] = identity.name
        return results

    def _embed(self, pending: list[tuple[ListingPosition, Result]]) -> None:
        images = [result.network_input for _, result in pending if result.image is not None]
        future = self._engine.embed(torch.stack(images)) if images else None
        self._embedding.append((pending, future))
        while len(self._embedding) > self._options.workers + _AHEAD or (self._embedding and _is_done(self._embedding[0][1])):
            self._write()

    def _write(self) -> None:
        """Judge the oldest batch and commit its rows."""
        pending, future = self._embedding.popleft()
        verdicts: list[Verdict] = []
        named: list[str] = []
        scored = [result for _, result in pending if result.image is not None]
        seconds = 0.0
        if future is not None:
            features, seconds = self._throughput.embedded(future)
            verdicts = self._detector.judge(features, self._fpr, [result.stratum for result in scored])
            images = torch.stack([result.network_input for result in scored])
            named = name_faults(self._detector, images, [verdict.p_value <= self._named_to for verdict in verdicts])
            hold_text = [bool((result.metadata or {}).get("text")) for result in scored]
            named = [name or (FaultName.BURNED_IN_TEXT if text else "") for name, text in zip(named, hold_text, strict=True)]
        remaining_verdicts = iter([replace(verdict, finding=name) for verdict, name in zip(verdicts, named, strict=True)])
        share = seconds / max(1, len(scored))
        with self._ledger.writing():
            for i, (result, verdict) in enumerate(zip(scored, verdicts, strict=True)):
                row = features.features[i]
                self._statistics.add(result.identity.sha256, result.patient, row, result.month, verdict.p_value)
            rows = [
                _row(place, result, next(remaining_verdicts) if result.image is not None else None, self._fpr, share)
                for place, result in pending
            ]
            self._ledger.add(rows)
        self._options.metrics.rows(rows, self._throughput)
        for _, result in pending:
            self._pending_names.pop(result.identity.sha256, None)


def _remaining(results: list[Result], end: ResumePoint) -> list[Result]:
    """The results still missing from the source in which the run stopped.

    Raises:
        MedoodError: the source's bytes have changed.
    """
    if end.status in _FINAL_STATUSES or not results:
        return []
    last = results[-1]
    if last.status in _FINAL_STATUSES:  # this time it could not be read
        return [replace(last, identity=replace(last.identity, frame=end.rows))]
    if end.sha256 and last.identity.sha256 != end.sha256:
        name = results[0].identity.name
        raise MedoodError(f"{name} has changed since the run stopped. Screen it as a new run, with another --out.")
    return results[end.rows :]


def _is_done(future: Future[Embedded] | None) -> bool:
    return future is None or future.done()


def _row(place: ListingPosition, result: Result, verdict: Verdict | None, fpr: float, seconds: float) -> Row:
    identity = result.identity
    row = Row(
        identity.source,
        identity.member,
        identity.frame,
        identity.sha256,
        result.status,
        result.reason or "",
        metadata=result.metadata or {},
        read_seconds=round(result.disk_seconds + result.decode_seconds, 6),
        file=place.file,
        item=place.item,
        host=result.host,
    )
    if verdict is None:
        return row
    flagged = verdict.decision == Decision.OUT_OF_DISTRIBUTION
    metadata = {**row.metadata, "nearest": [round(v, 4) for v in verdict.nearest], "nearest_keys": verdict.nearest_keys}
    if verdict.stratum:
        metadata["stratum"] = verdict.stratum
    uncalibrated = None if verdict.calibrated else Reason("uncalibrated", stratum=verdict.stratum)
    if uncalibrated:
        metadata["uncalibrated"] = uncalibrated
    above_limit = Reason("flagged", p_value=verdict.p_value, limit=fpr) if flagged else None
    reason = both_reasons(above_limit, uncalibrated)
    return replace(
        row,
        reason=reason,
        score=min(verdict.score, 1e308),
        p_value=verdict.p_value,
        decision=verdict.decision,
        finding=verdict.finding,
        metadata=metadata,
        score_seconds=round(seconds, 6),
    )
