"""Finalize a run: decisions and statistics over the whole archive, and the CSV."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from medood.detection.conformal import Decision, flagged_at_fdr, reachable, threshold
from medood.detection.detector import Detector
from medood.progress import Progress
from medood.scans.scan import Status
from medood.screening.archive_statistics import ArchiveStatistics
from medood.screening.ledger.database import Ledger


@dataclass(frozen=True)
class Summary:
    """Counts of a screening run.

    Attributes:
        scanned: rows in the ledger.
        flagged: scans classified as out-of-distribution.
        accepted: scans classified as in-distribution.
        refused: rows without a score, except those left out.
        left_out: rows left out by the selection.
    """

    scanned: int
    flagged: int
    accepted: int
    refused: int
    left_out: int


def finalize(
    ledger: Ledger,
    detector: Detector,
    fdr: float | None,
    progress: Progress,
    *,
    is_shard: bool = False,
    resumable: bool = False,
) -> Summary:
    """Make the archive-wide decisions, store the archive statistics, and write ``verdicts.csv``.

    A shard keeps its statistics for ``medood merge``, and its scans are decided by their p-values alone. A run that may be
    resumed also keeps its statistics, except the patient digests.
    """
    results: dict[str, Any] = {}
    if is_shard:
        ledger.statistics.count_patients()
    else:
        if fdr is not None:
            _decide(ledger, detector, fdr, progress)
        keys_by_use = {"calibration": detector.calibration.keys, "training": detector.learned.keys}
        results = {
            "whole": asdict(ArchiveStatistics(ledger).finalize(detector.calibration, ledger.metadata().limit)),
            "uncalibrated": ledger.uncalibrated(),
            "seen_before": {
                name: ledger.scored_among(bytes(key).hex() for key in keys.numpy()) for name, keys in keys_by_use.items()
            },
        }
    ledger.write_csv(ledger.path.parent / "verdicts.csv")
    ledger.set_metadata(**results, finished=datetime.now(UTC).isoformat(timespec="seconds"))  # one transaction
    if not (is_shard or resumable):
        ledger.statistics.delete()
    return summary(ledger)


def summary(ledger: Ledger) -> Summary:
    """Count the rows of a ledger by outcome."""
    counts = ledger.counts()
    flagged = counts.get((Status.SCORED, Decision.OUT_OF_DISTRIBUTION), 0)
    accepted = counts.get((Status.SCORED, Decision.IN_DISTRIBUTION), 0)
    total = sum(counts.values())
    left_out = sum(count for (status, _), count in counts.items() if status == Status.NOT_SELECTED)
    return Summary(total, flagged, accepted, total - flagged - accepted - left_out, left_out)


def _decide(ledger: Ledger, detector: Detector, fdr: float, progress: Progress) -> None:
    """Apply the Benjamini-Hochberg procedure to the whole ledger."""
    p = np.array(ledger.p_values())
    flagged = flagged_at_fdr(p, fdr)
    limit = float(p[flagged].max()) if flagged.any() else 0.0
    ledger.decide(limit, fdr, len(p))
    reference = detector.calibration
    score = None if reference.by or not limit else threshold(reference.scores, limit)
    ledger.set_metadata(limit=limit, threshold=score)
    most = max(reference.counts().values())
    least = reachable(len(p), most, fdr)
    if least > len(p):
        progress.say(
            f"false-discovery rate {fdr:g}: with {most} calibration scans nothing can be flagged among {len(p)} scans; "
            "calibrate with more scans, or set a higher rate"
        )
    elif least > 1:
        progress.say(
            f"false-discovery rate {fdr:g}: with {most} calibration scans"
            f"{' in the largest stratum' if reference.by else ''}, at least {least} of {len(p)} scans must score above "
            "all of them before any scan is flagged"
        )
