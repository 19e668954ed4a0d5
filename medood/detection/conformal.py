"""Split-conformal p-values of scores, with a guarantee that needs no model of the scores. Pure functions."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from medood.errors import MedoodError

Vector = npt.NDArray[np.float64]


class Decision(StrEnum):
    """The decision on a scan at the stated rate."""

    IN_DISTRIBUTION = "in_distribution"
    OUT_OF_DISTRIBUTION = "out_of_distribution"


def p_values(scores: Vector, calibration: Vector) -> Vector:
    """Conformal p-values ``(1 + #{calibration >= score}) / (n + 1)``; for exchangeable scans, P(p <= fpr) <= fpr.

    Args:
        scores: ``[N]``, higher is more out-of-distribution.
        calibration: ``[n]`` scores of held-out in-distribution scans.

    Returns:
        ``[N]`` in [1 / (n + 1), 1]; a tie counts against the scan being out-of-distribution.

    Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005); Bates et al., 2023.
    """
    ordered = np.sort(np.asarray(calibration, dtype=np.float64))
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(scores, dtype=np.float64), side="left")
    return np.asarray((1.0 + at_least) / (len(ordered) + 1.0))


def check_rate(rate: float, count: int | None = None, option: str = "--fpr") -> None:
    """Reject a rate that is too low for ``count`` calibration scans, if their number is given.

    Raises:
        MedoodError: the rate is not in (0, 1), or below 1 / (count + 1).
    """
    if not 0.0 < rate < 1.0:
        raise MedoodError(f"{option} is {rate:g}; expected a rate above 0 and below 1, such as 0.05 for 5 %.")
    if option == "--fpr" and count is not None and rate < 1.0 / (count + 1):
        raise MedoodError(
            f"--fpr is {rate:g}, but {count} calibration scans support no rate below {1 / (count + 1):.2g}. "
            "Choose a higher rate or calibrate with more scans."
        )


def allowed_count(count: int, fpr: float) -> int:
    """Lowest rank from the top, ``floor(fpr (count + 1))``, at which a scan is flagged among ``count`` calibration scans."""
    return int(np.floor(fpr * (count + 1) + 1e-9))


def threshold(calibration: Vector, fpr: float) -> float:
    """Score threshold at false-alarm rate ``fpr``: one of the calibration scores, or infinity.

    A scan is flagged if and only if its score is above the threshold.
    """
    ordered = np.sort(np.asarray(calibration, dtype=np.float64))[::-1]
    last = allowed_count(len(ordered), fpr) - 1
    return float(ordered[last]) if 0 <= last < len(ordered) else float("inf")


def fpr_interval(count: int, fpr: float, confidence: float = 0.9) -> tuple[float, float]:
    """Interval for the true false-alarm rate of *one* calibration set at the nominal rate ``fpr``.

    The guarantee of the p-values is an average over calibration sets. For a given set, the rate follows
    ``Beta(k, n + 1 - k)`` with ``k = floor(fpr (n + 1))`` for any continuous distribution of the scores; ties lower it.

    Args:
        count: n, number of calibration scans.
        fpr: nominal rate.
        confidence: coverage of the interval.

    Returns:
        its lower and upper end.

    Source: Vovk, Conditional validity of inductive conformal predictors, 2012.
    """
    k = allowed_count(count, fpr)
    if k == 0:
        return 0.0, 0.0
    tail = (1.0 - confidence) / 2.0
    from scipy.stats import beta  # here, because it takes longer to import than most commands take to fail

    return float(beta.ppf(tail, k, count + 1 - k)), float(beta.ppf(1.0 - tail, k, count + 1 - k))


def flagged_at_fdr(p: Vector, fdr: float) -> npt.NDArray[np.bool_]:
    """Scans flagged by the Benjamini-Hochberg procedure; on average, at most ``fdr`` of them are in-distribution.

    Conformal p-values that share a calibration set are positively dependent; the procedure remains valid for them.

    Args:
        p: ``[N]`` p-values of all scored scans of an archive.
        fdr: the false-discovery rate, in (0, 1).

    Source: Benjamini and Hochberg, 1995; Bates et al., Testing for outliers with conformal p-values, 2023.
    """
    if not len(p):
        return np.zeros(0, dtype=np.bool_)
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p, method="bh") <= fdr * (1.0 + 1e-12))


def reachable(scans: int, count: int, fdr: float) -> int:
    """Smallest non-zero number of scans that ``flagged_at_fdr`` can flag among ``scans``, with ``count`` calibration scans.

    The smallest p-value is ``1 / (count + 1)``; k such scans are flagged together once ``k fdr / scans`` reaches it.
    """
    return int(np.ceil(scans / (fdr * (count + 1)) - 1e-9))
