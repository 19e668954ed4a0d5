"""Disease that fills a lung rather than a spot: haze over a lung field, and fluid that rises from its base."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from medood.negatives.shift import Parameters, column, coordinates, uniform


def lung_field(pictures: Tensor) -> Tensor:
    """Where the lungs may be, ``[N, 1, S, S]`` in [0, 1], soft: what is darker than the film's median inside a frame."""
    side = pictures.shape[-1]
    smooth = functional.interpolate(
        functional.adaptive_avg_pool2d(pictures, 16), size=(side, side), mode="bilinear", align_corners=False
    )
    row, col = coordinates(pictures)
    frame = (
        torch.sigmoid((row - 0.12) / 0.03)
        * torch.sigmoid((0.85 - row) / 0.03)
        * torch.sigmoid((col - 0.08) / 0.03)
        * torch.sigmoid((0.92 - col) / 0.03)
    )
    middle = smooth.flatten(1).median(dim=1).values
    return torch.sigmoid((column(middle) + 0.03 - smooth) / 0.05) * frame


def sides(which: Tensor, col: Tensor) -> Tensor:
    """Soft choice of a half: 0 the left of the picture, 1 the right, 2 both."""
    left = torch.sigmoid((0.5 - col) / 0.03)
    return torch.where(column(which == 0), left, torch.where(column(which == 1), 1.0 - left, torch.ones_like(left)))


@dataclass(frozen=True)
class Haze:
    """``haze``: ground glass. Over one or both lung fields, above or below a border, the grey value is lifted by 0.15 to
    0.45 and its fine structure veiled by 0.1 to 0.8; smooth noise on grids of 4 and 12 cells mottles both."""

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

    def apply(self, pictures: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        side = pictures.shape[-1]
        row, col = coordinates(pictures)
        step = (row - column(parameters["border"])) / column(parameters["spread"])
        cover = torch.sigmoid(torch.where(column(parameters["below"]), step, -step))
        coarse, fine = (
            functional.interpolate(parameters[name], size=(side, side), mode="bicubic", align_corners=False)
            for name in ("coarse", "fine")
        )
        cover = (
            cover
            * lung_field(pictures)
            * sides(parameters["which"], col)
            * (0.35 + 0.65 * ((coarse + fine) / 2.0).clamp(0.0, 1.0))
        )
        smooth = functional.avg_pool2d(
            functional.pad(pictures, [side // 16] * 4, mode="reflect"), 2 * (side // 16) + 1, stride=1
        )
        veiled = torch.lerp(pictures, smooth, column(parameters["veil"]))
        return torch.lerp(pictures, (veiled + column(parameters["lift"])).clamp(max=0.95).maximum(pictures), cover)


@dataclass(frozen=True)
class Effusion:
    """``effusion``: fluid. Below a level at 0.5 to 0.8 of the height, which climbs towards the outer wall, one or both sides
    are drawn towards a grey value of soft tissue, 0.6 to 0.85."""

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

    def apply(self, pictures: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        row, col = coordinates(pictures)
        outward = (col - 0.5).abs() * 2.0
        level = column(parameters["level"]) - column(parameters["climb"]) * outward**3
        cover = torch.sigmoid((row - level) / column(parameters["edge"])) * sides(parameters["which"], col)
        inside = torch.sigmoid((0.88 - row) / 0.02) * torch.sigmoid((0.94 - outward) / 0.03)
        grey = torch.maximum(column(parameters["grey"]), pictures)
        return torch.lerp(pictures, grey, cover * inside * column(parameters["strength"]))
