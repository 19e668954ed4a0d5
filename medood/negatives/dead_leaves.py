"""Abstract images of overlapping shapes, which a network trained on one kind of image may mistake for that kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from medood.negatives.shift import Parameters, column, coordinates, uniform

_LEAVES = 24


@dataclass(frozen=True)
class DeadLeaves:
    """``dead_leaves``: the image is replaced by overlapping ellipses (the dead leaves model: Lee, Mumford, Huang,
    IJCV 2001), each of one grey value, on a background that is black half the time. In half of the images the first leaf is
    large and central, like a body in a slice; half are left-right symmetric. Noise on grids of 8 and 40 cells mottles them.
    This is the only shift that keeps nothing of the radiograph."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        count = len(rows)

        def drawn(low: float, high: float) -> Tensor:
            return uniform(count * _LEAVES, low, high, generator).view(count, _LEAVES)

        x, y, angle, grey = drawn(0.0, 1.0), drawn(0.0, 1.0), drawn(0.0, math.pi), drawn(0.0, 1.0)
        wide, high = 0.5 * drawn(0.15, 1.0) ** 2, 0.5 * drawn(0.15, 1.0) ** 2  # many small leaves, few large ones
        body = torch.rand(count, generator=generator) < 0.5
        for values, low, upper in ((x, 0.45, 0.55), (y, 0.45, 0.55), (wide, 0.28, 0.46), (high, 0.28, 0.46)):
            values[:, 0] = torch.where(body, uniform(count, low, upper, generator), values[:, 0])
        leaves = torch.stack([x, y, wide, high, angle, grey], dim=2)
        black = torch.rand(count, generator=generator) < 0.5
        ground = torch.where(black, torch.zeros(count), uniform(count, 0.0, 1.0, generator))
        return {
            "leaves": leaves,
            "ground": ground,
            "alike": torch.rand(count, generator=generator) < 0.5,
            "number": torch.randint(3, _LEAVES + 1, (count,), generator=generator),
            "edge": uniform(count, 0.01, 0.1, generator),
            "depth": uniform(count, 0.0, 0.3, generator),
            "coarse": torch.rand(count, 1, 8, 8, generator=generator) - 0.5,
            "fine": torch.rand(count, 1, 40, 40, generator=generator) - 0.5,
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        row, col = coordinates(images)
        col = torch.where(column(parameters["alike"]), torch.minimum(col, 1.0 - col), col)
        canvas = column(parameters["ground"]).expand_as(images)
        for number in range(_LEAVES):
            x, y, wide, high, angle, grey = (column(value) for value in parameters["leaves"][:, number].unbind(1))
            across = (col - x) * angle.cos() + (row - y) * angle.sin()
            along = (row - y) * angle.cos() - (col - x) * angle.sin()
            distance = ((across / wide) ** 2 + (along / high) ** 2).sqrt()
            cover = torch.sigmoid((1.0 - distance) / column(parameters["edge"])) * (number < column(parameters["number"]))
            canvas = torch.lerp(canvas, grey.expand_as(canvas), cover)
        mottle = sum(
            functional.interpolate(parameters[name], size=images.shape[-2:], mode="bilinear", align_corners=False)
            for name in ("coarse", "fine")
        )
        return (canvas + column(parameters["depth"]) * mottle * (0.2 + canvas)).clamp(0.0, 1.0)
