"""The end of a run: decisions over the archive as a whole, what is said of it, the CSV."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from medood.detection.conformal import flagged_at_fdr, reachable, threshold
from medood.detection.detector import Detector
from medood.progress import Progress
from medood.scans.scan import Status
from medood.screening.archive_statistics import Whole
from medood.screening.ledger import Ledger


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


def conclude(
    ledger: Ledger,
    detector: Detector,
    fdr: float | None,
    progress: Progress,
    *,
    is_shard: bool = False,
    goes_on: bool = False,
) -> Summary:
    """Decide what is decided over all scans, note what is to be said of them, and write ``verdicts.csv``.

    A shard keeps what it gathered for ``medood merge``, and its scans are decided by their own p-values alone. So does a run
    that may go on keep it, but for the digests of patients.
    """
    whole, found = Whole(ledger), dict[str, Any]()
    if is_shard:
        whole.count_patients()
    else:
        if fdr is not None:
            _decide(ledger, detector, fdr, progress)
        known = {"calibration": detector.calibration.keys, "training": detector.learned.keys}
        found = {
            "whole": whole.conclude(detector.calibration),
            "uncalibrated": ledger.uncalibrated(),
            "seen_before": {
                name: ledger.scored_among(bytes(key).hex() for key in keys.numpy()) for name, keys in known.items()
            },
        }
    ledger.write_csv(ledger.path.parent / "verdicts.csv")
    ledger.state(**found, finished=datetime.now(UTC).isoformat(timespec="seconds"))  # all at once
    if not (is_shard or goes_on):
        whole.forget()
    return summary(ledger)


def summary(ledger: Ledger) -> Summary:
    """Count a ledger."""
    counts = ledger.counts()
    flagged = counts.get((Status.SCORED, "out_of_distribution"), 0)
    accepted = counts.get((Status.SCORED, "in_distribution"), 0)
    total = sum(counts.values())
    left_out = sum(count for (status, _), count in counts.items() if status == Status.NOT_SELECTED)
    return Summary(total, flagged, accepted, total - flagged - accepted - left_out, left_out)


def _decide(ledger: Ledger, detector: Detector, fdr: float, progress: Progress) -> None:
    """Benjamini and Hochberg over the whole ledger."""
    p = np.array([value for (value,) in ledger.columns(["p_value"], "status = 'scored'")])
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
