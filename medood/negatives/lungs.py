"""Places in the lung fields, and irregular regions around them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from medood.negatives.diffuse import lung_field
from medood.negatives.shift import Parameters, coordinates, uniform

#: Cells per side of the grid on which places are drawn; largest number of regions in an image.
_GRID, _MOST = 24, 3


def places_in_lungs(images: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Map uniform numbers to places in the lung fields, by inverting the field's cumulative weight.

    Args:
        images: float32 ``[N, 1, S, S]`` in [0, 1].
        place: ``[N, K]`` in [0, 1).

    Returns:
        row and column of each place, ``[N, K]`` in [0, 1].
    """
    weight = functional.adaptive_avg_pool2d(lung_field(images), _GRID).flatten(1) ** 2 + 1e-6
    cumulated = weight.cumsum(dim=1)
    cell = torch.searchsorted(cumulated, place * cumulated[:, -1:]).clamp(max=_GRID**2 - 1)
    return (torch.div(cell, _GRID, rounding_mode="floor") + 0.5) / _GRID, (cell % _GRID + 0.5) / _GRID


def sample_regions(count: int, low: float, high: float, generator: Generator) -> Parameters:
    """Draw 1 to 3 regions for each of ``count`` images, with half axes of ``low`` to ``high`` of the side."""

    def each(least: float, most: float) -> Tensor:
        return uniform(count * _MOST, least, most, generator).view(count, _MOST)

    return {
        "place": each(0.0, 1.0),
        "height": each(low, high),
        "width": each(low, high),
        "angle": each(0.0, math.pi),
        "edge": each(0.08, 0.35),
        "ragged_coarse": torch.rand(count, _MOST, 6, 6, generator=generator),
        "ragged_fine": torch.rand(count, _MOST, 14, 14, generator=generator),
        "number": torch.randint(1, _MOST + 1, (count,), generator=generator),
    }


def regions(images: Tensor, parameters: Parameters) -> Tensor:
    """Soft masks ``[N, 1, S, S]`` of the drawn regions: ragged ellipses whose centres are in the lung fields."""
    row, col = coordinates(images)
    rows, cols = places_in_lungs(images, parameters["place"])

    def wide(values: Tensor) -> Tensor:
        return values[:, :, None, None]

    y, x, angle = row - wide(rows), col - wide(cols), wide(parameters["angle"])
    along = (x * angle.cos() + y * angle.sin()) / wide(parameters["width"])
    across = (y * angle.cos() - x * angle.sin()) / wide(parameters["height"])
    ragged = smooth_noise([parameters["ragged_coarse"], parameters["ragged_fine"]], images.shape[-1]) - 0.5
    distance = (along.square() + across.square()).sqrt() + 1.2 * ragged
    cover = torch.sigmoid((1.0 - distance) / wide(parameters["edge"]))
    is_drawn = torch.arange(_MOST, device=images.device) < parameters["number"][:, None]
    return (cover * wide(is_drawn)).amax(dim=1, keepdim=True)


def smooth_noise(grids: list[Tensor], side: int) -> Tensor:
    """The mean in [0, 1] of ``[N, C, g, g]`` grids of random numbers, each enlarged to ``side``."""
    enlarged = [functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False) for grid in grids]
    return torch.stack(enlarged).mean(dim=0).clamp(0.0, 1.0)


def box_blur(images: Tensor, share: float) -> Tensor:
    """Means over squares of ``share`` of the side, with reflection at the border."""
    reach = max(1, round(images.shape[-1] * share / 2))
    rows = functional.avg_pool2d(functional.pad(images, [reach] * 4, mode="reflect"), (2 * reach + 1, 1), stride=1)
    return functional.avg_pool2d(rows, (1, 2 * reach + 1), stride=1)


def absorb(images: Tensor, amount: Tensor) -> Tensor:
    """Brighten as more absorption would: towards 1, most where the radiograph is dark."""
    return 1.0 - (1.0 - images) * torch.exp(-amount)
