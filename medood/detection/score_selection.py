"""Choice of a detector's score on development scans only: training scans that the network did not learn from.

Rule: every shifting transformation except ``image_as_is`` and the lesions of the lesion network is applied to the
development scans; where mirrored scans are in distribution ``mirror`` is left out too, and in colour those made for
radiographs. The same scans with mild acquisition noise (noise, small rotations and blur of the positive views, uncropped)
represent in-distribution scans. Scores are compared by their mean AUROC over the transformations, equally weighted. Among
those within 0.005 of the best mean (about its standard error with 300 scans), the score with the highest AUROC on its worst
transformation is chosen: future outliers are unknown, so avoiding a blind spot matters more than a slightly better mean.
Calibration and test scans are not used.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Generator, Tensor

from medood.config.loader import GREY_SHIFTS
from medood.config.schema import ViewsConfig
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import Features, embed
from medood.detection.scores import Fitted, scores_of
from medood.distillation.views import acquire, crop, sample_view
from medood.negatives.mixture import LESIONS, SHIFTS, Mixture

#: Difference in mean AUROC up to which two scores count as equally good.
TOLERANCE = 0.005
#: AUROC by score and shift.
Reactions = dict[str, dict[str, float]]


def reactions(network: EnsembleNetwork, images: Tensor, views: ViewsConfig, seed: int) -> dict[str, Features]:
    """Features of development images with acquisition noise (``""``) and under each shift.

    Args:
        network: the teacher.
        images: float32 ``[N, 1, S, S]`` of the development scans.
        views: bounds of the acquisition noise.
        seed: seed of all random draws.
    """
    generator = Generator().manual_seed(seed)
    noise = sample_view(len(images), [1.0, 1.0], views, generator)
    rows = {"": embed(network, acquire(crop(images, noise, images.shape[-1]), noise))}
    left_out = {"image_as_is", *LESIONS}
    left_out |= {"mirror"} if views.mirror > 0 else set()
    left_out |= set(GREY_SHIFTS) if images.shape[1] == 3 else set()
    for name in (name for name in SHIFTS if name not in left_out):
        mixture = Mixture({name: 1.0})
        shifted = mixture.apply(images, mixture.sample(len(images), images.shape[-1], generator))
        rows[name] = embed(network, shifted)
    return rows


def separations(rows: dict[str, Features], bank: Tensor, fitted: dict[str, Fitted]) -> Reactions:
    """AUROC of each score for each shift, against the images without a shift."""
    aurocs: Reactions = {}
    for name, score in scores_of(rows[""]).items():
        values = {shift: score.score(shifted, bank, fitted[name]).double().numpy() for shift, shifted in rows.items()}
        plain = values.pop("")
        truth = {shift: np.r_[np.zeros(len(plain)), np.ones(len(value))] for shift, value in values.items()}
        aurocs[name] = {
            shift: float(roc_auc_score(truth[shift], np.nan_to_num(np.r_[plain, value], nan=1e30, posinf=1e30)))
            for shift, value in values.items()
        }
    return aurocs


def choose(aurocs: Reactions) -> str:
    """Name of the score chosen by the rule above; ties go to the first in ``aurocs``."""
    means = {name: float(np.mean(list(values.values()))) for name, values in aurocs.items()}
    level = [name for name in aurocs if means[name] >= max(means.values()) - TOLERANCE]
    return max(level, key=lambda name: min(aurocs[name].values()))


def reduce_bank(bank: Features, size: int, seed: int) -> Tensor:
    """Indices of at most ``size`` representative rows: the row nearest to each k-means centre (scikit-learn)."""
    from sklearn.cluster import MiniBatchKMeans

    from medood.detection.knn import nearest_rows

    if size >= len(bank):
        return torch.arange(len(bank))
    means = MiniBatchKMeans(size, random_state=seed, n_init=1).fit(bank.features.numpy()).cluster_centers_
    _, places = nearest_rows(torch.nn.functional.normalize(torch.from_numpy(means).float(), dim=1), bank.features, 1)
    return torch.from_numpy(np.unique(places.numpy()))


def rows_at(rows: Features, places: Tensor) -> Features:
    """The rows at the given indices."""
    optional = (rows.orientations, rows.members, rows.lesions, rows.rotation)
    more = [None if values is None else values[places] for values in optional]
    return Features(rows.features[places].contiguous(), rows.outputs[places].contiguous(), *more)
