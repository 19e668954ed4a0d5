"""Interface of shifting transformations: a sampler draws parameters, and a deterministic function applies them."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

Parameters = dict[str, Tensor]


class Shift(Protocol):
    """A shifting transformation of batches.

    The parameters are tensors whose first dimension is the batch; log them to reproduce the sample.
    """

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        """Draw parameters.

        Args:
            rows: int64 ``[N]``, indices of the images in the pool to shift.
            pool: number of images in the pool, from which partners are drawn.
            side: side of the images.
            generator: a CPU generator, so that the draw does not depend on the device.
        """
        ...

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        """Shift images.

        Args:
            images: float32 ``[N, C, S, S]`` in [0, 1].
            parameters: as drawn by :meth:`sample`, on the device of the images.
            pool: float32 ``[M, C, S, S]``, partners for the mixing shifts.

        Returns:
            float32 ``[N, C, S, S]`` in [0, 1].
        """
        ...


def uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    """``[count]`` float32, uniform in [low, high)."""
    return torch.rand(count, generator=generator) * (high - low) + low


def partners(rows: Tensor, pool: int, generator: Generator) -> Tensor:
    """For each row another row of the pool, never itself.

    Raises:
        ValueError: the pool holds fewer than two images.
    """
    if pool < 2:
        raise ValueError(f"mixing needs at least 2 images in a batch, got {pool}")
    return (rows + torch.randint(1, pool, (len(rows),), generator=generator)) % pool


def resample(images: Tensor, matrix: Tensor, side: int) -> Tensor:
    """Bilinear resampling with reflection at the border.

    Args:
        images: float32 ``[N, C, S, S]``.
        matrix: float32 ``[N, 2, 3]`` from output to input coordinates, both in [-1, 1] (x right, y down).
        side: side of the output.
    """
    grid = functional.affine_grid(matrix, [len(images), 1, side, side], align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def coordinates(images: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each pixel centre in [0, 1]: ``[1, 1, S, 1]`` and ``[1, 1, 1, S]``."""
    side = images.shape[-1]
    axis = (torch.arange(side, device=images.device, dtype=images.dtype) + 0.5) / side
    return axis.view(1, 1, side, 1), axis.view(1, 1, 1, side)


def column(values: Tensor) -> Tensor:
    """Reshape ``[N]`` to ``[N, 1, 1, 1]``."""
    return values.view(-1, 1, 1, 1)
