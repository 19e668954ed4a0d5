"""Measure a detector on the sources of a manifest other than its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from medood.detection.detector import Detector
from medood.evaluation.cross_site.pairs import (
    Mask,
    PairFigures,
    SeverityFigures,
    SourceFigures,
    compare_pair,
    severity_correlation,
)
from medood.evaluation.cross_site.site_calibration import AfterCalibration, after_calibration
from medood.evaluation.manifest import Entry
from medood.evaluation.metrics import Vector, auroc, draw, share
from medood.evaluation.scan_features import Key, ScanFeatures, Set, is_healthy
from medood.evaluation.sides import Side, deciding_scores, pool
from medood.progress import Progress

#: False-alarm rates of the decisions.
RATES = (0.01, 0.05)
_TEST, _SHIFT = "in_distribution", "id_shift"


@dataclass(frozen=True)
class CrossSite:
    """Results on other sources; each list has one item per score, and is empty if the manifest has no data for it."""

    pairs: list[PairFigures] = field(default_factory=list)
    sources: list[SourceFigures] = field(default_factory=list)
    calibrated: list[AfterCalibration] = field(default_factory=list)
    severity: list[SeverityFigures] = field(default_factory=list)


def measure_cross_site(
    features: ScanFeatures, detectors: dict[str, Detector], repeats: int, seed: int, progress: Progress
) -> CrossSite:
    """Measure the deciding score of each detector and its parts.

    Args:
        features: the scans of the manifest and their copies.
        detectors: detectors by name.
        repeats: bootstrap draws.
        seed: seed of bootstraps and splits.
        progress: progress display.
    """
    sets = {key: scans for key, scans in features.sets.items() if key[0] != "acquisition"}
    sides = {key: _side(scans, detectors) for key, scans in sets.items()}
    copies = {key: _side(scans, detectors) for key, scans in features.copies.items()}
    matched_sets = {key: scans for key, scans in features.copies.items() if key[0] == "matched"}
    result = CrossSite()
    pairs = pair_names(entry for scans in sets.values() for entry in scans.entries)
    for pair in progress.track(iter(pairs), len(pairs), "pairs"):
        disease, normal = (_join(sides, _members(sets, pair, role)) for role in ("disease", "normal"))
        matched = [_join(copies, _members(matched_sets, pair, role)) for role in ("disease", "normal")]
        flagged = {
            name: (_flagged(detector, disease.scores[name]), _flagged(detector, normal.scores[name]))
            for name, detector in detectors.items()
        }
        result.pairs.extend(compare_pair(pair, disease, normal, (matched[0], matched[1]), flagged, repeats, seed))
    test = pool([side for (group, _), side in sides.items() if group == _TEST])
    healthy = {key: side for key, side in sides.items() if key[0] == _SHIFT}
    for (_, name), side in progress.track(iter(sorted(healthy.items())), len(healthy), "other sources"):
        draws = draw(side.patients, test.patients, repeats, seed)
        for scorer, scores in side.scores.items():
            against_test = auroc(scores, test.scores[scorer], draws)
            masks = _flagged(detectors[scorer], scores) if scorer in detectors else {}
            shares = {rate: share(mask, side.patients, repeats, seed) for rate, mask in masks.items()}
            result.sources.append(SourceFigures(name, len(scores), scorer, against_test, shares))
    sites = [key for key, scans in sets.items() if any(is_healthy(entry) for entry in scans.entries)]
    for key in progress.track(iter(sites), len(sites), "calibrating on sites"):
        normal = sides[key].take(np.array([is_healthy(entry) for entry in sets[key].entries]))
        disease_sides = {}
        for pair in pairs:
            if key in _members(sets, pair, "normal"):
                disease_sides[f"{pair} disease"] = _join(sides, _members(sets, pair, "disease"))
        beginning = f"{key[1]}/"
        faults = {name.removeprefix(beginning): side for (_, name), side in copies.items() if name.startswith(beginning)}
        for scorer in detectors:
            others = {name: (side.scores[scorer], side.patients) for name, side in disease_sides.items()}
            planted = {name: side.scores[scorer] for name, side in faults.items()}
            own = (normal.scores[scorer], normal.patients)
            result.calibrated.extend(after_calibration(key[1], scorer, own, others, planted, seed=seed))
    for key, side in sides.items():
        graded = np.array([bool(entry.severity) for entry in sets[key].entries])
        if graded.any():
            name, severity = key[1], np.array([float(entry.severity) for entry in sets[key].entries if entry.severity])
            for scorer, scores in side.scores.items():
                rho = severity_correlation(scores[graded], severity, side.patients[graded], repeats, seed)
                result.severity.append(SeverityFigures(name, int(graded.sum()), scorer, rho))
    return result


def pair_names(entries: Iterable[Entry]) -> list[str]:
    """Names of the pairs that have both normal and disease scans, sorted."""
    roles: dict[str, set[str]] = {}
    for entry in entries:
        for pair, role in entry.roles.items():
            roles.setdefault(pair, set()).add(role)
    return sorted(pair for pair, found_roles in roles.items() if len(found_roles) == 2)


def _side(scans: Set, detectors: dict[str, Detector]) -> Side:
    scores: dict[str, Vector] = {}
    for name, detector in detectors.items():
        scores |= deciding_scores(name, detector, scans.features[name])
    return Side(scores, scans.trivial, scans.patients)


def _members(sets: dict[Key, Set], pair: str, role: str) -> dict[Key, Mask]:
    """Which scans of which sets have a role in a pair."""
    masks = {key: np.array([entry.roles.get(pair) == role for entry in scans.entries]) for key, scans in sets.items()}
    return {key: mask for key, mask in masks.items() if mask.any()}


def _join(sides: dict[Key, Side], masks: dict[Key, Mask]) -> Side:
    return pool([sides[key].take(mask) for key, mask in masks.items()])


def _flagged(detector: Detector, scores: Vector) -> dict[float, Mask]:
    if detector.calibration.by:  # the strata of the scans are those of the first detector's calibration
        return {}
    p = detector.calibration.p_values(scores, [""] * len(scores))
    return {rate: p <= rate for rate in RATES if rate >= 1.0 / (len(detector.calibration.scores) + 1)}
