"""Synthetic diffuse disease: haze over a lung field, and fluid that rises from its base."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from medood.negatives.shift import Parameters, column, coordinates, uniform


def lung_field(images: Tensor) -> Tensor:
    """A soft mask of the lungs, ``[N, 1, S, S]`` in [0, 1]: pixels darker than the median inside a frame."""
    side = images.shape[-1]
    smooth = functional.interpolate(
        functional.adaptive_avg_pool2d(images, 16), size=(side, side), mode="bilinear", align_corners=False
    )
    row, col = coordinates(images)
    frame = (
        torch.sigmoid((row - 0.12) / 0.03)
        * torch.sigmoid((0.85 - row) / 0.03)
        * torch.sigmoid((col - 0.08) / 0.03)
        * torch.sigmoid((0.92 - col) / 0.03)
    )
    middle = smooth.flatten(1).median(dim=1).values
    return torch.sigmoid((column(middle) + 0.03 - smooth) / 0.05) * frame


def sides(which: Tensor, col: Tensor) -> Tensor:
    """Soft mask of a half of the image: left for 0, right for 1, both for 2."""
    left = torch.sigmoid((0.5 - col) / 0.03)
    return torch.where(column(which == 0), left, torch.where(column(which == 1), 1.0 - left, torch.ones_like(left)))


@dataclass(frozen=True)
class Haze:
    """``haze``: ground glass. In one or both lung fields, above or below a border, the grey value is raised by 0.15 to
    0.45 and fine structure is attenuated by 0.1 to 0.8; smooth noise on grids of 4 and 12 cells mottles both effects."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        count = len(rows)
        return {
            "which": torch.randint(0, 3, (count,), generator=generator),
            "border": uniform(count, 0.15, 0.75, generator),
            "below": torch.rand(count, generator=generator) < 0.75,
            "spread": uniform(count, 0.05, 0.2, generator),
            "lift": uniform(count, 0.15, 0.45, generator),
            "veil": uniform(count, 0.1, 0.8, generator),
            "coarse": torch.rand(count, 1, 4, 4, generator=generator),
            "fine": torch.rand(count, 1, 12, 12, generator=generator),
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        side = images.shape[-1]
        row, col = coordinates(images)
        step = (row - column(parameters["border"])) / column(parameters["spread"])
        cover = torch.sigmoid(torch.where(column(parameters["below"]), step, -step))
        coarse, fine = (
            functional.interpolate(parameters[name], size=(side, side), mode="bicubic", align_corners=False)
            for name in ("coarse", "fine")
        )
        cover = (
            cover
            * lung_field(images)
            * sides(parameters["which"], col)
            * (0.35 + 0.65 * ((coarse + fine) / 2.0).clamp(0.0, 1.0))
        )
        smooth = functional.avg_pool2d(
            functional.pad(images, [side // 16] * 4, mode="reflect"), 2 * (side // 16) + 1, stride=1
        )
        veiled = torch.lerp(images, smooth, column(parameters["veil"]))
        return torch.lerp(images, (veiled + column(parameters["lift"])).clamp(max=0.95).maximum(images), cover)


@dataclass(frozen=True)
class Effusion:
    """``effusion``: fluid. Below a level at 0.5 to 0.8 of the height, which rises towards the chest wall, one or both sides
    are blended towards a grey value of soft tissue, 0.6 to 0.85."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        count = len(rows)
        return {
            "which": torch.randint(0, 3, (count,), generator=generator),
            "level": uniform(count, 0.5, 0.8, generator),
            "climb": uniform(count, 0.0, 0.5, generator),
            "edge": uniform(count, 0.01, 0.05, generator),
            "grey": uniform(count, 0.6, 0.85, generator),
            "strength": uniform(count, 0.5, 0.95, generator),
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        row, col = coordinates(images)
        outward = (col - 0.5).abs() * 2.0
        level = column(parameters["level"]) - column(parameters["climb"]) * outward**3
        cover = torch.sigmoid((row - level) / column(parameters["edge"])) * sides(parameters["which"], col)
        inside = torch.sigmoid((0.88 - row) / 0.02) * torch.sigmoid((0.94 - outward) / 0.03)
        grey = torch.maximum(column(parameters["grey"]), images)
        return torch.lerp(images, grey, cover * inside * column(parameters["strength"]))
