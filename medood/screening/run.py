"""Sources in, ledger out: list, read, batch, embed, judge, write. Bad input becomes a row and never stops the run.

What is read arrives in the order of the listing and is judged in batches of ``BATCH`` results, counted from the run's begin.
A batch is committed whole. A run that goes on therefore makes the same batches as one that was never stopped, and the same
scores to the last bit.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medood.config.resources import find_detector
from medood.config.schema import ReadConfig
from medood.detection.conformal import check_rate, threshold, true_rate
from medood.detection.detector import Detector, Verdict
from medood.detection.detector_folder import TRAINING, calibration_names
from medood.errors import MedoodError, StoppedError
from medood.output_folder import new_folder
from medood.progress import Bar, Progress
from medood.scans.reader import check_options
from medood.scans.scan import Status, UnavailableError
from medood.scans.sources.dicomweb import is_dicomweb
from medood.screening.archive_statistics import Whole
from medood.screening.execution.base import Embedded, Engine
from medood.screening.execution.engines import check_engine, make_engine
from medood.screening.finalize import Summary, conclude, summary
from medood.screening.ledger import End, Ledger, Row
from medood.screening.metrics import Metrics
from medood.screening.read_worker import Listed, Place, Reading, Result, Shard
from medood.screening.run_lock import locked
from medood.screening.source_listing import Listing
from medood.screening.throughput import Pace

BATCH = 32
#: Batches that are embedded, or wait for it, while the next are read: for each worker, and besides.
_AHEAD = 1
#: Statuses of a source's only row, or last one: nothing more comes of it.
_ALONE = (Status.DUPLICATE, Status.WORKER_DIED, Status.TIMED_OUT)
#: The longest time limit for a source, in seconds: a day.
_LONGEST = 86_400.0
#: Facts of a run that must be the same where it goes on.
_SAME = ("medood", "sources", "fpr", "fdr", "read", "calibration", "detector", "shard", "watch")


@dataclass(frozen=True)
class Work:
    """How a run is worked through; none of it changes a verdict.

    Attributes:
        workers: processes that read; 0 reads in this one, where a decoder that crashes ends the run.
        timeout: seconds that one source may take, where there are workers.
        engine: ``local``, or ``dask`` for a cluster.
        scheduler: address of an existing Dask cluster; empty starts one on this machine.
        shard: screen this part alone, ``I/N``; empty is all. ``medood merge`` puts the parts together.
        resume: go on with the run in the folder, or begin it where there is none.
        watch: take files that come later too, until asked to end; the run is concluded then, and can go on.
        metrics: where figures and events go.
        stopped: asked now and then; where it says yes the run ends after the last whole batch.
    """

    workers: int = 0
    timeout: float = 300.0
    engine: str = "local"
    scheduler: str = ""
    shard: str = ""
    resume: bool = False
    watch: bool = False
    metrics: Metrics = field(default_factory=Metrics)
    stopped: Callable[[], bool] = lambda: False


def screen(
    sources: Sequence[str | Path],
    detector: str | Path | Detector,
    out: str | Path,
    *,
    fpr: float = 0.05,
    fdr: float | None = None,
    calibration: str = TRAINING,
    read: ReadConfig | None = None,
    work: Work | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Screen files, folders, archives, DICOMDIRs, CSV manifests and PACS into a folder: ``ledger.sqlite``, ``verdicts.csv``.

    Args:
        sources: what to screen.
        detector: a detector, its folder, or the name of a shipped one.
        out: the run's folder; it must not hold a run, but where one is resumed.
        fpr: share of in-distribution scans that may be flagged.
        fdr: decide over the archive as a whole instead: share of the flagged scans that may be in-distribution.
        calibration: name of the detector's calibration to decide with, where ``detector`` is a folder.
        read: which frames and objects become scans, and the limits.
        work: processes, time limits, shards, resuming.
        progress: where to draw; none is quiet.

    Raises:
        MedoodError: a source is missing, the detector is damaged, the rate cannot be reached, the folder is taken, or the
            run that is resumed was another one.
        StoppedError: it was asked to end.
    """
    progress, read, work = progress or Progress(quiet=True), read or ReadConfig(), work or Work()
    check_options(read)
    shard = Shard.parse(work.shard) if work.shard else Shard()
    out = Path(out)
    folder = "" if isinstance(detector, Detector) else str(find_detector(detector).resolve())
    loaded = detector if isinstance(detector, Detector) else Detector.load(detector, calibration)
    reference = loaded.calibration
    if fdr is None:
        reference.check(fpr)
    else:
        check_rate(fdr, len(reference.scores), "--fdr")
    facts = {
        "medood": version("medood"),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "sources": [str(source) for source in sources],
        "working_directory": str(Path.cwd()),
        "fpr": fpr if fdr is None else None,
        "fdr": fdr,
        "limit": fpr,
        "read": asdict(read),
        "shard": f"{shard.index + 1}/{shard.count}" if work.shard else "",
        "watch": work.watch,
        "threshold": None if reference.by else threshold(reference.scores, fpr),
        "true_rate": None if fdr is not None else list(true_rate(min(reference.counts().values()), fpr)),
        "calibration": reference.stated(),
        "detector": {
            "folder": folder,
            "sha256": loaded.sha256,
            "name": loaded.facts.get("config", {}).get("name", ""),
            "score": loaded.score_name,
            "training_scans": loaded.facts.get("data", {}).get("training_scans"),
        },
    }
    if work.watch and (work.shard or any(is_dicomweb(source) for source in sources)):
        raise MedoodError("--watch is for folders, without --shard.")
    listing = Listing(sources, out, read, digested=bool(work.shard))
    if not 0 < work.timeout <= _LONGEST:
        raise MedoodError(f"--timeout is {work.timeout:g}; expected seconds up to {_LONGEST:g}, a day.")
    check_engine(work.engine, work.scheduler)
    work.metrics.check()
    total = listing.check(empty=work.watch)
    if len(names := calibration_names(Path(folder)) if folder else []) > 1:
        progress.say(
            f"calibrations of this detector: {', '.join(f'{n} (used)' if n == reference.name else n for n in names)}"
        )
    for line in listing.manifests():
        progress.say(line)
    with new_folder(out) as keep, locked(out):
        ledger = Ledger(out, create=True, resume=work.resume)
        try:
            known = ledger.run()
            if known:
                _check_same(known, facts, out)
            if "finished" in known and not work.watch:
                if not work.shard:
                    Whole(ledger).forget()
                progress.say(f"{out} is finished already")
                return summary(ledger)
            if known:
                ledger.forget("finished")
            else:
                ledger.state(**facts)
            reading = Reading(read, loaded.preprocess, reference.by, shard)
            work.metrics.event("resumed" if known else "started", rows=ledger.size())
            engine = make_engine(work.engine, reading, loaded, work.workers, work.timeout, work.scheduler)
            try:
                listing.freeze(progress, work.stopped)
                keep()
                with progress.bar(total, "screening") as bar:
                    _Run(ledger, loaded, fpr, engine, work, bar).through(listing)
            except UnavailableError as error:
                raise UnavailableError(f"{error}. Then go on with the same command and --resume.") from error
            finally:
                engine.close()
                work.metrics.write()
            if work.stopped() and not work.watch:
                raise StoppedError(
                    f"Asked to end; {out} holds {ledger.size()} rows. Go on with the same command and --resume."
                )
            if work.shard:
                ledger.state(listing=listing.digest)
            found = conclude(ledger, loaded, fdr, progress, is_shard=bool(work.shard), goes_on=work.watch)
            work.metrics.event("finished", rows=found.scanned, flagged=found.flagged)
            return found
        finally:
            ledger.close()


