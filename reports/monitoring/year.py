"""Simulates years of a hospital whose scans change in month 7, or do not, from scores of real radiographs; prints CSV.

A year has 12 months of 400 scans, drawn with replacement from in-distribution test and calibration radiographs; from month 7
on, a share of the scans is drawn from another set. Counted: alarms before the change (false), years in which the change is
reported within 200 scans of it, the median number of scans until it is, and months before it outside the control limits.

Usage: MEDOOD_DATA=FOLDER python -m reports.monitoring.year cxr-small > reports/monitoring/year.csv
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medood.detection.detector import Detector
from medood.scans.reader import read_source
from medood.scans.scan import Scan
from medood.scans.sources.source import Source
from medood.screening.monitor.change_detection import changes
from medood.screening.monitor.run_comparison import control_limits

YEARS, MONTHS, SCANS, CHANGE, EVERY, SOON = 100, 12, 400, 6, 1e6, 200
Vector = npt.NDArray[np.float64]
#: What comes from month 7 on: a set of the shared data, and its share of the scans.
CHANGES = (
    ("none", "", 0.0),
    ("another device (pk_normal)", "id_shift/pk_normal", 1.0),
    ("half from another device", "id_shift/pk_normal", 0.5),
    ("another hospital (openist_normal)", "id_shift/openist_normal", 1.0),
    ("another hospital (nih_normal)", "id_shift/nih_normal", 1.0),
    ("a tenth are children", "near/paediatric_normal", 0.1),
)


def scores_of(detector: Detector, folder: Path) -> Vector:
    images = []
    for path in sorted(folder.glob("*.*")):
        scan = next(iter(read_source(Source(path))))
        if isinstance(scan, Scan):
            images.append(detector.prepare(scan))
    return detector.raw_scores(detector.embed(torch.stack(images)))


def year(normal: Vector, other: Vector, share: float, seed: int) -> tuple[Vector, int]:
    """Scores of a year, and the number of the first changed scan."""
    rng = np.random.default_rng(seed)
    scores = rng.choice(normal, MONTHS * SCANS)
    if share:
        is_other = (np.arange(len(scores)) >= CHANGE * SCANS) & (rng.random(len(scores)) < share)
        scores[is_other] = rng.choice(other, int(is_other.sum()))
    return scores, CHANGE * SCANS if share else len(scores)


def main() -> None:
    detector, data = Detector.load(sys.argv[1]), Path(os.environ["MEDOOD_DATA"])
    inside = [scores_of(detector, data / "in_distribution" / part) for part in ("test", "calibration")]
    normal = np.concatenate(inside)
    limit = float(np.quantile(normal, 0.95))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        ["change", "years", "false_alarms", "found_within_200", "median_scans_until_found", "months_outside_before"]
    )
    for name, folder, share in CHANGES:
        other = scores_of(detector, data / folder) if folder else normal
        false_alarms, delays, outside = 0, list[float](), 0
        for seed in range(YEARS):
            scores, changed = year(normal, other, share, seed)
            alarms, _ = changes(scores, EVERY)
            false_alarms += sum(alarm < changed for alarm in alarms)
            delays.append(min((alarm - changed + 1 for alarm in alarms if alarm >= changed), default=float("inf")))
            flagged = (scores.reshape(MONTHS, SCANS) > limit).sum(axis=1)
            low, high = control_limits(int(flagged[0]), SCANS, SCANS)
            outside += int(
                ((flagged[1 : changed // SCANS] / SCANS < low) | (flagged[1 : changed // SCANS] / SCANS > high)).sum()
            )
        soon = sum(delay <= SOON for delay in delays)
        middle = "" if not share else f"{np.median(delays):.0f}"
        writer.writerow([name, YEARS, false_alarms, soon if share else "", middle, outside])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
