"""Two patients on one radiograph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medood.negatives.shift import Parameters, column, coordinates, partners, uniform


@dataclass(frozen=True)
class JoinedHalves:
    """``joined_halves``: the part beyond a cut at 0.35 to 0.65 of the side comes from another image; the cut is vertical
    or horizontal, with a soft edge over ``softness`` of the side."""

    softness: float = 0.02

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        return {
            "partner": partners(rows, pool, generator),
            "cut": uniform(len(rows), 0.35, 0.65, generator),
            "vertical": torch.randint(0, 2, (len(rows),), generator=generator).bool(),
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        row, col = coordinates(images)
        place = torch.where(column(parameters["vertical"]), col, row)
        share = torch.sigmoid((place - column(parameters["cut"])) / (self.softness / 2))
        return torch.lerp(images, pool[parameters["partner"]], share)


@dataclass(frozen=True)
class BlendedPatch:
    """``blended_patch``: a soft-edged ellipse with half axes of 0.1 to 0.28 of the side, taken from another image at a
    different place."""

    softness: float = 0.25

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        count = len(rows)
        return {
            "partner": partners(rows, pool, generator),
            "row": uniform(count, 0.2, 0.8, generator),
            "col": uniform(count, 0.15, 0.85, generator),
            "height": uniform(count, 0.10, 0.28, generator),
            "width": uniform(count, 0.10, 0.28, generator),
            "from_row": uniform(count, 0.3, 0.7, generator),
            "from_col": uniform(count, 0.3, 0.7, generator),
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        row, col = coordinates(images)
        side = images.shape[-1]
        rows = self._indices(side, parameters["row"], parameters["from_row"])
        cols = self._indices(side, parameters["col"], parameters["from_col"])
        index = torch.arange(len(images), device=images.device)[:, None, None]
        other = pool[parameters["partner"]].permute(0, 2, 3, 1)[index, rows[:, :, None], cols[:, None, :]]
        other = other.permute(0, 3, 1, 2)
        radius = torch.sqrt(
            ((row - column(parameters["row"])) / column(parameters["height"])) ** 2
            + ((col - column(parameters["col"])) / column(parameters["width"])) ** 2
        )
        share = torch.sigmoid((1.0 - radius) / (self.softness / 2))
        return torch.lerp(images, other, share)

    def _indices(self, side: int, target: Tensor, origin: Tensor) -> Tensor:
        """``[N, side]``: the row (or column) of the other image for each one of this image, clamped at the border."""
        offset = ((origin - target) * side).round().long()
        return (torch.arange(side, device=target.device) + offset[:, None]).clamp(0, side - 1)