def _check_same(known: dict[str, Any], facts: dict[str, Any], out: Path) -> None:
    """A run goes on as what it was begun."""
    for name in _SAME:
        before, now = known.get(name), json.loads(json.dumps(facts[name]))
        if name == "detector":
            before, now = known["detector"]["sha256"], facts["detector"]["sha256"]
        if before != now:
            raise MedoodError(
                f"{out} was begun with another {name}: {before!r}, now {now!r}. Give another folder with --out."
            )


class _Run:
    """The loop from sources to rows.

    Args:
        ledger: where rows go.
        detector: that judges.
        fpr: the limit on p-values.
        engine: that reads and embeds.
        work: how it is worked through.
        bar: moves by one a source.
    """

    def __init__(self, ledger: Ledger, detector: Detector, fpr: float, engine: Engine, work: Work, bar: Bar) -> None:
        self._ledger, self._detector, self._fpr, self._bar = ledger, detector, fpr, bar
        self._engine, self._work = engine, work
        self._whole = Whole(ledger)
        self._met: dict[str, str] = {}  # contents whose rows are not in the ledger yet
        self._embedding: deque[tuple[list[tuple[Place, Result]], Future[Embedded] | None]] = deque()
        self._pace = Pace()

    def through(self, listing: Listing) -> None:
        """Read, embed, judge and write all that is not in the ledger yet; whole batches alone where it is asked to end."""
        end = self._ledger.end()
        self._bar(end.file if end else 0, "")  # most files hold one source
        listed: Iterator[Listed] = listing.watched(end, self._ledger.knows) if self._work.watch else listing.placed(end)
        pending: list[tuple[Place, Result]] = []
        for found in self._pace.waiting(self._engine.read(listed, self._work.stopped)):
            if found is None:  # nothing else to do than what waits
                self._finish(pending)
                pending = []
                continue
            place, results = found
            resumed = end is not None and (place.file, place.item) == (end.file, end.item)
            for result in _rest(results, end) if end and resumed else self._told_over(results):
                self._pace.read(result)
                pending.append((place, result))
                if len(pending) == BATCH:
                    self._embed(pending)
                    pending = []
            self._bar(1, self._pace.told())
        if not self._work.stopped() or self._work.watch:
            self._finish(pending)

    def _finish(self, pending: list[tuple[Place, Result]]) -> None:
        """Write everything that was read."""
        if pending:
            self._embed(pending)
        while self._embedding:
            self._write()

    def _told_over(self, results: list[Result]) -> list[Result]:
        """The results, or that the same bytes were read before."""
        if not results or not (sha256 := results[0].identity.sha256):
            return results
        identity = results[0].identity
        first = self._met.get(sha256) or self._ledger.first(sha256)
        if first is not None:
            return [Result(identity, Status.DUPLICATE, f"the same bytes as {first}", host=results[0].host)]
        if results[0].status != Status.UNREADABLE:
            self._met[sha256] = identity.name
        return results

    def _embed(self, pending: list[tuple[Place, Result]]) -> None:
        pictures = [result.network_input for _, result in pending if result.picture is not None]
        future = self._engine.embed(torch.stack(pictures)) if pictures else None
        self._embedding.append((pending, future))
        while len(self._embedding) > self._work.workers + _AHEAD or (self._embedding and _is_done(self._embedding[0][1])):
            self._write()

    def _write(self) -> None:
        """Judge the oldest batch and commit its rows."""
        pending, future = self._embedding.popleft()
        verdicts: list[Verdict] = []
        scored = [result for _, result in pending if result.picture is not None]
        seconds = 0.0
        if future is not None:
            features, seconds = self._pace.embedded(future)
            verdicts = self._detector.judge(features, self._fpr, [result.stratum for result in scored])
        judged = iter(verdicts)
        share = seconds / max(1, len(scored))
        with self._ledger.writing():
            for i, (result, verdict) in enumerate(zip(scored, verdicts, strict=True)):
                row = features.features[i]
                self._whole.add(result.identity.sha256, result.patient, row, result.month, verdict.p_value)
            rows = [
                _row(place, result, next(judged) if result.picture is not None else None, self._fpr, share)
                for place, result in pending
            ]
            self._ledger.add(rows)
        self._work.metrics.rows(rows, self._pace)
        for _, result in pending:
            self._met.pop(result.identity.sha256, None)


