"""Operators that ONNX runtimes lack, do slowly or do otherwise, in terms of those that they have.

While a graph is exported they replace what PyTorch does; elsewhere PyTorch's own are called, so that scores do not change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

#: Grey levels that a graph tells apart when it equalises a histogram, as :func:`equalize_histogram` does for [0, 1].
LEVELS = 2**14


def sampling_grid(matrices: Tensor, side: int) -> Tensor:
    """Sampling positions ``[N, side, side, 2]`` of affine ``matrices`` ``[N, 2, 3]``, both from -1 to 1."""
    if not torch.compiler.is_exporting():
        return functional.affine_grid(matrices, [matrices.shape[0], 1, side, side], align_corners=False)
    axis = (torch.arange(side, dtype=torch.float32) * 2.0 + 1.0) / side - 1.0
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    positions = torch.stack([columns.flatten(), rows.flatten(), torch.ones(side * side)], dim=1)
    return (positions @ matrices.transpose(1, 2)).reshape(-1, side, side, 2)


def resized(images: Tensor, side: int) -> Tensor:
    """Bilinear resampling of ``[N, C, S, S]`` images to ``side`` with antialiasing."""
    if not torch.compiler.is_exporting():
        return functional.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
    weights = torch.from_numpy(resampling_weights(images.shape[-1], side))
    across = torch.einsum("nchw,iw->nchi", images, weights)
    return torch.einsum("nchi,jh->ncji", across, weights)


def resampling_weights(source: int, side: int) -> npt.NDArray[np.float32]:
    """Weights ``[side, source]`` of bilinear resampling with antialiasing: a triangle over every output pixel's reach."""
    scale = source / side
    reach = max(scale, 1.0)
    middles = (np.arange(side) + 0.5) * scale
    distances = np.abs(np.arange(source)[None] + 0.5 - middles[:, None]) / reach
    weights = np.clip(1.0 - distances, 0.0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def equalized_levels(images: Tensor) -> Tensor:
    """Histogram-equalised ``[N, 1, S, S]`` images in [0, 1]; no shape in it depends on a value."""
    values = (images.flatten(1).clamp(0.0, 1.0) * float(LEVELS)).round().long()
    counts = torch.zeros(values.shape[0], LEVELS + 1, dtype=torch.int64).scatter_add(1, values, torch.ones_like(values))
    below = 2 * counts.cumsum(dim=1) - counts
    return (below.gather(1, values).float() / (2 * values.shape[1])).reshape(images.shape)
