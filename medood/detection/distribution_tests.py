"""Tests on an archive as a whole: is it shifted from the calibration scans, and does it drift with time. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """Result of a two-sample test.

    Attributes:
        statistic: squared maximum mean discrepancy; 0 where the samples are the same.
        p_value: how often relabelled samples differ at least as much; small when the archive is shifted.
        archive: scans of the archive that were compared.
        reference: calibration scans that were compared.
    """

    statistic: float
    p_value: float
    archive: int
    reference: int


def mmd(archive: Matrix, reference: Matrix, *, permutations: int = 999, seed: int = 0) -> Shift | None:
    """Kernel two-sample test: maximum mean discrepancy with a Gaussian kernel, its p-value by relabelling.

    The kernel's width is the median distance between all rows, labels unseen. Scans of one patient depend on each other,
    which makes the p-value too small; give one scan a file at most.

    Args:
        archive: ``[N, D]`` features.
        reference: ``[M, D]`` features of calibration scans.
        permutations: relabellings; the least p-value is ``1 / (permutations + 1)``.
        seed: of the relabellings.

    Returns:
        the result; none where a side has fewer than 2 rows.

    Source: Gretton et al., A Kernel Two-Sample Test, JMLR 2012.
    """
    n, m = len(archive), len(reference)
    if min(n, m) < 2:
        return None
    both = np.concatenate([archive, reference])
    squared = cdist(both, both, "sqeuclidean")
    width = float(np.median(squared[np.triu_indices(n + m, 1)]))
    kernel = np.exp(-squared / max(width, 1e-12))
    weights = np.r_[np.full(n, 1.0 / n), np.full(m, -1.0 / m)]
    rng = np.random.default_rng(seed)
    relabelled = np.stack([weights, *(rng.permutation(weights) for _ in range(permutations))])
    values = ((relabelled @ kernel) * relabelled).sum(axis=1)
    as_large = int((values[1:] >= values[0] - 1e-12).sum())
    return Shift(max(float(values[0]), 0.0), (1 + as_large) / (permutations + 1), n, m)


@dataclass(frozen=True)
class Drift:
    """Result of a test for a trend over time.

    Attributes:
        correlation: Spearman's, of acquisition month and p-value; negative where later scans belong less.
        p_value: of no correlation, two-sided.
        scans: how many were compared.
    """

    correlation: float
    p_value: float
    scans: int


def drift(months: list[str], p_values: list[float]) -> Drift | None:
    """Do later scans fit less well?

    Args:
        months: ``YYYY-MM`` of each scan.
        p_values: their conformal p-values.

    Returns:
        the result; none where there are fewer than 10 scans, fewer than 3 months, or all p-values are the same.
    """
    if len(months) < 10 or len(set(months)) < 3 or len(set(p_values)) < 2:
        return None
    _, order = np.unique(months, return_inverse=True)
    result = spearmanr(order, p_values)
    return Drift(float(result.statistic), float(result.pvalue), len(months))
