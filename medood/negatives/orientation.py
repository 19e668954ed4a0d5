"""Turned and mirrored radiographs. A mirrored chest is a fault (or situs inversus), never a harmless view."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medood.negatives.shift import Parameters, resample, uniform


@dataclass(frozen=True)
class QuarterTurn:
    """``rot``: 90, 180 or 270 degrees counter-clockwise, equally likely."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        return {"turns": torch.randint(1, 4, (len(rows),), generator=generator)}

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        orientations = images.clone()
        for turns in (1, 2, 3):
            chosen = parameters["turns"] == turns
            orientations[chosen] = torch.rot90(images[chosen], turns, (-2, -1))
        return orientations


@dataclass(frozen=True)
class AnyTurn:
    """``rot_360``: any angle between ``least`` and 360 - ``least`` degrees, cropped to the square inscribed in the turned
    image, so that no empty corner reveals the rotation."""

    least: float = 20.0

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        return {"degrees": uniform(len(rows), self.least, 360.0 - self.least, generator)}

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        angle = parameters["degrees"] * (math.pi / 180.0)
        cosine, sine = torch.cos(angle), torch.sin(angle)
        zoom = 1.0 / (cosine.abs() + sine.abs())
        zero = torch.zeros_like(angle)
        matrix = torch.stack(
            [
                torch.stack([cosine * zoom, -sine * zoom, zero], dim=1),
                torch.stack([sine * zoom, cosine * zoom, zero], dim=1),
            ],
            dim=1,
        )
        return resample(images, matrix, images.shape[-1])


@dataclass(frozen=True)
class Mirror:
    """``mirror``: left and right exchanged."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        return {}

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        return images.flip(-1)


@dataclass(frozen=True)
class UpsideDown:
    """``upside_down``: top and bottom exchanged."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        return {}

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        return images.flip(-2)
