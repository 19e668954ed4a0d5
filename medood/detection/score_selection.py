"""Which score a detector uses, chosen on development scans alone: training scans that the network did not learn from.

Rule. Every shifting transformation but ``image_as_is`` is applied to the development scans; those scans with mild
acquisition noise (the noise, small turns and blur of the positive views, uncropped) stand for what belongs. Scores are
compared by their mean AUROC over the transformations, each weighing the same. Of those within 0.005 of the best mean (about
its standard error with 300 scans) the one whose worst transformation is highest is taken: what will come is not known, so
no blind spot counts more than a slightly better mean. Calibration and test scans play no part.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Generator, Tensor

from medood.config.schema import ViewsConfig
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import Features, embed
from medood.detection.scores import Fitted, scores_of
from medood.distillation.views import acquire, crop, sample_view
from medood.negatives.mixture import SHIFTS, Mixture

#: Mean AUROC by which two scores are taken for equally good.
TOLERANCE = 0.005
#: AUROC by score and shift.
Reactions = dict[str, dict[str, float]]


def reactions(network: EnsembleNetwork, pictures: Tensor, views: ViewsConfig, seed: int) -> dict[str, Features]:
    """Rows of development pictures as they may come (``""``) and under each shift.

    Args:
        network: the teacher.
        pictures: float32 ``[N, 1, S, S]`` of the development scans.
        views: bounds of the acquisition noise.
        seed: of everything drawn.
    """
    generator = Generator().manual_seed(seed)
    noise = sample_view(len(pictures), [1.0, 1.0], views, generator)
    rows = {"": embed(network, acquire(crop(pictures, noise, pictures.shape[-1]), noise))}
    for name in SHIFTS:
        if name != "image_as_is":
            mixture = Mixture({name: 1.0})
            shifted = mixture.apply(pictures, mixture.sample(len(pictures), pictures.shape[-1], generator))
            rows[name] = embed(network, shifted)
    return rows


def separations(rows: dict[str, Features], bank: Tensor, fitted: dict[str, Fitted]) -> Reactions:
    """AUROC of each score between the rows under a shift and those without."""
    found: Reactions = {}
    for name, score in scores_of(rows[""]).items():
        values = {shift: score.score(some, bank, fitted[name]).double().numpy() for shift, some in rows.items()}
        plain = values.pop("")
        truth = {shift: np.r_[np.zeros(len(plain)), np.ones(len(value))] for shift, value in values.items()}
        found[name] = {
            shift: float(roc_auc_score(truth[shift], np.nan_to_num(np.r_[plain, value], nan=1e30, posinf=1e30)))
            for shift, value in values.items()
        }
    return found


def choose(found: Reactions) -> str:
    """The score, by the rule above; of equal ones the first in ``found``."""
    means = {name: float(np.mean(list(values.values()))) for name, values in found.items()}
    level = [name for name in found if means[name] >= max(means.values()) - TOLERANCE]
    return max(level, key=lambda name: min(found[name].values()))


def reduce_bank(bank: Features, size: int, seed: int) -> Tensor:
    """Places of at most ``size`` rows that stand for all: the row nearest to each centre of k-means (scikit-learn)."""
    from sklearn.cluster import MiniBatchKMeans

    from medood.detection.knn import nearest_rows

    if size >= len(bank):
        return torch.arange(len(bank))
    means = MiniBatchKMeans(size, random_state=seed, n_init=1).fit(bank.features.numpy()).cluster_centers_
    _, places = nearest_rows(torch.nn.functional.normalize(torch.from_numpy(means).float(), dim=1), bank.features, 1)
    return torch.from_numpy(np.unique(places.numpy()))


def rows_at(rows: Features, places: Tensor) -> Features:
    """Some of the rows."""
    turned, members = (None if some is None else some[places] for some in (rows.turned, rows.members))
    return Features(rows.features[places].contiguous(), rows.outputs[places].contiguous(), turned, members)