def _rest(results: list[Result], end: End) -> list[Result]:
    """What is still to come of the source that a run stopped in.

    Raises:
        MedoodError: the source holds other bytes now.
    """
    if end.status in _ALONE or not results:
        return []
    last = results[-1]
    if last.status in _ALONE:  # it could not be read once more
        return [replace(last, identity=replace(last.identity, frame=end.rows))]
    if end.sha256 and last.identity.sha256 != end.sha256:
        name = results[0].identity.name
        raise MedoodError(f"{name} has changed since the run stopped. Screen it as a new run, with another --out.")
    return results[end.rows :]


def _is_done(future: Future[Embedded] | None) -> bool:
    return future is None or future.done()


def _row(place: Place, result: Result, verdict: Verdict | None, fpr: float, seconds: float) -> Row:
    identity = result.identity
    row = Row(
        identity.source,
        identity.member,
        identity.frame,
        identity.sha256,
        result.status,
        result.reason,
        facts=result.facts or {},
        read_seconds=round(result.disk_seconds + result.decode_seconds, 6),
        file=place.file,
        item=place.item,
        host=result.host,
    )
    if verdict is None:
        return row
    flagged = verdict.decision == "out_of_distribution"
    facts = {**row.facts, "nearest": [round(v, 4) for v in verdict.nearest], "nearest_keys": verdict.nearest_keys}
    if verdict.stratum:
        facts["stratum"] = verdict.stratum
    reason = (
        f"at most {verdict.p_value:.2g} of in-distribution scans score this high; the limit is {fpr:g}" if flagged else ""
    )
    if not verdict.calibrated:
        told = f"no calibration scan is of its kind ({verdict.stratum}), so only what all other kinds would flag is flagged"
        facts["uncalibrated"] = told
        reason = f"{reason}; {told}" if reason else told
    return replace(
        row,
        reason=reason,
        score=min(verdict.score, 1e308),
        p_value=verdict.p_value,
        decision=verdict.decision,
        facts=facts,
        score_seconds=round(seconds, 6),
    )
