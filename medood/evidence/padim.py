"""Maps of unusual places: distance of the features at each place from those of in-distribution scans at the same place.

PaDiM (Defard et al., 2021): one Gaussian per place over feature maps of several depths, and the Mahalanobis distance to it.
The map needs no gradient and is independent of the deciding score; it finds small and foreign objects that the score's own
map misses. ``medood check-maps`` measures both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.ensemble import EnsembleNetwork, center_crop
from medood.detection.whitening import whitening_factor
from medood.evidence.grad_cam import SMOOTHING, Maps

#: Maximum number of grid cells per side; number of channels kept over all depths.
_GRID, _CHANNELS = 12, 48
#: Largest number of scans to fit a Gaussian; more do not change it.
MAX_SCANS = 3000
#: Share of a place's mean variance that is added to its diagonal, so that few scans suffice.
_RIDGE = 0.01


def fit_places(network: EnsembleNetwork, training: Tensor, development: Tensor) -> dict[str, Tensor]:
    """Fit the distribution of features at each place.

    Args:
        network: the teacher.
        training: float32 ``[N, 1, S, S]`` images of scans that were learned from.
        development: likewise, of scans that were not.

    Returns:
        ``mean`` ``[L, d]`` and ``whitening`` ``[L, d, d]`` of the features at L places; ``center`` and ``spread`` ``[L]`` of
        the logarithm of the squared distance in development scans.
    """
    rows = _describe_places(network, training[:: -(-len(training) // MAX_SCANS)])
    mean = rows.mean(dim=0)
    covariance = torch.einsum("nld,nle->lde", rows - mean, rows - mean).double() / max(len(rows) - 1, 1)
    level = torch.diagonal(covariance, dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)
    covariance += (_RIDGE * level)[:, None, None] * torch.eye(rows.shape[2], dtype=torch.float64)
    whitening = whitening_factor(covariance).float()
    learned = {"mean": mean.half().float(), "whitening": whitening.half().float()}
    distances = _distances(_describe_places(network, development), learned)
    return learned | {"center": distances.mean(dim=0), "spread": distances.std(dim=0, correction=0).clamp(min=1e-6)}


def unusualness(detector: Detector, images: Tensor) -> Tensor:
    """How unusual each place is, ``[N, L]``, in row-major order: the logarithm of the squared distance, as a z-score
    relative to the development scans."""
    distances = _distances(_describe_places(detector.network, images), detector.places)
    return (distances - detector.places["center"]) / detector.places["spread"]


def place_maps(detector: Detector, images: Tensor) -> Maps:
    """Maps of how unusual each place of each image is.

    Args:
        detector: one with ``places``.
        images: float32 ``[N, 1, S, S]`` as the detector prepares them.

    Returns:
        float32 ``[N, S, S]``: :func:`unusualness` where it is above 0, smoothed, so that it fades out towards the
        area outside the detector's crops.
    """
    unusual, side = unusualness(detector, images), images.shape[-1]
    grid = round(unusual.shape[1] ** 0.5)
    inner = max(1, round(side * max(detector.preprocess.crops)))
    margin = (side - inner) // 2
    maps = functional.interpolate(unusual.view(-1, 1, grid, grid), (inner, inner), mode="bilinear")[:, 0].numpy()
    full_maps = np.zeros((len(images), side, side), dtype=np.float32)
    full_maps[:, margin : margin + inner, margin : margin + inner] = np.maximum(maps, 0.0)
    return np.asarray(gaussian_filter(full_maps, SMOOTHING * side, mode="constant", axes=(1, 2)), dtype=np.float32)


def normal_scale(maps: Maps) -> float:
    """The value drawn at full strength: 99 of 100 in-distribution scans stay below it everywhere.

    Args:
        maps: ``[n, h, w]`` maps of calibration scans.
    """
    scale = float(np.quantile(maps.reshape(len(maps), -1).max(axis=1), 0.99))
    return scale if np.isfinite(scale) and scale > 0 else 1.0


@torch.no_grad()
def _describe_places(network: EnsembleNetwork, images: Tensor, batch_size: int = 64) -> Tensor:
    """Features ``[N, L, d]`` at each place, from three depths before the last, resampled to one grid."""
    backbone: Any = network.backbone
    depth = len(backbone.feature_info)
    block_indices = sorted({max(0, round(depth * share) - 1) for share in (0.25, 0.5, 0.75)})
    parts = []
    for batch in torch.split(images, batch_size):
        normalised = center_crop(network.scaled(batch), max(network.crops)) - 0.5  # the largest crop contains the others
        maps = backbone.forward_intermediates(normalised / 0.25, indices=block_indices, intermediates_only=True)
        grid = min(_GRID, max(feature_map.shape[-1] for feature_map in maps))
        same = [_on_grid(feature_map.float(), grid) for feature_map in maps]
        parts.append(torch.cat(same, dim=1).flatten(2).transpose(1, 2))
    rows = torch.cat(parts)
    channels = torch.linspace(0, rows.shape[2] - 1, min(_CHANNELS, rows.shape[2])).round().long()
    return rows[:, :, channels]


def _on_grid(maps: Tensor, grid: int) -> Tensor:
    if maps.shape[-1] >= grid:
        return functional.adaptive_avg_pool2d(maps, grid)
    return functional.interpolate(maps, (grid, grid), mode="bilinear")


def _distances(rows: Tensor, learned: dict[str, Tensor]) -> Tensor:
    """Logarithm ``[N, L]`` of the squared Mahalanobis distance at each place."""
    whitened = torch.einsum("nld,lde->nle", rows - learned["mean"], learned["whitening"])
    return whitened.square().sum(dim=2).clamp(min=1e-12).log()
