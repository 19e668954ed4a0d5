"""Patches or pixels in another order, never the original one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medood.negatives.shift import Parameters


def permutations(count: int, items: int, generator: Generator) -> Tensor:
    """``[count, items]`` int64: uniform random permutations; the identity is replaced by a cyclic shift by one."""
    order = torch.rand(count, items, generator=generator).argsort(dim=1)
    identity = (order == torch.arange(items)).all(dim=1)
    order[identity] = order[identity].roll(1, dims=1)
    return order


@dataclass(frozen=True)
class PatchPermutation:
    """``perm4`` and ``perm16``: the ``grid`` x ``grid`` patches of an image in another order."""

    grid: int

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        return {"order": permutations(len(rows), self.grid**2, generator)}

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        count, channels, side, _ = images.shape
        if side % self.grid:
            raise ValueError(f"a side of {side} pixels cannot be cut into {self.grid} equal patches")
        step = side // self.grid
        cut = images.view(count, channels, self.grid, step, self.grid, step).permute(0, 2, 4, 1, 3, 5)
        patches = cut.reshape(count, self.grid**2, channels, step, step)
        permuted = patches[torch.arange(count, device=images.device)[:, None], parameters["order"]]
        assembled = permuted.view(count, self.grid, self.grid, channels, step, step).permute(0, 3, 1, 4, 2, 5)
        return assembled.reshape(count, channels, side, side)


@dataclass(frozen=True)
class PixelPermutation:
    """``pixel_perm``: all pixels in another order; only the histogram is kept."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        return {"order": permutations(len(rows), side * side, generator)}

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        order = parameters["order"][:, None].expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, order).view_as(images)
