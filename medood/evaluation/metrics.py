"""Figures of separation, positives being out of distribution, with bootstrap intervals by patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Separation:
    """How well a score tells positives from negatives.

    Attributes:
        auroc: area under the ROC curve.
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
        aupr: average precision, positives out of distribution; its chance level is the share of positives.
        fpr95: share of negatives flagged where 95 % of the positives are.
    """

    auroc: float
    low: float
    high: float
    aupr: float
    fpr95: float


def separation(
    positives: Vector,
    negatives: Vector,
    *,
    positive_groups: npt.NDArray[np.str_] | None = None,
    negative_groups: npt.NDArray[np.str_] | None = None,
    repeats: int = 1000,
    seed: int = 0,
) -> Separation:
    """Compute every figure.

    Args:
        positives: ``[P]`` scores of out-of-distribution scans.
        negatives: ``[N]`` scores of in-distribution scans.
        positive_groups: ``[P]`` patients; whole patients are drawn by the bootstrap. None: every scan for itself.
        negative_groups: ``[N]`` likewise.
        repeats: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        ValueError: a side is empty.
    """
    if not len(positives) or not len(negatives):
        raise ValueError("a separation needs scans on both sides")
    truth = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
    scores = np.r_[positives, negatives]
    flagged, caught, _ = roc_curve(truth, scores, drop_intermediate=False)
    low, high = _interval(positives, negatives, positive_groups, negative_groups, repeats, seed)
    return Separation(
        float(roc_auc_score(truth, scores)),
        low,
        high,
        float(average_precision_score(truth, scores)),
        float(flagged[np.argmax(caught >= 0.95)]),
    )


def _interval(
    positives: Vector,
    negatives: Vector,
    positive_groups: npt.NDArray[np.str_] | None,
    negative_groups: npt.NDArray[np.str_] | None,
    repeats: int,
    seed: int,
) -> tuple[float, float]:
    """Percentile bootstrap; a draw is a count for each scan, so that scores are sorted only once."""
    rng = np.random.default_rng(seed)
    values, place = np.unique(np.r_[positives, negatives], return_inverse=True)
    positive_place, negative_place = place[: len(positives)], place[len(positives) :]
    draws = np.empty(repeats)
    for i in range(repeats):
        p = np.bincount(positive_place, _counts(rng, len(positives), positive_groups), len(values))
        n = np.bincount(negative_place, _counts(rng, len(negatives), negative_groups), len(values))
        below = np.cumsum(n) - 0.5 * n
        draws[i] = (p * below).sum() / (p.sum() * n.sum())
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _counts(rng: np.random.Generator, size: int, groups: npt.NDArray[np.str_] | None) -> Vector:
    """How often each scan is drawn when whole groups are drawn with replacement."""
    if groups is None:
        return rng.multinomial(size, np.full(size, 1.0 / size)).astype(np.float64)
    _, member = np.unique(groups, return_inverse=True)
    number = int(member.max()) + 1
    return np.asarray(rng.multinomial(number, np.full(number, 1.0 / number))[member], dtype=np.float64)
