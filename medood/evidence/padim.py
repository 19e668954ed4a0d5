"""Unusual places: how far what the network sees at each place lies from what it sees there in scans that belong.

PaDiM (Defard et al., 2021): one Gaussian a place over feature maps of several depths, and the Mahalanobis distance to it.
The map needs no gradient and knows nothing of the deciding score; it finds small and foreign things that the score's own map
misses. ``medood faithfulness`` measures both.
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
from medood.evidence.grad_cam import SMOOTHING, Maps

#: Cells of the grid a side, at most; channels kept of all depths together.
_GRID, _CHANNELS = 12, 48
#: Scans that a Gaussian is learned from, at most; more do not change it.
MOST_SCANS = 3000
#: Share of a place's mean variance that is added to its diagonal, so that few scans suffice.
_RIDGE = 0.01


def fit_places(network: EnsembleNetwork, training: Tensor, development: Tensor) -> dict[str, Tensor]:
    """Learn what belongs at each place.

    Args:
        network: the teacher.
        training: float32 ``[N, 1, S, S]`` pictures of scans that were learned from.
        development: the same of scans that were not.

    Returns:
        ``mean`` ``[L, d]`` and ``whitening`` ``[L, d, d]`` of the features at L places; ``center`` and ``spread`` ``[L]`` of
        the logarithm of the squared distance in development scans.
    """
    rows = _described(network, training[:: -(-len(training) // MOST_SCANS)])
    mean = rows.mean(dim=0)
    covariance = torch.einsum("nld,nle->lde", rows - mean, rows - mean).double() / max(len(rows) - 1, 1)
    level = torch.diagonal(covariance, dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)
    covariance += (_RIDGE * level)[:, None, None] * torch.eye(rows.shape[2], dtype=torch.float64)
    whitening = torch.linalg.cholesky(torch.linalg.inv(covariance)).float()
    learned = {"mean": mean.half().float(), "whitening": whitening.half().float()}
    distances = _distances(_described(network, development), learned)
    return learned | {"center": distances.mean(dim=0), "spread": distances.std(dim=0, correction=0).clamp(min=1e-6)}


def unusualness(detector: Detector, pictures: Tensor) -> Tensor:
    """How unusual each place is, ``[N, L]``, row by row: standard deviations of development scans by which the logarithm of
    the squared distance lies above their mean."""
    distances = _distances(_described(detector.network, pictures), detector.places)
    return (distances - detector.places["center"]) / detector.places["spread"]


def place_maps(detector: Detector, pictures: Tensor) -> Maps:
    """How unusual each place of each picture is, as a map.

    Args:
        detector: one with ``places``.
        pictures: float32 ``[N, 1, S, S]`` as the detector prepares them.

    Returns:
        float32 ``[N, S, S]``: :func:`unusualness` where it is above 0, smoothed, so that it fades towards what the detector
        does not look at.
    """
    unusual, side = unusualness(detector, pictures), pictures.shape[-1]
    grid = round(unusual.shape[1] ** 0.5)
    inner = max(1, round(side * max(detector.preprocess.crops)))
    margin = (side - inner) // 2
    maps = functional.interpolate(unusual.view(-1, 1, grid, grid), (inner, inner), mode="bilinear")[:, 0].numpy()
    whole = np.zeros((len(pictures), side, side), dtype=np.float32)
    whole[:, margin : margin + inner, margin : margin + inner] = np.maximum(maps, 0.0)
    return np.asarray(gaussian_filter(whole, SMOOTHING * side, mode="constant", axes=(1, 2)), dtype=np.float32)


def normal_scale(maps: Maps) -> float:
    """The value drawn at full strength: 99 of 100 in-distribution scans stay below it everywhere.

    Args:
        maps: ``[n, h, w]`` maps of calibration scans.
    """
    scale = float(np.quantile(maps.reshape(len(maps), -1).max(axis=1), 0.99))
    return scale if np.isfinite(scale) and scale > 0 else 1.0


@torch.no_grad()
def _described(network: EnsembleNetwork, pictures: Tensor, batch_size: int = 64) -> Tensor:
    """What the network sees at each place: ``[N, L, d]``, of three depths before the last, brought to one grid."""
    backbone: Any = network.backbone
    depth = len(backbone.feature_info)
    wanted = sorted({max(0, round(depth * share) - 1) for share in (0.25, 0.5, 0.75)})
    parts = []
    for batch in torch.split(pictures, batch_size):
        seen = center_crop(batch, max(network.crops)) - 0.5  # the largest crop holds the others
        maps = backbone.forward_intermediates(seen / 0.25, indices=wanted, intermediates_only=True)
        grid = min(_GRID, max(some.shape[-1] for some in maps))
        same = [_on_grid(some.float(), grid) for some in maps]
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
