"""Tests on a whole archive: shift from the calibration scans, and drift over time. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """Result of a two-sample test.

    Attributes:
        statistic: squared maximum mean discrepancy; 0 if the samples are the same.
        p_value: share of relabelled samples that differ at least as much; small if the archive is shifted.
        archive: number of archive scans compared.
        reference: number of calibration scans compared.
    """

    statistic: float
    p_value: float
    archive: int
    reference: int


def mmd(archive: Matrix, reference: Matrix, *, permutations: int = 999, seed: int = 0) -> Shift | None:
    """Kernel two-sample test: maximum mean discrepancy with a Gaussian kernel and a permutation p-value.

    The kernel's width is the median distance between all rows of both samples. Scans of one patient are dependent, which
    makes the p-value too small; pass at most one scan per file.

    Args:
        archive: ``[N, D]`` features.
        reference: ``[M, D]`` features of calibration scans.
        permutations: number of relabellings; the smallest p-value is ``1 / (permutations + 1)``.
        seed: seed of the relabellings.

    Returns:
        the result, or None if a sample has fewer than 2 rows.

    Source: Gretton et al., A Kernel Two-Sample Test, JMLR 2012.
    """
    n, m = len(archive), len(reference)
    if min(n, m) < 2:
        return None
    both = np.concatenate([archive, reference])
    from scipy.spatial.distance import cdist

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
        correlation: Spearman correlation of acquisition month and p-value; negative if later scans fit less well.
        p_value: two-sided p-value of no correlation.
        scans: number of scans compared.
    """

    correlation: float
    p_value: float
    scans: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the correlation. Source: Bonett and Wright, Psychometrika 65, 2000."""
        if abs(self.correlation) >= 1.0:
            return self.correlation, self.correlation
        middle, half = math.atanh(self.correlation), 1.96 * math.sqrt((1 + self.correlation**2 / 2) / (self.scans - 3))
        return math.tanh(middle - half), math.tanh(middle + half)


def drift(months: list[str], p_values: list[float]) -> Drift | None:
    """Test whether later scans fit less well.

    Args:
        months: ``YYYY-MM`` of each scan.
        p_values: conformal p-value of each scan.

    Returns:
        the result, or None if there are fewer than 10 scans or 3 months, or all p-values are the same.
    """
    if len(months) < 10 or len(set(months)) < 3 or len(set(p_values)) < 2:
        return None
    _, order = np.unique(months, return_inverse=True)
    from scipy.stats import spearmanr

    result = spearmanr(order, p_values)
    return Drift(float(result.statistic), float(result.pvalue), len(months))
