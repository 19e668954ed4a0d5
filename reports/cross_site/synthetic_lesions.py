"""Synthetic lesions with their places, and harmless additions, for the study's lesion network."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from medood.negatives.diffuse import lung_field
from medood.negatives.mixture import SHIFTS
from medood.negatives.shift import column, coordinates, partners, uniform

#: Weights of the kinds.
KINDS = {
    "opacity": 1.0,
    "haze": 1.5,
    "effusion": 1.0,
    "blended_patch": 0.7,
    "infiltrate": 2.5,
    "texture": 1.2,
    "nodules": 1.2,
    "lucency": 0.7,
    "warp": 1.0,
    "seamless": 1.0,
}
#: A mean change of the grey value from which a place counts fully as lesion.
PLAIN = 0.05
#: Share of images that stay as they are.
HEALTHY = 0.45


def noise(count: int, side: int, cells: list[int], generator: Generator) -> Tensor:
    """Smooth noise in [0, 1]: the mean of grids of several sizes."""
    grids = [
        functional.interpolate(
            torch.rand(count, 1, cell, cell, generator=generator), size=(side, side), mode="bicubic", align_corners=False
        )
        for cell in cells
    ]
    return torch.stack(grids).mean(dim=0).clamp(0.0, 1.0)


def region(images: Tensor, generator: Generator, low: float, high: float) -> Tensor:
    """Soft blobs with irregular edges whose middle is in a lung field: ``[N, 1, S, S]`` in [0, 1]."""
    count, side = len(images), images.shape[-1]
    row, col = coordinates(images)
    lungs = lung_field(images)
    grid = functional.adaptive_avg_pool2d(lungs, 24).flatten(1) ** 2 + 1e-6
    cover = torch.zeros_like(images)
    number = torch.randint(1, 4, (count,), generator=generator)
    for i in range(3):
        place = torch.multinomial(grid, 1, generator=generator)[:, 0]
        middle_row, middle_col = (place // 24 + 0.5) / 24, (place % 24 + 0.5) / 24
        height, width = uniform(count, low, high, generator), uniform(count, low, high, generator)
        angle = uniform(count, 0.0, torch.pi, generator)
        y, x = row - column(middle_row), col - column(middle_col)
        along = (x * column(angle.cos()) + y * column(angle.sin())) / column(width)
        across = (y * column(angle.cos()) - x * column(angle.sin())) / column(height)
        ragged = noise(count, side, [6, 14], generator) - 0.5
        distance = (along**2 + across**2).sqrt() + 1.2 * ragged
        soft = column(uniform(count, 0.08, 0.35, generator))
        blob = torch.sigmoid((1.0 - distance) / soft) * column((i < number).float())
        cover = torch.maximum(cover, blob)
    return cover


def absorb(images: Tensor, amount: Tensor) -> Tensor:
    """Brighten as more absorption would: towards 1, most where the radiograph is dark."""
    return 1.0 - (1.0 - images) * torch.exp(-amount)


def infiltrate(images: Tensor, generator: Generator) -> Tensor:
    count, side = len(images), images.shape[-1]
    cover = region(images, generator, 0.06, 0.28)
    inside = 0.25 + 0.75 * lung_field(images)
    mottle = noise(count, side, [5, 11, 23, 47], generator)
    mottle = ((mottle - 0.5) * column(uniform(count, 1.0, 4.0, generator)) + 0.6).clamp(0.0, 1.5)
    shifted = absorb(images, cover * inside * mottle * column(uniform(count, 0.15, 0.8, generator)))
    smooth = functional.avg_pool2d(functional.pad(shifted, [4] * 4, mode="reflect"), 9, stride=1)
    veil = column(uniform(count, 0.0, 0.7, generator)) * cover * inside
    return torch.lerp(shifted, smooth, veil)


def texture(images: Tensor, generator: Generator) -> Tensor:
    """Reticular or miliary pattern: band-limited noise over large parts of the lungs."""
    count, side = len(images), images.shape[-1]
    cover = torch.maximum(
        region(images, generator, 0.15, 0.45), column((torch.rand(count, generator=generator) < 0.3).float())
    )
    fine, coarse = noise(count, side, [64], generator), noise(count, side, [28], generator)
    band = torch.lerp(fine, coarse, column(torch.rand(count, generator=generator))) - 0.5
    reticular = 0.15 - band.abs()
    pattern = torch.where(column(torch.rand(count, generator=generator) < 0.5), band, 1.5 * reticular)
    amount = column(uniform(count, 0.15, 0.6, generator))
    return (images + cover * lung_field(images) * pattern * amount).clamp(0.0, 1.0)


def nodules(images: Tensor, generator: Generator) -> Tensor:
    count = len(images)
    row, col = coordinates(images)
    grid = functional.adaptive_avg_pool2d(lung_field(images), 24).flatten(1) ** 2 + 1e-6
    number = torch.randint(1, 9, (count,), generator=generator)
    common = uniform(count, 0.012, 0.06, generator)
    amount = torch.zeros_like(images)
    for i in range(8):
        place = torch.multinomial(grid, 1, generator=generator)[:, 0]
        wander = (torch.rand(2, count, generator=generator) - 0.5) / 24
        y = row - column((place // 24 + 0.5) / 24 + wander[0])
        x = col - column((place % 24 + 0.5) / 24 + wander[1])
        radius = column(common * uniform(count, 0.7, 1.4, generator))
        ball = torch.sigmoid((1.0 - (x**2 + y**2).sqrt() / radius) / column(uniform(count, 0.05, 0.3, generator)))
        amount = torch.maximum(amount, ball * column((i < number).float()))
    return absorb(images, amount * column(uniform(count, 0.15, 0.7, generator)))


def lucency(images: Tensor, generator: Generator) -> Tensor:
    """Air where it should not be: darker and without structure."""
    count = len(images)
    cover = region(images, generator, 0.08, 0.3)
    smooth = functional.avg_pool2d(functional.pad(images, [6] * 4, mode="reflect"), 13, stride=1)
    changed = torch.lerp(images, smooth, column(uniform(count, 0.3, 0.95, generator)))
    changed = changed * (1.0 - column(uniform(count, 0.1, 0.5, generator)))
    return torch.lerp(images, changed, cover)


def warp(images: Tensor, generator: Generator) -> Tensor:
    """Displaced or swollen anatomy: smooth displacement around one place."""
    count = len(images)
    row, col = coordinates(images)
    y0, x0 = column(uniform(count, 0.25, 0.85, generator)), column(uniform(count, 0.2, 0.8, generator))
    reach = column(uniform(count, 0.07, 0.2, generator))
    bump = torch.exp(-0.5 * ((row - y0) ** 2 + (col - x0) ** 2) / reach**2)
    swell = column(uniform(count, -0.6, 0.6, generator))
    dy = bump * (swell * (row - y0) + column(uniform(count, -0.06, 0.06, generator)))
    dx = bump * (swell * (col - x0) + column(uniform(count, -0.06, 0.06, generator)))
    grid = torch.stack([((col + dx) * 2 - 1)[:, 0], ((row + dy) * 2 - 1)[:, 0]], dim=-1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def seamless(images: Tensor, generator: Generator) -> Tensor:
    """Structure of another patient's patch, its low frequencies replaced by those of the place it comes to."""
    count, side = len(images), images.shape[-1]
    other = images[partners(torch.arange(count), count, generator)]
    turn = column(torch.rand(count, generator=generator) < 0.5)
    other = torch.where(turn, other.flip(-1), other)
    scale = uniform(count, 0.6, 1.3, generator)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = scale, scale
    matrix[:, :, 2] = torch.rand(count, 2, generator=generator) * 0.8 - 0.4
    grid = functional.affine_grid(matrix, [count, 1, side, side], align_corners=False)
    other = functional.grid_sample(other, grid, padding_mode="reflection", align_corners=False)
    cover = region(images, generator, 0.06, 0.22)
    kernel = side // 6 | 1

    def low(x: Tensor) -> Tensor:
        return functional.avg_pool2d(functional.pad(x, [kernel // 2] * 4, mode="reflect"), kernel, stride=1)

    keep = column(torch.rand(count, generator=generator))
    return torch.lerp(images, (other + keep * (low(images) - low(other))).clamp(0.0, 1.0), cover)


OWN = {
    "infiltrate": infiltrate,
    "texture": texture,
    "nodules": nodules,
    "lucency": lucency,
    "warp": warp,
    "seamless": seamless,
}


def apply(name: str, images: Tensor, pool: Tensor, generator: Generator) -> Tensor:
    if name in OWN:
        return OWN[name](images, generator)
    shift = SHIFTS[name]
    rows = torch.arange(len(images))
    return shift.apply(images, shift.sample(rows, len(pool), images.shape[-1], generator), pool)


def plant_lesions(images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Plant lesions in about half of ``[N, 1, S, S]`` images.

    Returns:
        the images, and for each pixel how much of a lesion it is, in [0, 1]. What changed by nearly nothing is undone.
    """
    count = len(images)
    shifted = images.clone()
    names = list(KINDS)
    weights = torch.tensor(list(KINDS.values()))
    for turn in range(2):
        kind = torch.multinomial(weights, count, replacement=True, generator=generator)
        chosen = torch.rand(count, generator=generator) < (1.0 - HEALTHY if turn == 0 else 0.2)
        if turn:
            chosen &= ((shifted - images).abs().flatten(1).amax(dim=1)) > 0
        for i, name in enumerate(names):
            rows = torch.nonzero((kind == i) & chosen).flatten()
            if len(rows) > (name in ("seamless", "blended_patch")):
                shifted[rows] = apply(name, shifted[rows], shifted[rows], generator)
    faint = column(torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, uniform(count, 0.35, 1.0, generator)))
    shifted = torch.lerp(images, shifted, faint)
    change = functional.avg_pool2d(functional.pad((shifted - images).abs(), [4] * 4), 9, stride=1)
    slight = change.flatten(1).amax(dim=1) < 0.03
    shifted[slight], change[slight] = images[slight], 0.0
    change = torch.where(change < 0.01, 0.0, change)
    return shifted, (change / PLAIN).clamp(0.0, 1.0)


def distract(images: Tensor, generator: Generator) -> Tensor:
    """Letters near the upper corners and borders of half of the images, bars along the borders of some."""
    images = images.clone()
    side = images.shape[-1]
    for i in range(len(images)):
        draw = torch.rand(8, generator=generator)
        if draw[0] < 0.5:
            glyph = (torch.rand(int(1 + 2 * draw[1]), 1, 5, 4, generator=generator) < 0.6).float()
            glyph = functional.pad(glyph, [0, 1, 0, 0]).permute(1, 2, 0, 3).reshape(1, 1, 5, -1)
            factor = 1 + int(4 * draw[2])
            glyph = functional.interpolate(glyph, scale_factor=factor, mode="nearest")[0, 0]
            height, width = glyph.shape
            row = int(draw[3] ** 2 * 0.5 * (side - height))
            col = int((0.2 * draw[4] if draw[5] < 0.5 else 1 - 0.2 * draw[4]) * (side - width))
            place = images[i, 0, row : row + height, col : col + width]
            images[i, 0, row : row + height, col : col + width] = torch.lerp(
                place, torch.ones_like(place) * (0.7 + 0.3 * draw[6]), glyph
            )
        if draw[7] < 0.2:
            bars = (torch.rand(4, generator=generator) ** 2 * 0.1 * side).int().tolist()
            level = 0.0 if draw[6] < 0.8 else 1.0
            images[i, :, : bars[0]] = level
            images[i, :, side - bars[1] :] = level
            images[i, :, :, : bars[2]] = level
            images[i, :, :, side - bars[3] :] = level
    return images
