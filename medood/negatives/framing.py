"""Radiographs with the wrong field of view or the wrong proportions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medood.negatives.shift import Parameters, resample, uniform


@dataclass(frozen=True)
class Stretched:
    """``stretched``: non-square pixels read as square ones. One side is 1.4 to 2 times too long for the other: the image
    fills the frame along one axis and is cropped along the other, around the centre."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        count = len(rows)
        return {"ratio": uniform(count, 1.4, 2.0, generator), "wide": torch.rand(count, generator=generator) < 0.5}

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        short, unit = 1.0 / parameters["ratio"], torch.ones_like(parameters["ratio"])
        x, y = (torch.where(parameters["wide"] == wide, short, unit) for wide in (True, False))
        zero = torch.zeros_like(unit)
        matrix = torch.stack([torch.stack([x, zero, zero], dim=1), torch.stack([zero, y, zero], dim=1)], dim=1)
        return resample(images, matrix, images.shape[-1])


@dataclass(frozen=True)
class WrongFraming:
    """``framing``: an enlarged square at a random place, 0.3 to 0.5 of the side (a quarter of the radiograph or less)."""

    low: float = 0.3
    high: float = 0.5

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        share = uniform(len(rows), self.low, self.high, generator)
        room = 1.0 - share
        return {
            "share": share,
            "x": uniform(len(rows), -1.0, 1.0, generator) * room,
            "y": uniform(len(rows), -1.0, 1.0, generator) * room,
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        share, zero = parameters["share"], torch.zeros_like(parameters["share"])
        matrix = torch.stack(
            [torch.stack([share, zero, parameters["x"]], dim=1), torch.stack([zero, share, parameters["y"]], dim=1)],
            dim=1,
        )
        return resample(images, matrix, images.shape[-1])
