"""Sources in, ledger out: read, prepare, batch, judge, write. Bad input becomes a row and never stops the run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medood.detection.calibration import check_rate, flagged_at_fdr, reachable, threshold, true_rate
from medood.detection.detector import Detector, Verdict
from medood.detection.reference import TRAINING, stratum
from medood.detection.shipped import find_detector
from medood.errors import MedoodError
from medood.progress import Progress
from medood.scans.archive import Source, check_there, count_sources, find_sources
from medood.scans.read import Seen, check_options, read_source
from medood.scans.scan import Identity, Refusal, Scan, Status
from medood.schema import ReadConfig
from medood.screening.ledger import Ledger, Row
from medood.screening.whole import Whole

BATCH = 32


@dataclass(frozen=True)
class Summary:
    """What a screening found.

    Attributes:
        scanned: rows in the ledger.
        flagged: scans decided out of distribution.
        accepted: scans decided in distribution.
        refused: rows without a score, but for those left out.
        left_out: rows that the selection left out.
    """

    scanned: int
    flagged: int
    accepted: int
    refused: int
    left_out: int


@dataclass(frozen=True)
class _Waiting:
    identity: Identity
    facts: dict[str, Any]
    picture: Tensor
    month: str
    patient: str
    stratum: str
    read_seconds: float


def screen(
    sources: Sequence[str | Path],
    detector: str | Path | Detector,
    out: str | Path,
    *,
    fpr: float = 0.05,
    fdr: float | None = None,
    calibration: str = TRAINING,
    read: ReadConfig | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Screen files, folders, archives, DICOMDIRs and CSV manifests into a run folder: ``ledger.sqlite``, ``verdicts.csv``.

    Args:
        sources: what to screen.
        detector: a detector, its folder, or the name of a shipped one.
        out: the run's folder; it must not hold a run.
        fpr: share of in-distribution scans that may be flagged.
        fdr: decide over the archive as a whole instead: share of the flagged scans that may be in-distribution.
        calibration: name of the detector's calibration to decide with, where ``detector`` is a folder.
        read: which frames and objects become scans, and the limits.
        progress: where to draw; none is quiet.

    Raises:
        MedoodError: a source is missing, the detector is damaged, the rate cannot be reached, the folder is taken.
    """
    progress, read = progress or Progress(quiet=True), read or ReadConfig()
    check_options(read)
    out = Path(out)
    folder = "" if isinstance(detector, Detector) else str(find_detector(detector).resolve())
    loaded = detector if isinstance(detector, Detector) else Detector.load(detector, calibration)
    reference = loaded.calibration
    if fdr is None:
        reference.check(fpr)
    else:
        check_rate(fdr, len(reference.scores), "--fdr")
    total = _total(sources)
    ledger = Ledger(out, create=True)
    try:
        ledger.state(
            medood=version("medood"),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            sources=[str(source) for source in sources],
            working_directory=str(Path.cwd()),
            fpr=fpr if fdr is None else None,
            fdr=fdr,
            limit=fpr,
            read=asdict(read),
            threshold=None if reference.by else threshold(reference.scores, fpr),
            true_rate=None if fdr is not None else true_rate(min(reference.counts().values()), fpr),
            calibration=reference.stated(),
            detector={
                "folder": folder,
                "sha256": loaded.sha256,
                "name": loaded.facts.get("config", {}).get("name", ""),
                "score": loaded.score_name,
                "training_scans": loaded.facts.get("data", {}).get("training_scans"),
            },
        )
        with progress.bar(total, "screening") as bar:
            pending: list[_Waiting | Row] = []
            seen, whole = Seen(), Whole()
            for item in (item for source in sources for item in find_sources(Path(source), read)):
                for result, seconds in _results(item, read, seen):
                    pending.append(_prepared(result, loaded, seconds))
                    if len(pending) == BATCH:
                        ledger.add(_judged(pending, loaded, fpr, whole))
                        pending = []
                bar(1, "")
            ledger.add(_judged(pending, loaded, fpr, whole))
        if fdr is not None:
            _decide(ledger, loaded, fdr, progress)
        ledger.state(whole=whole.conclude(reference), uncalibrated=ledger.uncalibrated())
        ledger.state(finished=datetime.now(UTC).isoformat(timespec="seconds"))
        ledger.write_csv(out / "verdicts.csv")
        return summary(ledger)
    finally:
        ledger.close()


def summary(ledger: Ledger) -> Summary:
    """Count a ledger."""
    counts = ledger.counts()
    flagged = counts.get((Status.SCORED, "out_of_distribution"), 0)
    accepted = counts.get((Status.SCORED, "in_distribution"), 0)
    total = sum(counts.values())
    left_out = sum(count for (status, _), count in counts.items() if status == Status.NOT_SELECTED)
    return Summary(total, flagged, accepted, total - flagged - accepted - left_out, left_out)


