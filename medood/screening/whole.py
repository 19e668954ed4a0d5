"""The archive as a whole, gathered while it is screened: a bounded sample of its features, and its months."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from medood.detection.reference import Calibration
from medood.detection.two_sample import drift, mmd

#: Scans of the archive, and of the calibration, that are compared.
SAMPLE = 1000
#: Months with fewer patients are left out, so that no line speaks of one.
_FEWEST = 5


class Whole:
    """Keeps the files with the smallest SHA-256, one scan each: a sample that order and sharding do not change."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Tensor, str, float]] = {}
        self._months: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._patients: dict[str, set[str]] = defaultdict(set)

    def add(self, sha256: str, patient: str, features: Tensor, month: str, p_value: float) -> None:
        """Take a scored scan in; its month is ``YYYY-MM`` or empty, its patient a hash or empty."""
        if month:
            self._months[month][0] += 1
            self._months[month][1] += p_value
            if len(self._patients[month]) < _FEWEST:
                self._patients[month].add(patient or sha256)
        if sha256 not in self._kept:
            self._kept[sha256] = (features.clone(), month, p_value)
        if len(self._kept) > 2 * SAMPLE:
            self._kept = dict(self._sample())

    def conclude(self, calibration: Calibration) -> dict[str, Any]:
        """``shift`` and ``drift`` (none where they cannot be told) and ``months``, for the ledger."""
        sample = [value for _, value in self._sample() if bool(value[0].isfinite().all())]
        features = np.array([row.numpy() for row, _, _ in sample], dtype=np.float64)
        known = calibration.features[calibration.features.isfinite().all(dim=1)]
        step = -(-len(known) // SAMPLE) or 1
        shift = mmd(features, known[::step].double().numpy()) if sample else None
        dated = [(month, p_value) for _, month, p_value in sample if month]
        trend = drift([month for month, _ in dated], [p_value for _, p_value in dated])
        return {
            "shift": asdict(shift) if shift else None,
            "drift": asdict(trend) if trend else None,
            "months": [
                {"month": month, "scans": int(count), "mean_p_value": round(total / count, 4)}
                for month, (count, total) in sorted(self._months.items())
                if len(self._patients[month]) >= _FEWEST
            ],
        }

    def _sample(self) -> list[tuple[str, tuple[Tensor, str, float]]]:
        return sorted(self._kept.items(), key=lambda item: item[0])[:SAMPLE]


def sentences(facts: dict[str, Any]) -> list[str]:
    """What the ledger's facts say of the calibration and of the archive as a whole, for a person."""
    said = []
    calibration, rate = facts["calibration"], facts.get("true_rate")
    if not rate:
        said.append(f"calibration {calibration['name']!r} of {calibration['scans']} scans")
    else:
        said.append(
            f"calibration {calibration['name']!r} of {calibration['scans']} scans: the true false-alarm rate lies between "
            f"{rate[0]:.2%} and {rate[1]:.2%} with a probability of 90 %"
            + (" (in the smallest stratum)" if calibration["by"] else "")
        )
    if facts.get("uncalibrated"):
        said.append(
            f"{facts['uncalibrated']} scans are of a kind ({', '.join(calibration['by'])}) that was not calibrated; each is "
            "flagged only if every calibrated kind would flag it"
        )
    whole = facts.get("whole") or {}
    shift, trend = whole.get("shift"), whole.get("drift")
    if shift:
        found = "differs from" if shift["p_value"] <= 0.01 else "does not differ from"
        said.append(
            f"the archive as a whole {found} the calibration scans (maximum mean discrepancy {shift['statistic']:.4f}, "
            f"p {shift['p_value']:.2g}, {shift['archive']} against {shift['reference']} scans)"
        )
    if trend:
        found = "fit less well" if trend["correlation"] < 0 else "fit better"
        said.append(
            f"later scans {found} than earlier ones: rank correlation {trend['correlation']:.2f}, p {trend['p_value']:.2g}"
            if trend["p_value"] <= 0.01
            else f"no drift over {trend['scans']} dated scans: rank correlation {trend['correlation']:.2f}"
        )
    return said
