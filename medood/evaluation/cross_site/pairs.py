"""Disease against normal scans of one source with the grey values held equal; severity; healthy scans of other sources."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from medood.evaluation.metrics import Figure, Groups, Vector, auroc, auroc_within, bootstrap_figure, draw, share
from medood.evaluation.shortcuts import grey_strata
from medood.evaluation.sides import Side

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PairFigures:
    """A score on the normal and the disease scans of one source.

    Attributes:
        pair: name of the pair.
        disease: number of disease scans.
        normal: number of normal scans.
        scorer: name of the score.
        auroc: as the scans are.
        within_grey: AUROC over pairs of scans with equal grey values, see
            :func:`medood.evaluation.shortcuts.grey_strata`.
        matched: AUROC after all scans were given one histogram.
        disease_flagged: share of the disease scans flagged, by false-alarm rate; empty for a score that does not decide.
        normal_flagged: share of the normal scans flagged, likewise.
    """

    pair: str
    disease: int
    normal: int
    scorer: str
    auroc: Figure
    within_grey: Figure
    matched: Figure
    disease_flagged: dict[float, Figure]
    normal_flagged: dict[float, Figure]


@dataclass(frozen=True)
class SourceFigures:
    """A score on the healthy scans of another source.

    Attributes:
        dataset: name of the data set.
        scans: number of scans.
        scorer: name of the score.
        auroc: against the in-distribution test scans; 0.5 is wanted.
        flagged: share flagged, by false-alarm rate; empty for a score that does not decide.
    """

    dataset: str
    scans: int
    scorer: str
    auroc: Figure
    flagged: dict[float, Figure]


@dataclass(frozen=True)
class SeverityFigures:
    """Rank correlation of a score with the severity that the manifest states.

    Attributes:
        dataset: name of the data set.
        scans: number of scans with a severity.
        scorer: name of the score.
        spearman: Spearman's rho, with an interval by patient.
    """

    dataset: str
    scans: int
    scorer: str
    spearman: Figure


def compare_pair(
    name: str,
    disease: Side,
    normal: Side,
    matched: tuple[Side, Side],
    flagged: dict[str, tuple[dict[float, Mask], dict[float, Mask]]],
    repeats: int,
    seed: int,
) -> list[PairFigures]:
    """Compare the disease and the normal scans of one source by every score of the copies.

    Args:
        name: name of the pair.
        disease: the disease scans.
        normal: the normal scans.
        matched: the same with matched histograms, of the deciding scores and their parts.
        flagged: which disease and normal scans are flagged at each rate, by scorer.
        repeats: bootstrap draws.
        seed: seed of the bootstrap.
    """
    draws = draw(disease.patients, normal.patients, repeats, seed)
    figures = []
    for scorer in matched[0].scores:
        scores = disease.scores[scorer], normal.scores[scorer]
        matched_scores = matched[0].scores[scorer], matched[1].scores[scorer]
        strata = grey_strata((scores[0], disease.trivial), (scores[1], normal.trivial), normal.patients)
        masks = flagged.get(scorer, ({}, {}))
        shares = [
            {rate: share(mask, side.patients, repeats, seed) for rate, mask in by_rate.items()}
            for by_rate, side in zip(masks, (disease, normal), strict=True)
        ]
        figures.append(
            PairFigures(
                name,
                len(disease.patients),
                len(normal.patients),
                scorer,
                auroc(*scores, draws),
                auroc_within(*scores, *strata, draws),
                auroc(*matched_scores, draws),
                shares[0],
                shares[1],
            )
        )
    return figures


def severity_correlation(scores: Vector, severity: Vector, patients: Groups, repeats: int, seed: int) -> Figure:
    """Spearman's rho of ``[N]`` scores and severities, with a bootstrap interval by patient."""
    names, member = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(member == i) for i in range(len(names))]
    samples = [np.arange(len(scores))]
    samples += [np.concatenate([rows[i] for i in rng.integers(len(names), size=len(names))]) for _ in range(repeats)]
    drawn = np.array([spearmanr(scores[chosen], severity[chosen]).statistic for chosen in samples])
    return bootstrap_figure(drawn, len(names))