def _total(sources: Sequence[str | Path]) -> int | None:
    """Find out early that a source is missing, or that all are empty; and how many there are, where that can be told."""
    counts: list[int | None] = []
    for source in sources:
        try:
            check_there(Path(source))
        except FileNotFoundError as error:
            raise MedoodError(f"{error}. Give a file, a folder or an archive that is there.") from error
        counts.append(count_sources(Path(source)))
    total = None if None in counts else sum(count or 0 for count in counts)
    if total == 0:
        raise MedoodError(f"There is no file in {', '.join(str(s) for s in sources)}. Give a folder that holds scans.")
    return total


def _results(item: Source | Refusal, read: ReadConfig, seen: Seen) -> Iterator[tuple[Scan | Refusal, float]]:
    """The item's results with the seconds each took to read."""
    if isinstance(item, Refusal):
        yield item, 0.0
        return
    started = time.perf_counter()
    for result in read_source(item, read, seen):
        yield result, time.perf_counter() - started
        started = time.perf_counter()


def _prepared(result: Scan | Refusal, detector: Detector, seconds: float) -> _Waiting | Row:
    if isinstance(result, Refusal):
        return _refused(result, seconds)
    try:
        picture, kind = detector.prepare(result), stratum(result.attributes, detector.calibration.by)
        return _Waiting(result.identity, _facts(result), picture, result.month, result.patient, kind, seconds)
    except (RuntimeError, ValueError) as error:
        refusal = Refusal(result.identity, Status.UNREADABLE, f"the picture cannot be resized: {error}")
        return _refused(refusal, seconds)


def _decide(ledger: Ledger, detector: Detector, fdr: float, progress: Progress) -> None:
    """Benjamini and Hochberg over the whole ledger."""
    p = np.array(ledger.p_values())
    flagged = flagged_at_fdr(p, fdr)
    limit = float(p[flagged].max()) if flagged.any() else 0.0
    ledger.decide(limit, f"the limit for a false-discovery rate of {fdr:g} over {len(p)} scans is {limit:.2g}")
    reference = detector.calibration
    score = None if reference.by or not limit else threshold(reference.scores, limit)
    ledger.state(limit=limit, threshold=score)
    most = max(reference.counts().values())
    least = reachable(len(p), most, fdr)
    if least > len(p):
        progress.say(
            f"false-discovery rate {fdr:g}: with {most} calibration scans nothing can be flagged among {len(p)} scans; "
            "calibrate with more, or ask for a higher rate"
        )
    elif least > 1:
        progress.say(
            f"false-discovery rate {fdr:g}: with {most} calibration scans"
            f"{' in the largest stratum' if reference.by else ''}, at least {least} of {len(p)} scans have to score above "
            "all of them before any is flagged"
        )


def _judged(pending: list[_Waiting | Row], detector: Detector, fpr: float, whole: Whole) -> list[Row]:
    """Rows in the order in which they were found: those that wait for the network are judged in one batch."""
    waiting = [item for item in pending if isinstance(item, _Waiting)]
    if not waiting:
        return [item for item in pending if isinstance(item, Row)]
    started = time.perf_counter()
    rows = detector.embed(torch.stack([item.picture for item in waiting]))
    verdicts = detector.judge(rows, fpr, [item.stratum for item in waiting])
    seconds = (time.perf_counter() - started) / len(waiting)
    for item, features, verdict in zip(waiting, rows.features, verdicts, strict=True):
        whole.add(item.identity.sha256, item.patient, features, item.month, verdict.p_value)
    judged = iter(verdicts)
    return [item if isinstance(item, Row) else _scored(item, next(judged), fpr, seconds) for item in pending]


def _facts(scan: Scan) -> dict[str, Any]:
    """What the ledger keeps of a scan, without its pixels."""
    return {
        "grayscale": asdict(scan.grayscale),
        "attributes": scan.attributes,
        "spacing": scan.spacing,
        "spacing_source": scan.spacing_source,
        "aspect": round(scan.aspect, 6),
        "shape": list(scan.pixels.shape[1:]),
    }


def _scored(item: _Waiting, verdict: Verdict, fpr: float, seconds: float) -> Row:
    identity = item.identity
    flagged = verdict.decision == "out_of_distribution"
    facts = {
        **item.facts,
        "nearest": [round(v, 4) for v in verdict.nearest],
        "nearest_keys": verdict.nearest_keys,
    }
    if verdict.stratum:
        facts["stratum"] = verdict.stratum
    reason = (
        f"at most {verdict.p_value:.2g} of in-distribution scans score this high; the limit is {fpr:g}" if flagged else ""
    )
    if not verdict.calibrated:
        told = f"no calibration scan is of its kind ({verdict.stratum}), so only what all other kinds would flag is flagged"
        facts["uncalibrated"] = told
        reason = f"{reason}; {told}" if reason else told
    return Row(
        identity.source,
        identity.member,
        identity.frame,
        identity.sha256,
        Status.SCORED,
        reason,
        min(verdict.score, 1e308),
        verdict.p_value,
        verdict.decision,
        facts,
        round(item.read_seconds, 6),
        round(seconds, 6),
    )


def _refused(refusal: Refusal, seconds: float) -> Row:
    identity = refusal.identity
    return Row(
        identity.source,
        identity.member,
        identity.frame,
        identity.sha256,
        refusal.status,
        refusal.reason,
        read_seconds=round(seconds, 6),
    )
