"""The archive as a whole, gathered while it is screened: a bounded sample of its features, and its months."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from medood.detection.reference import Calibration
from medood.detection.two_sample import drift, mmd
from medood.language import ENGLISH, Language

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


def sentences(facts: dict[str, Any], language: Language = ENGLISH) -> list[str]:
    """What the ledger's facts say of the calibration and of the archive as a whole, for a person."""
    said = []
    calibration, rate = facts["calibration"], facts.get("true_rate")
    named = {"name": calibration["name"], "scans": calibration["scans"]}
    if not rate:
        said.append(language.say("calibration", **named))
    else:
        told = language.say("true rate", **named, low=rate[0], high=rate[1])
        said.append(f"{told} {language.say('in the smallest stratum')}" if calibration["by"] else told)
    if facts.get("uncalibrated"):
        said.append(language.say("uncalibrated", count=facts["uncalibrated"], by=", ".join(calibration["by"])))
    whole = facts.get("whole") or {}
    shift, trend = whole.get("shift"), whole.get("drift")
    if shift:
        name = "archive differs" if shift["p_value"] <= 0.01 else "archive does not differ"
        values = {key: shift[key] for key in ("statistic", "archive", "reference")}
        said.append(language.say(name, p=shift["p_value"], **values))
    if trend:
        name = "later fit less" if trend["correlation"] < 0 else "later fit better"
        name = name if trend["p_value"] <= 0.01 else "no drift"
        said.append(language.say(name, correlation=trend["correlation"], p=trend["p_value"], scans=trend["scans"]))
    return said
