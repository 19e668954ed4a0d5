"""The benchmark: each data set of a manifest against in-distribution test scans, with checks for leaks and shortcuts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medood.detection.detector import Detector
from medood.detection.scores import SCORES, scores_of
from medood.errors import MedoodError
from medood.evaluation.baselines import baseline_scores
from medood.evaluation.cross_site.measure import RATES, CrossSite, measure_cross_site
from medood.evaluation.external_baselines import fit_peer, nearest_to
from medood.evaluation.manifest import missing_files, read_manifest, with_pairs
from medood.evaluation.metrics import Difference, Draws, Figure, Separation, Vector, difference, draw, separation, share
from medood.evaluation.scan_features import Embedder, Key, Leak, ScanFeatures, Set, collect
from medood.evaluation.shortcuts import Shortcut, shortcut
from medood.evaluation.sides import Side, pool
from medood.progress import Progress

_TEST, _SHIFT, _NEAR = "in_distribution", "id_shift", "near"
#: Baselines whose AUROC is reported beside the detector's.
BASELINES = ("pixel_knn", "pca_mahalanobis", "pca_residual", "grey_statistics", "file_facts")
MAIN, OTHER = "detector", "against"


@dataclass(frozen=True)
class Comparison:
    """Comparison of one data set with another.

    Attributes:
        kind: ``far``, ``near``, ``id_shift``, ``acquisition``, ``near vs id_shift`` or ``same source``.
        positives: name of the positives' data set.
        negatives: name of the negatives'.
        positive_count: number of positive scans.
        negative_count: number of negative scans.
        figures: figures by scorer: ``detector``, ``score:NAME`` for each score, the baselines, peers, ``against``.
        shortcut: how well trivial features alone separate the sets.
        differences: AUROC of the detector minus that of ``pixel_knn`` and of ``against``, on the same draws.
    """

    kind: str
    positives: str
    negatives: str
    positive_count: int
    negative_count: int
    figures: dict[str, Separation]
    shortcut: Shortcut
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Decision:
    """Results of the calibrated decision on one set.

    Attributes:
        group: group of the set.
        dataset: name of the set.
        count: number of scans.
        flagged: share flagged, by false-alarm rate; NaN if the calibration is too small for that rate.
    """

    group: str
    dataset: str
    count: int
    flagged: dict[float, Figure]


@dataclass(frozen=True)
class Benchmark:
    """All results of a benchmark.

    Attributes:
        comparisons: rows of the main table.
        decisions: one per set.
        leaks: scans left out because a detector had learned from them or was calibrated with them.
        missing: a sentence for each file that could not be read.
        scores: raw scores of the detector by set, for figures.
        metadata: detector, manifest and settings.
        cross_site: how the detectors do on other sources.
    """

    comparisons: list[Comparison]
    decisions: list[Decision]
    leaks: dict[Key, Leak]
    missing: list[str]
    scores: dict[Key, Vector]
    metadata: dict[str, object]
    cross_site: CrossSite


def benchmark(
    detector: Detector,
    manifest: Path,
    *,
    against: Detector | None = None,
    backbones: dict[str, Embedder] | None = None,
    peers: Sequence[str] = (),
    repeats: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Benchmark:
    """Measure a detector on a manifest.

    Args:
        detector: the detector.
        manifest: see :mod:`medood.evaluation.manifest`. Rows of the split ``train`` are the reference of the baselines and
            frozen backbones; those of ``test`` are scored.
        against: another detector, for a paired comparison.
        backbones: frozen backbones by name, scored by their nearest training scan and by peers.
        peers: other libraries' detectors, fitted on the detector's bank and the backbones' features.
        repeats: bootstrap draws.
        seed: seed of the faults and the bootstrap.
        progress: progress display; None shows nothing.

    Raises:
        MedoodError: the manifest cannot be used.
    """
    progress = progress or Progress(quiet=True)
    detectors = {MAIN: detector} | ({OTHER: against} if against else {})
    entries = read_manifest(manifest)
    if missing := missing_files(manifest, entries):
        progress.say(
            f"{len(missing)} of the {len(entries)} files of {manifest} are not there and are left out, such as {missing[0]}"
        )
    features = collect(with_pairs(entries), manifest.parent, detectors, backbones or {}, seed, progress)
    if features.reference is None or not any(group == _TEST for group, _ in features.sets):
        example = f" ({features.missing[0]})" if features.missing else ""
        tests, trains = (sum(e.split == split and e.group == _TEST for e in entries) for split in ("test", "train"))
        leaked = sum(len(leak.files) for leak in features.leaks.values())
        raise MedoodError(
            f"{manifest}: needs rows of the group in_distribution with the split test, and of the split train, that can be "
            f"read; it names {tests} and {trains}; "
            f"{len(features.missing)} files could not be read{example}, {leaked} were known to a detector."
        )
    scored = _score_all(features, detectors, list(backbones or {}), peers, progress)
    pairs = list(_pairs(scored))
    return Benchmark(
        [_compare(*pair, repeats, seed) for pair in progress.track(iter(pairs), len(pairs), "bootstrap")],
        [
            _decide(key, features.sets[key], side.scores[MAIN], detector, repeats, seed)
            for key, side in progress.track(iter(sorted(scored.items())), len(scored), "decisions")
        ],
        {key: leak for key, leak in features.leaks.items() if leak.files},
        features.missing,
        {key: side.scores[MAIN] for key, side in scored.items()},
        {
            "detector": detector.metadata.name or "a detector",
            "detector_sha256": detector.sha256,
            "score": detector.score_name,
            "calibration": detector.calibration.to_dict(),
            "against": (against.metadata.name or "a detector") if against else None,
            "against_sha256": against.sha256 if against else None,
            "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
            "repeats": repeats,
            "seed": seed,
        },
        measure_cross_site(features, detectors, repeats, seed, progress),
    )


def _score_all(
    features: ScanFeatures, detectors: dict[str, Detector], backbones: list[str], peers: Sequence[str], progress: Progress
) -> dict[Key, Side]:
    """Scores of every scorer on every set."""
    assert features.reference is not None
    main = detectors[MAIN]
    table: dict[str, dict[Key, Vector]] = baseline_scores(
        features.reference.trivial,
        {key: value.trivial for key, value in features.sets.items()},
        lambda sets: progress.track(iter(sets), len(features.sets), "baselines"),
    )
    fitted = [(name, MAIN, fit_peer(name, main.bank)) for name in peers]
    for backbone in backbones:
        bank = features.reference.features[backbone].features
        fitted.append((f"{backbone}:nearest", backbone, nearest_to(bank)))
        fitted += [(f"{backbone}:{name}", backbone, fit_peer(name, bank)) for name in peers]
    for key, value in progress.track(iter(features.sets.items()), len(features.sets), "scoring"):
        for name in scores_of(value.features[MAIN]):
            table.setdefault(f"score:{name}", {})[key] = main.raw_scores(value.features[MAIN], name)
        table.setdefault(MAIN, {})[key] = main.raw_scores(value.features[MAIN])
        if OTHER in detectors:
            table.setdefault(OTHER, {})[key] = detectors[OTHER].raw_scores(value.features[OTHER])
        for name, embedder, score in fitted:
            table.setdefault(name, {})[key] = np.nan_to_num(score(value.features[embedder].features), nan=np.inf)
    order = [MAIN, *(f"score:{name}" for name in SCORES), OTHER, *BASELINES, *(name for name, _, _ in fitted)]
    return {
        key: Side({name: table[name][key] for name in order if name in table}, value.trivial, value.patients)
        for key, value in features.sets.items()
    }


def _pairs(scored: dict[Key, Side]) -> Iterator[tuple[str, str, Side, str, Side]]:
    """Pairs of sets to compare; ``same source`` pairs a near and an id_shift set whose names begin with the same word."""
    test = pool([value for (group, _), value in scored.items() if group == _TEST])
    shifted = {name: value for (group, name), value in scored.items() if group == _SHIFT}
    for group, name in sorted(scored):
        if group != _TEST:
            yield group, name, scored[group, name], "in_distribution test", test
    for group, name in sorted(scored):
        if group == _NEAR and shifted:
            yield "near vs id_shift", name, scored[group, name], "id_shift, pooled", pool(list(shifted.values()))
    for group, name in sorted(scored):
        for other, value in shifted.items():
            if group == _NEAR and name.split("_")[0] == other.split("_")[0]:
                yield "same source", name, scored[group, name], other, value


def _compare(kind: str, name: str, positives: Side, other: str, negatives: Side, repeats: int, seed: int) -> Comparison:
    draws = draw(positives.patients, negatives.patients, repeats, seed)
    both = {scorer: (positives.scores[scorer], negatives.scores[scorer]) for scorer in positives.scores}
    return Comparison(
        kind,
        name,
        other,
        len(positives.patients),
        len(negatives.patients),
        {scorer: separation(p, n, draws) for scorer, (p, n) in both.items()},
        shortcut(positives.trivial, negatives.trivial, positives.patients, negatives.patients),
        _differences(both, draws),
    )


def _differences(both: dict[str, tuple[Vector, Vector]], draws: Draws) -> dict[str, Difference]:
    return {name: difference(both[MAIN], both[name], draws) for name in ("pixel_knn", OTHER) if name in both}


def _decide(key: Key, scans: Set, scores: Vector, detector: Detector, repeats: int, seed: int) -> Decision:
    p = detector.calibration.p_values(scores, scans.strata)
    least = 1.0 / (min(detector.calibration.counts().values()) + 1)
    unknown = Figure(float("nan"), float("nan"), float("nan"))
    flagged = {rate: share(p <= rate, scans.patients, repeats, seed) if rate >= least else unknown for rate in RATES}
    return Decision(*key, len(p), flagged)
