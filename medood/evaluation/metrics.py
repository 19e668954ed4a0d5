"""Separation metrics, with out-of-distribution scans as positives and bootstrap intervals by patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import binomtest

Vector = npt.NDArray[np.float64]
Groups = npt.NDArray[np.str_]

#: Minimum number of patients per side for a meaningful interval; with fewer, its ends are NaN.
FEWEST = 5
#: Bootstrap draws processed at once.
_CHUNK = 250


@dataclass(frozen=True)
class Figure:
    """One figure with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Separation:
    """How well a score separates positives from negatives.

    Attributes:
        auroc: area under the ROC curve.
        aupr: average precision, positives out of distribution; its chance level is the share of positives.
        fpr95: share of negatives flagged when at least 95 % of the positives are.
        detected_at_1: share of positives flagged when at most 1 % of the negatives are.
        detected_at_5: likewise, at most 5 %.
    """

    auroc: Figure
    aupr: Figure
    fpr95: Figure
    detected_at_1: Figure
    detected_at_5: Figure


#: The figures by name, in the order of their columns.
FIGURES = ("auroc", "aupr", "fpr95", "detected_at_1", "detected_at_5")


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws of two sides: how often each scan is drawn. Scores on the same draws are paired.

    Attributes:
        positives: ``[R, P]``; the first draw is the sample itself.
        negatives: ``[R, N]``.
        patients: number of patients on the smaller side; an interval needs ``FEWEST``.
    """

    positives: npt.NDArray[np.int32]
    negatives: npt.NDArray[np.int32]
    patients: int


def draw(positives: Groups, negatives: Groups, repeats: int, seed: int) -> Draws:
    """Draw whole patients with replacement, stratified into patients on one side, on the other, and on both.

    Args:
        positives: ``[P]`` patients of the positives.
        negatives: ``[N]`` patients of the negatives.
        repeats: number of bootstrap draws.
        seed: seed of the draws.

    Raises:
        ValueError: a side is empty.
    """
    if not len(positives) or not len(negatives):
        raise ValueError("a separation needs scans on both sides")
    rng = np.random.default_rng(seed)
    names, member = np.unique(np.r_[positives, negatives], return_inverse=True)
    on_left, on_right = np.isin(names, positives), np.isin(names, negatives)
    counts = np.ones((repeats + 1, len(names)), dtype=np.int32)
    for chosen in (on_left & ~on_right, on_right & ~on_left, on_left & on_right):
        number = int(chosen.sum())
        if number:
            counts[1:, chosen] = rng.multinomial(number, np.full(number, 1.0 / number), size=repeats)
    fewest = min(int(on_left.sum()), int(on_right.sum()))
    return Draws(counts[:, member[: len(positives)]], counts[:, member[len(positives) :]], fewest)


def separation(positives: Vector, negatives: Vector, draws: Draws) -> Separation:
    """Compute every figure.

    Args:
        positives: ``[P]`` scores of out-of-distribution scans; infinity is allowed.
        negatives: ``[N]`` scores of in-distribution scans.
        draws: bootstrap draws of the same scans.
    """
    values = draw_statistics(positives, negatives, draws)
    return Separation(*(bootstrap_figure(values[:, i], draws.patients) for i in range(len(FIGURES))))


def draw_statistics(positives: Vector, negatives: Vector, draws: Draws) -> Vector:
    """Every figure for every draw: ``[R, 5]``, in the order of ``FIGURES``."""
    return np.concatenate(
        [
            _figures(positives, negatives, draws.positives[start : start + _CHUNK], draws.negatives[start : start + _CHUNK])
            for start in range(0, len(draws.positives), _CHUNK)
        ]
    )


@dataclass(frozen=True)
class Difference:
    """AUROC of one score minus that of another on the same draws.

    Attributes:
        auroc: the difference with its 95 % interval.
        p_value: two-sided bootstrap p-value of no difference; at least ``2 / (repeats + 1)``.
    """

    auroc: Figure
    p_value: float


def difference(first: tuple[Vector, Vector], second: tuple[Vector, Vector], draws: Draws) -> Difference:
    """Paired bootstrap of the AUROC difference; each side is (positives, negatives) of the same scans in the same order."""
    gap = draw_statistics(*first, draws)[:, 0] - draw_statistics(*second, draws)[:, 0]
    repeats = len(gap) - 1
    tail = min((gap[1:] <= 0).sum(), (gap[1:] >= 0).sum())
    return Difference(bootstrap_figure(gap, draws.patients), float(min(1.0, 2.0 * (tail + 1) / (repeats + 1))))


def auroc(positives: Vector, negatives: Vector, draws: Draws) -> Figure:
    """The AUROC of ``[P]`` and ``[N]`` scores, without the other figures of :func:`separation`."""
    strata = [np.zeros(len(scores), dtype=np.int64) for scores in (positives, negatives)]
    return auroc_within(positives, negatives, strata[0], strata[1], draws)


def auroc_within(
    positives: Vector,
    negatives: Vector,
    positive_strata: npt.NDArray[np.int64],
    negative_strata: npt.NDArray[np.int64],
    draws: Draws,
) -> Figure:
    """The AUROC over pairs of the same stratum only, which what defines the strata cannot explain.

    Args:
        positives: ``[P]`` scores of out-of-distribution scans.
        negatives: ``[N]`` scores of in-distribution scans.
        positive_strata: ``[P]`` strata of the positives.
        negative_strata: ``[N]`` strata of the negatives.
        draws: bootstrap draws of the same scans.

    Returns:
        the share of such pairs in which the positive has the higher score, ties counted as half; NaN if there is no pair.

    Source: Janes and Pepe, Biometrika 96 (2009), the covariate-adjusted ROC curve.
    """
    won, total = np.zeros(len(draws.positives)), np.zeros(len(draws.positives))
    for stratum in np.intersect1d(positive_strata, negative_strata):
        p, n = positive_strata == stratum, negative_strata == stratum
        order = np.sort(negatives[n])
        ranks = np.argsort(negatives[n], kind="stable")
        counts_p, counts_n = draws.positives[:, p].astype(float), draws.negatives[:, n].astype(float)
        below = np.concatenate([np.zeros((len(counts_n), 1)), counts_n[:, ranks].cumsum(axis=1)], axis=1)
        left, right = (np.searchsorted(order, positives[p], side=side) for side in ("left", "right"))
        won += (counts_p * 0.5 * (below[:, left] + below[:, right])).sum(axis=1)
        total += counts_p.sum(axis=1) * counts_n.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return bootstrap_figure(won / total, draws.patients)


def share(chosen: npt.NDArray[np.bool_], groups: Groups, repeats: int, seed: int) -> Figure:
    """Share of ``[N]`` scans that are chosen, with an interval from bootstrapping whole groups.

    Where none or all are chosen, which no resampling can vary, it is Wilson's interval for as many trials as groups.
    """
    if chosen.all() or not chosen.any():
        number = len(np.unique(groups))
        if number < FEWEST:
            return Figure(float(chosen.mean()), float("nan"), float("nan"))
        interval = binomtest(number if chosen.all() else 0, number).proportion_ci(method="wilson")
        return Figure(float(chosen.mean()), float(interval.low), float(interval.high))
    return mean(chosen.astype(np.float64), groups, repeats, seed)


def mean(values: Vector, groups: Groups, repeats: int, seed: int) -> Figure:
    """Mean of ``[N]`` values, with an interval from bootstrapping whole groups."""
    rng = np.random.default_rng(seed)
    _, member = np.unique(groups, return_inverse=True)
    number = int(member.max()) + 1
    counts = rng.multinomial(number, np.full(number, 1.0 / number), size=repeats)[:, member]
    means = counts @ values / counts.sum(axis=1)
    return bootstrap_figure(np.r_[values.mean(), means], number)


def bootstrap_figure(values: Vector, patients: int) -> Figure:
    """The sample's own value (the first one), with the percentile interval of the draws.

    Args:
        values: ``[1 + R]``.
        patients: number of patients; there is no interval with fewer than ``FEWEST``.
    """
    if patients < FEWEST or np.isnan(values[0]):
        return Figure(float(values[0]), float("nan"), float("nan"))
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Figure(float(values[0]), float(low), float(high))


def _figures(positives: Vector, negatives: Vector, drawn_p: npt.NDArray[np.int32], drawn_n: npt.NDArray[np.int32]) -> Vector:
    """Figures of ``[R]`` draws, from counts at each distinct score in descending order."""
    distinct, place = np.unique(-np.r_[positives, negatives], return_inverse=True)
    p = _gather(drawn_p, place[: len(positives)], len(distinct))
    n = _gather(drawn_n, place[len(positives) :], len(distinct))
    caught, alarms = p.cumsum(axis=1), n.cumsum(axis=1)
    total_p, total_n = caught[:, -1:], alarms[:, -1:]
    area = (p * (total_n - alarms + 0.5 * n)).sum(axis=1) / (total_p * total_n)[:, 0]
    precision = (p * caught / np.maximum(caught + alarms, 1)).sum(axis=1) / total_p[:, 0]
    caught, alarms = caught / total_p, alarms / total_n
    rows = np.arange(len(p))
    at_95 = alarms[rows, (caught >= 0.95 - 1e-12).argmax(axis=1)]
    detected = [np.where(alarms <= rate + 1e-12, caught, 0.0).max(axis=1) for rate in (0.01, 0.05)]
    return np.stack([area, precision, at_95, *detected], axis=1)


def _gather(counts: npt.NDArray[np.int32], place: npt.NDArray[np.int64], size: int) -> Vector:
    """Counts of scans, summed at each distinct score."""
    where = csr_array((np.ones(len(place)), (place, np.arange(len(place)))), shape=(size, len(place)))
    return np.ascontiguousarray((where @ counts.T.astype(np.float64)).T)
