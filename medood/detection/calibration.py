"""Split-conformal p-values: what a score means, with a guarantee that needs no model of the scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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


def check_fpr(fpr: float, count: int) -> None:
    """Refuse a false-alarm rate that ``count`` calibration scans cannot reach.

    Raises:
        MedoodError: the rate is not in (0, 1), or below 1 / (count + 1).
    """
    if not 0.0 < fpr < 1.0:
        raise MedoodError(f"--fpr is {fpr:g}; expected a rate above 0 and below 1, such as 0.05.")
    if fpr < 1.0 / (count + 1):
        raise MedoodError(
            f"--fpr is {fpr:g}, but {count} calibration scans can state no rate below {1 / (count + 1):.2g}. "
            "Ask for a higher rate or calibrate with more scans."
        )


def threshold(calibration: Vector, fpr: float) -> float:
    """The least score whose p-value is at most ``fpr`` among the calibration scores, or infinity.

    A scan is flagged exactly where its score is above the returned value.
    """
    ordered = np.sort(np.asarray(calibration, dtype=np.float64))[::-1]
    allowed = int(np.floor(fpr * (len(ordered) + 1) + 1e-9)) - 1
    return float(ordered[allowed]) if 0 <= allowed < len(ordered) else float("inf")
