"""Simulated opacities: bright, soft or mottled blobs in dark regions of the radiograph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from medood.negatives.shift import Parameters, coordinates, uniform


@dataclass(frozen=True)
class SimulatedOpacity:
    """``opacity``: 1 to ``most`` blobs in the lung field, each with half axes of 0.04 to 0.2 of the side, which raise the
    grey value towards a level of 0.55 to 0.9 by 0.25 to 0.8; mottled in half of the radiographs.

    The lung field is not segmented: places are drawn inside a central frame, with a weight that grows with darkness.
    """

    most: int = 4

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        count, total = len(rows), len(rows) * self.most

        def each(low: float, high: float) -> Tensor:
            return uniform(total, low, high, generator).view(count, self.most)

        number = torch.randint(1, self.most + 1, (count, 1), generator=generator)
        return {
            "place": each(0.0, 1.0),
            "height": each(0.04, 0.2),
            "width": each(0.04, 0.2),
            "strength": each(0.25, 0.8) * (torch.arange(self.most) < number),
            "level": uniform(count, 0.55, 0.9, generator),
            "mottle": torch.rand(count, 1, 12, 12, generator=generator)
            * torch.randint(0, 2, (count, 1, 1, 1), generator=generator),
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        side = images.shape[-1]
        row, col = coordinates(images)
        rows, cols = self._places(images, parameters["place"])
        shape = (len(images), self.most, 1, 1)
        distance = ((row - rows.view(shape)) / parameters["height"].view(shape)) ** 2 + (
            (col - cols.view(shape)) / parameters["width"].view(shape)
        ) ** 2
        blobs = parameters["strength"].view(shape) * torch.exp(-0.5 * distance)
        cover = 1.0 - (1.0 - blobs).prod(dim=1, keepdim=True)
        mottle = functional.interpolate(parameters["mottle"], size=(side, side), mode="bicubic", align_corners=False)
        cover = cover * (1.0 - 0.8 * mottle.clamp(0.0, 1.0))
        level = torch.maximum(parameters["level"].view(-1, 1, 1, 1), images)
        return torch.lerp(images, level, cover.clamp(0.0, 1.0)).clamp(0.0, 1.0)

    def _places(self, images: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Map uniform numbers to places by inverting the cumulative darkness on a 16 x 16 grid."""
        grid = 16
        dark = 1.0 - functional.adaptive_avg_pool2d(images, grid)[:, 0]
        axis = (torch.arange(grid, device=images.device) + 0.5) / grid
        inside = ((axis > 0.15) & (axis < 0.8))[:, None] & ((axis > 0.12) & (axis < 0.88))[None]
        weight = (dark**4 * inside + 1e-6 * inside).flatten(1)
        cumulated = weight.cumsum(dim=1)
        cell = torch.searchsorted(cumulated, place * cumulated[:, -1:]).clamp(max=grid**2 - 1)
        return (torch.div(cell, grid, rounding_mode="floor") + 0.5) / grid, (cell % grid + 0.5) / grid
