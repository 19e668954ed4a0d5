"""Synthetic lesions of the lungs with irregular outlines and the texture of disease."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from medood.negatives.diffuse import lung_field
from medood.negatives.lungs import absorb, box_blur, places_in_lungs, regions, sample_regions, smooth_noise
from medood.negatives.shift import Parameters, column, coordinates, partners, uniform

_MOTTLE = (5, 11, 23, 47)
_NODULES = 8


@dataclass(frozen=True)
class Infiltrate:
    """``infiltrate``: 1 to 3 ragged regions, half axes 0.06 to 0.28 of the side, absorb more (by 0.15 to 0.8), mottled by
    noise on grids of 5 to 47 cells; fine structure in them is attenuated by up to 0.7."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        count = len(rows)
        return {
            **sample_regions(count, 0.06, 0.28, generator),
            **{f"mottle_{cells}": torch.rand(count, 1, cells, cells, generator=generator) for cells in _MOTTLE},
            "contrast": uniform(count, 1.0, 4.0, generator),
            "amount": uniform(count, 0.15, 0.8, generator),
            "veil": uniform(count, 0.0, 0.7, generator),
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        cover = regions(images, parameters) * (0.25 + 0.75 * lung_field(images))
        mottle = smooth_noise([parameters[f"mottle_{cells}"] for cells in _MOTTLE], images.shape[-1])
        mottle = ((mottle - 0.5) * column(parameters["contrast"]) + 0.6).clamp(0.0, 1.5)
        shifted = absorb(images, cover * mottle * column(parameters["amount"]))
        return torch.lerp(shifted, box_blur(shifted, 0.045), column(parameters["veil"]) * cover)


@dataclass(frozen=True)
class Reticular:
    """``reticular``: a band-limited pattern, a network of lines or fine grains (64 to 28 cells), amplitude 0.15 to 0.6, over
    large regions of the lung fields or all of them."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        count = len(rows)
        return {
            **sample_regions(count, 0.15, 0.45, generator),
            "throughout": torch.rand(count, generator=generator) < 0.3,
            "fine": torch.rand(count, 1, 64, 64, generator=generator),
            "coarse": torch.rand(count, 1, 28, 28, generator=generator),
            "scale": torch.rand(count, generator=generator),
            "grains": torch.rand(count, generator=generator) < 0.5,
            "amount": uniform(count, 0.15, 0.6, generator),
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        side = images.shape[-1]
        cover = torch.maximum(regions(images, parameters), column(parameters["throughout"].float())) * lung_field(images)
        fine, coarse = (smooth_noise([parameters[name]], side) for name in ("fine", "coarse"))
        band = torch.lerp(fine, coarse, column(parameters["scale"])) - 0.5
        pattern = torch.where(column(parameters["grains"]), band, 1.5 * (0.15 - band.abs()))
        return (images + cover * pattern * column(parameters["amount"])).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Nodules:
    """``nodules``: 1 to 8 round opacities in the lung fields, radius 0.008 to 0.084 of the side, absorbing 0.15 to 0.7
    more."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        count = len(rows)

        def each(low: float, high: float) -> Tensor:
            return uniform(count * _NODULES, low, high, generator).view(count, _NODULES)

        return {
            "place": each(0.0, 1.0),
            "wander": (torch.rand(count, 2 * _NODULES, generator=generator) - 0.5) / 24,
            "radius": uniform(count, 0.012, 0.06, generator)[:, None] * each(0.7, 1.4),
            "edge": each(0.05, 0.3),
            "number": torch.randint(1, _NODULES + 1, (count,), generator=generator),
            "amount": uniform(count, 0.15, 0.7, generator),
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        row, col = coordinates(images)
        rows, cols = places_in_lungs(images, parameters["place"])
        down, right = parameters["wander"].chunk(2, dim=1)
        y, x = row - (rows + down)[:, :, None, None], col - (cols + right)[:, :, None, None]
        distance = (x.square() + y.square()).sqrt() / parameters["radius"][:, :, None, None]
        balls = torch.sigmoid((1.0 - distance) / parameters["edge"][:, :, None, None])
        is_drawn = torch.arange(_NODULES, device=images.device) < parameters["number"][:, None]
        cover = (balls * is_drawn[:, :, None, None]).amax(dim=1, keepdim=True)
        return absorb(images, cover * column(parameters["amount"]))


@dataclass(frozen=True)
class Lucency:
    """``lucency``: air where it should not be. 1 to 3 ragged regions, half axes 0.08 to 0.3 of the side, lose 0.1 to 0.5 of
    their grey value and 0.3 to 0.95 of their structure."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        count = len(rows)
        return {
            **sample_regions(count, 0.08, 0.3, generator),
            "smooth": uniform(count, 0.3, 0.95, generator),
            "loss": uniform(count, 0.1, 0.5, generator),
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        changed = torch.lerp(images, box_blur(images, 0.065), column(parameters["smooth"]))
        changed = changed * (1.0 - column(parameters["loss"]))
        return torch.lerp(images, changed, regions(images, parameters))


@dataclass(frozen=True)
class Displaced:
    """``displaced``: anatomy moved (by up to 0.06 of the side), swollen or shrunk around one place, smoothly over 0.07 to
    0.2 of the side."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        count = len(rows)
        return {
            "row": uniform(count, 0.25, 0.85, generator),
            "col": uniform(count, 0.2, 0.8, generator),
            "reach": uniform(count, 0.07, 0.2, generator),
            "swell": uniform(count, -0.6, 0.6, generator),
            "down": uniform(count, -0.06, 0.06, generator),
            "right": uniform(count, -0.06, 0.06, generator),
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        row, col = coordinates(images)
        y, x = row - column(parameters["row"]), col - column(parameters["col"])
        bump = torch.exp(-0.5 * (y.square() + x.square()) / column(parameters["reach"]).square())
        swell = column(parameters["swell"])
        rows = row + bump * (swell * y + column(parameters["down"]))
        cols = col + bump * (swell * x + column(parameters["right"]))
        grid = torch.stack([2.0 * cols[:, 0] - 1.0, 2.0 * rows[:, 0] - 1.0], dim=-1)
        return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class ForeignStructure:
    """``foreign_structure``: 1 to 3 ragged regions hold another patient's structure, mirrored in half of the images and
    scaled by 0.6 to 1.3; its low frequencies give way, wholly or in part, to those of the place that it comes to.

    Source: after the natural synthetic anomalies of Schlüter et al., ECCV 2022, without the Poisson equation.
    """

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        count = len(rows)
        return {
            **sample_regions(count, 0.06, 0.22, generator),
            "partner": partners(rows, pool, generator),
            "mirrored": torch.rand(count, generator=generator) < 0.5,
            "scale": uniform(count, 0.6, 1.3, generator),
            "x": uniform(count, -0.4, 0.4, generator),
            "y": uniform(count, -0.4, 0.4, generator),
            "blend": torch.rand(count, generator=generator),
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        scale, zero = parameters["scale"], torch.zeros_like(parameters["scale"])
        across = torch.where(parameters["mirrored"], -scale, scale)
        matrix = torch.stack(
            [torch.stack([across, zero, parameters["x"]], dim=1), torch.stack([zero, scale, parameters["y"]], dim=1)], dim=1
        )
        grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
        partner = pool[parameters["partner"]]
        other = functional.grid_sample(partner, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        low = box_blur(images, 1 / 6) - box_blur(other, 1 / 6)
        other = (other + column(parameters["blend"]) * low).clamp(0.0, 1.0)
        return torch.lerp(images, other, regions(images, parameters))
