"""Where the score that decides comes from: each of its parts laid out over the picture, as strong as it weighs in the score.

A score alone is laid out by Grad-CAM. The score ``ensemble`` is a sum, and each part is laid out by what explains it: the
network's head by Grad-CAM, the appearance model by the exact share that each place has in its squared distance. Its members'
heads have no map, nor has a head whose Grad-CAM is 0 everywhere: what no map shows is said in a figure instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from medood.detection.appearance import SIDE, Appearance
from medood.detection.conformal import threshold
from medood.detection.detector import Detector
from medood.detection.features import Features
from medood.detection.scores import Ensemble
from medood.evidence.grad_cam import SMOOTHING, Maps, grad_cam

Vector = npt.NDArray[np.float64]
#: The false-alarm rate whose limit is the unit of a map.
_RATE = 0.05
#: What is drawn at full strength. An even map of a score at the limit is 1 everywhere; a place that adds twelve times that
#: for its size stands out. Set on calibration films, more than 95 of 100 of which stay below it.
FULL_STRENGTH = 12.0


@dataclass(frozen=True)
class ScoreMaps:
    """Maps of the deciding score.

    Attributes:
        maps: float32 ``[N, S, S]``, at least 0: what each place adds to the score, per share of the area. The mean is how
            far the score lies above the median calibration score, so far as a map shows it; 1 is the distance from there to
            the limit at 5 % of false alarms.
        shown: ``[N]`` share of the score that the map shows, from 0 to 1.
    """

    maps: Maps
    shown: Vector


def score_maps(detector: Detector, pictures: Tensor) -> ScoreMaps:
    """Lay the deciding score of each picture out over it.

    Args:
        detector: one with a calibration.
        pictures: float32 ``[N, 1, S, S]`` as the detector prepares them.
    """
    rows = detector.embed(pictures)
    densities = [_density(grad_cam(detector, pictures))]
    weights = np.ones((len(pictures), 1))
    if detector.score_name == "ensemble":
        weights = _weights(detector, rows)
        if detector.network.appearance is not None:
            densities += [np.zeros_like(densities[0])] * len(detector.network.members)
            densities.append(_density(appearance_maps(detector.network.appearance, pictures)))
    excess = _excess(detector, detector.raw_scores(rows))
    maps, shown = np.zeros_like(densities[0]), np.zeros(len(pictures))
    for weight, density in zip(weights.T, densities, strict=False):
        maps += (weight * excess)[:, None, None].astype(np.float32) * density
        shown += weight * (density.max(axis=(1, 2)) > 0)
    return ScoreMaps(maps, shown)


def appearance_maps(appearance: Appearance, pictures: Tensor) -> Maps:
    """What each place adds to the squared distance of the appearance model, float32 ``[N, S, S]``, at least 0.

    The squared Mahalanobis distance of a registered film is a sum over its places: the difference from the average film
    there, times the difference weighed by the inverse covariance. Laid back where the frame lies in the film, and smoothed.

    Args:
        appearance: the model.
        pictures: float32 ``[N, 1, S, S]`` in [0, 1].
    """
    frames, difference = appearance.differences(pictures)
    added = difference * ((difference @ appearance.axes) @ appearance.axes.T)
    side = pictures.shape[-1]
    grid = affine_grid(_inverse(frames), [len(pictures), 1, side, side], align_corners=False)
    laid = grid_sample(added.view(-1, 1, SIDE, SIDE), grid, "bilinear", "zeros", align_corners=False)[:, 0].numpy()
    return np.asarray(np.maximum(gaussian_filter(laid, SMOOTHING * side, mode="constant", axes=(1, 2)), 0.0), np.float32)


def _inverse(frames: Tensor) -> Tensor:
    """The inverses ``[N, 2, 3]`` of affine matrices ``[N, 2, 3]``."""
    last = torch.tensor([0.0, 0.0, 1.0]).expand(len(frames), 1, 3)
    inverse: Tensor = torch.linalg.inv(torch.cat([frames, last], dim=1))[:, :2]
    return inverse


def _density(maps: Maps) -> Maps:
    """Maps of mean 1 each; one that is 0 everywhere stays so."""
    means = maps.mean(axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(maps, means, out=np.zeros_like(maps), where=means > 0), dtype=np.float32)


def _weights(detector: Detector, rows: Features) -> Vector:
    """The share ``[N, K]`` that each part of the ensemble has in what speaks against a scan."""
    against = Ensemble.parts(rows, detector.fitted["ensemble"]).double().clamp(min=0.0)
    return np.asarray((against / against.sum(dim=1, keepdim=True).clamp(min=1e-12)).numpy())


def _excess(detector: Detector, scores: Vector) -> Vector:
    """How far scores lie above the median of the calibration scores, in the distance from there to the limit; at least 0."""
    known = detector.calibration.scores[np.isfinite(detector.calibration.scores)]
    if not len(known):
        return np.zeros(len(scores))
    middle, limit = float(np.median(known)), threshold(known, _RATE)
    unit = limit - middle if np.isfinite(limit) and limit > middle else float(np.ptp(known)) or 1.0
    return np.where(np.isfinite(scores), np.maximum(scores - middle, 0.0) / unit, 0.0)
