"""The shortcut audit: how well facts unrelated to a scan's content separate one set from another.

If grey statistics or file facts alone separate two sets, the comparison measures the hospital and its imaging chain as much
as the disease; a detector's AUROC on it proves little.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medood.evaluation.baselines import Matrix, Trivial
from medood.evaluation.metrics import Vector

#: Number of cross-validation folds.
_FOLDS = 5


@dataclass(frozen=True)
class Shortcut:
    """Out-of-fold AUROC of a classifier trained to separate two sets by trivial features; 0.5 means no shortcut.

    Attributes:
        grey: from 10 grey statistics.
        file: from 4 file facts.
    """

    grey: float
    file: float


def shortcut(
    positives: Trivial, negatives: Trivial, positive_groups: npt.NDArray[np.str_], negative_groups: npt.NDArray[np.str_]
) -> Shortcut:
    """Train logistic regressions in 5 folds by patient; NaN if a side has fewer than 5 patients."""
    truth = np.r_[np.ones(len(positives.grey)), np.zeros(len(negatives.grey))]
    groups = np.r_[positive_groups, negative_groups]
    results = []
    for name in ("grey", "file"):
        rows = np.concatenate([getattr(positives, name), getattr(negatives, name)])
        results.append(_auroc(rows, truth, groups))
    return Shortcut(*results)


def grey_strata(
    positives: tuple[Vector, Trivial],
    negatives: tuple[Vector, Trivial],
    negative_groups: npt.NDArray[np.str_],
    count: int = 10,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divide the scans of two sets into strata of equal grey values, as far as these matter for a score.

    The strata are quantiles of what 10 grey statistics and sharpness predict of the score: a ridge regression fitted on the
    negatives, out of fold by patient. Within a stratum, a score that measures nothing but grey values separates nothing.

    Args:
        positives: scores ``[P]`` and trivial features of the out-of-distribution scans.
        negatives: scores ``[N]`` and trivial features of the in-distribution scans.
        negative_groups: ``[N]`` patients of the negatives.
        count: number of quantiles.

    Returns:
        the stratum of each positive and of each negative; all are in one stratum if there are fewer than 5 patients.

    Source: Hansen, Biometrika 95 (2008), on stratification by a prognostic score.
    """
    (scores, own), others = negatives, positives[1]
    rows, other_rows = (np.c_[side.grey, side.sharpness].astype(np.float64) for side in (own, others))
    predicted, other_predicted = np.zeros(len(rows)), np.zeros(len(other_rows))
    if len(np.unique(negative_groups)) >= _FOLDS:
        for fit, left_out in GroupKFold(_FOLDS).split(rows, groups=negative_groups):
            model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 3, 9))).fit(rows[fit], scores[fit])
            predicted[left_out] = model.predict(rows[left_out])
            other_predicted += model.predict(other_rows) / _FOLDS
    limits = np.quantile(np.r_[predicted, other_predicted], np.linspace(0, 1, count + 1)[1:-1])
    return np.searchsorted(limits, other_predicted, side="right"), np.searchsorted(limits, predicted, side="right")


def _auroc(rows: npt.NDArray[np.float32], truth: npt.NDArray[np.float64], groups: npt.NDArray[np.str_]) -> float:
    if min(len(np.unique(groups[truth == side])) for side in (0, 1)) < _FOLDS:
        return float("nan")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant feature
        predictions = cross_val_predict(classifier, rows, truth, groups=groups, cv=folds, method="decision_function")
    return float(roc_auc_score(truth, predictions))


class CommonHistogram:
    """Gives images the mean histogram of the scans it was shown, so that only the order of their grey values is left.

    Source: Gonzalez and Woods, Digital Image Processing, on histogram specification; pixels of one value stay of one value.
    """

    _LEVELS = np.linspace(0.0, 1.0, 257)

    def __init__(self) -> None:
        self._total, self._count = np.zeros(len(self._LEVELS)), 0

    def add(self, pixels: Matrix) -> None:
        """Add the quantiles of an ``[H, W]`` image to the mean."""
        self._total += np.quantile(pixels, self._LEVELS)
        self._count += 1

    def match(self, pixels: Matrix) -> Matrix:
        """The ``[H, W]`` image with the mean histogram."""
        _, inverse, counts = np.unique(pixels, return_inverse=True, return_counts=True)
        middle = (counts.cumsum() - 0.5 * counts) / pixels.size
        matched = np.interp(middle, self._LEVELS, self._total / max(self._count, 1))
        return np.asarray(matched[inverse].reshape(pixels.shape), dtype=np.float32)
