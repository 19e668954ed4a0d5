"""What a score means: split-conformal p-values, with a guarantee that needs no model of the scores. Pure functions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, false_discovery_control

from medood.errors import MedoodError

Vector = npt.NDArray[np.float64]


def p_values(scores: Vector, calibration: Vector) -> Vector:
    """``(1 + #{calibration >= score}) / (n + 1)``; at most ``fpr`` with probability at most ``fpr`` on exchangeable scans.

    Args:
        scores: ``[N]``, higher is more out-of-distribution.
        calibration: ``[n]`` scores of in-distribution scans that chose nothing.

    Returns:
        ``[N]`` in [1 / (n + 1), 1]; a tie counts against the scan being out-of-distribution.

    Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005); Bates et al., 2023.
    """
    ordered = np.sort(np.asarray(calibration, dtype=np.float64))
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(scores, dtype=np.float64), side="left")
    return np.asarray((1.0 + at_least) / (len(ordered) + 1.0))


def check_rate(rate: float, count: int, option: str = "--fpr") -> None:
    """Refuse a rate that ``count`` calibration scans cannot reach.

    Raises:
        MedoodError: the rate is not in (0, 1), or below 1 / (count + 1).
    """
    if not 0.0 < rate < 1.0:
        raise MedoodError(f"{option} is {rate:g}; expected a rate above 0 and below 1, such as 0.05 for 5 %.")
    if option == "--fpr" and rate < 1.0 / (count + 1):
        raise MedoodError(
            f"--fpr is {rate:g}, but {count} calibration scans can state no rate below {1 / (count + 1):.2g}. "
            "Ask for a higher rate or calibrate with more scans."
        )


def allowed(count: int, fpr: float) -> int:
    """How many of ``count`` calibration scans may score at least as high as a scan that is flagged, itself counted."""
    return int(np.floor(fpr * (count + 1) + 1e-9))


def threshold(calibration: Vector, fpr: float) -> float:
    """The least score whose p-value is at most ``fpr`` among the calibration scores, or infinity.

    A scan is flagged exactly where its score is above the returned value.
    """
    ordered = np.sort(np.asarray(calibration, dtype=np.float64))[::-1]
    last = allowed(len(ordered), fpr) - 1
    return float(ordered[last]) if 0 <= last < len(ordered) else float("inf")


def true_rate(count: int, fpr: float, confidence: float = 0.9) -> tuple[float, float]:
    """How far the true false-alarm rate of *this* calibration may lie from the one asked for.

    The guarantee of the p-values is an average over calibrations. Given one, the rate is distributed as
    ``Beta(k, n + 1 - k)`` with ``k = floor(fpr (n + 1))``, whatever the scores' distribution (continuous; ties lower it).

    Args:
        count: n, calibration scans.
        fpr: the rate asked for.
        confidence: probability of the interval.

    Returns:
        its ends.

    Source: Vovk, Conditional validity of inductive conformal predictors, 2012.
    """
    k = allowed(count, fpr)
    if k == 0:
        return 0.0, 0.0
    tail = (1.0 - confidence) / 2.0
    return float(beta.ppf(tail, k, count + 1 - k)), float(beta.ppf(1.0 - tail, k, count + 1 - k))


def flagged_at_fdr(p: Vector, fdr: float) -> npt.NDArray[np.bool_]:
    """Which scans Benjamini and Hochberg's procedure flags: of them, at most ``fdr`` belong, on average.

    Conformal p-values that share a calibration set depend on each other positively, for which the procedure still holds.

    Args:
        p: ``[N]`` p-values of all scored scans of an archive.
        fdr: the false-discovery rate, in (0, 1).

    Source: Benjamini and Hochberg, 1995; Bates et al., Testing for outliers with conformal p-values, 2023.
    """
    if not len(p):
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(false_discovery_control(p, method="bh") <= fdr * (1.0 + 1e-12))


def reachable(scans: int, count: int, fdr: float) -> int:
    """The least number of scans that ``flagged_at_fdr`` can flag among ``scans``, given ``count`` calibration scans.

    The smallest p-value is ``1 / (count + 1)``; k of them are flagged together where ``k fdr / scans`` reaches it.
    """
    return int(np.ceil(scans / (fdr * (count + 1)) - 1e-9))
