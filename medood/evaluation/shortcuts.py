"""The shortcut audit: how well facts unrelated to a scan's content separate one set from another.

If grey statistics or file facts alone separate two sets, the comparison measures the hospital and its imaging chain as much
as the disease; a detector's AUROC on it proves little.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medood.evaluation.baselines import Trivial


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


def _auroc(rows: npt.NDArray[np.float32], truth: npt.NDArray[np.float64], groups: npt.NDArray[np.str_]) -> float:
    if min(len(np.unique(groups[truth == side])) for side in (0, 1)) < 5:
        return float("nan")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant feature
        predictions = cross_val_predict(classifier, rows, truth, groups=groups, cv=folds, method="decision_function")
    return float(roc_auc_score(truth, predictions))
