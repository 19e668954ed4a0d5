"""What a detector still finds after a site has calibrated it with some of its own normal scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medood.detection.conformal import p_values
from medood.evaluation.metrics import Groups, Vector

#: Numbers of normal scans that a site calibrates with.
CALIBRATION_SCANS = (40, 100, 200)
#: Random splits of a site's normal scans.
SPLITS = 100
#: Smallest number of normal scans that must be left to measure on.
_FEWEST_LEFT = 40


@dataclass(frozen=True)
class AfterCalibration:
    """Share of scans flagged after calibration on a site.

    Attributes:
        source: data set of the site's normal scans.
        scorer: name of the score.
        calibration_scans: number of the site's normal scans that it was calibrated with.
        target: ``normal``, the name of a disease set of the same source, or a planted fault.
        rate: false-alarm rate.
        flagged: mean share flagged over the splits.
        low: 5th percentile over the splits.
        high: 95th percentile over the splits.
    """

    source: str
    scorer: str
    calibration_scans: int
    target: str
    rate: float
    flagged: float
    low: float
    high: float


def after_calibration(
    source: str,
    scorer: str,
    normal: tuple[Vector, Groups],
    others: Mapping[str, tuple[Vector, Groups]],
    planted: Mapping[str, Vector],
    *,
    rate: float = 0.05,
    splits: int = SPLITS,
    seed: int = 0,
) -> list[AfterCalibration]:
    """Calibrate with random normal scans of a site, by patient, and measure on all other scans of the site.

    Args:
        source: data set of the normal scans.
        scorer: name of the score.
        normal: scores ``[N]`` and patients ``[N]`` of the site's normal scans.
        others: scores and patients of further sets of the site, such as disease, by name.
        planted: scores ``[N]`` of the normal scans with a fault planted, in the same order, by fault.
        rate: false-alarm rate.
        splits: number of random splits.
        seed: seed of the splits.

    Returns:
        one for each number of calibration scans that leaves enough scans to measure on, and each target.
    """
    scores, patients = normal
    names, member = np.unique(patients, return_inverse=True)
    results = []
    for count in CALIBRATION_SCANS:
        if len(scores) - count < _FEWEST_LEFT or rate < 1.0 / (count + 1):
            continue
        rng = np.random.default_rng([seed, count])
        shares: dict[str, list[float]] = {}
        for _ in range(splits):
            order = np.argsort(rng.permutation(len(names))[member], kind="stable")  # whole patients, in random order
            chosen = order[:count]
            known = np.isin(patients, patients[chosen])
            if known.all():
                continue
            reference = scores[chosen]
            measured = {"normal": scores[~known]}
            measured |= {fault: values[~known] for fault, values in planted.items()}
            for name, (values, groups) in others.items():
                measured[name] = values[~np.isin(groups, patients[chosen])]
            for target, values in measured.items():
                if len(values):
                    shares.setdefault(target, []).append(float((p_values(values, reference) <= rate).mean()))
        for target, drawn in shares.items():
            low, high = np.quantile(drawn, [0.05, 0.95])
            results.append(
                AfterCalibration(source, scorer, count, target, rate, float(np.mean(drawn)), float(low), float(high))
            )
    return results
