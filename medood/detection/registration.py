"""Registration of radiographs to a common frame: small shifts, scalings and tilts that best match the average radiograph.

This removes a hospital's framing, so that radiographs can be compared place by place. The similarity is the normalised
cross-correlation of histogram-equalised radiographs, which no grey curve changes. The search is bounded: mirrored, turned
and upside-down radiographs stay as they are, and an image of something else is not warped into a chest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate

from medood.detection.graph.operators import equalized_levels, resized, sampling_grid

Track = Callable[[Iterable[Any]], Iterator[Any]]

#: Share of each side of the average radiograph that the frame shows.
SHARE = 0.8
#: Largest number of radiographs to average, evenly spaced; more do not change the average.
MAX_IMAGES = 2000
_FILM, _FRAME = 48, 24  # sides at which radiographs are compared
_SCALES = (0.6, 0.68, 0.76, 0.84, 0.92, 1.0)
_SHIFTS = (-0.2, -0.1, 0.0, 0.1, 0.2)
#: Bounds of the search: shares of each side, the logarithm of their ratio, shifts in half sides, tilt in radians.
_SHARES, _RATIO, _SHIFT, _TILT = (0.5, 1.1), 0.22, 0.3, 0.2
#: Starting points of the search: every scale and shift whose frame lies within the radiograph.
_COARSE = [(s, s, x, y, 0.0) for s in _SCALES for x in _SHIFTS for y in _SHIFTS if max(abs(x), abs(y)) <= 1.0 - s + 1e-6]
_STEPS = (0.06, 0.06, 0.03, 0.03, 0.015, 0.015)
_ROUNDS = 3
_BATCH = 64  # radiographs registered at once on a CPU, and equalised at once
_RANGE = 16.0  # largest magnitude of grey values that equalisation tells apart


class Registration(nn.Module):
    """Registers radiographs to the average radiograph.

    Attributes:
        template: float32 ``[24, 24]``, the average of registered radiographs, of mean 0 and length 1.
    """

    template: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("template", torch.zeros(_FRAME, _FRAME))

    def fit(self, images: Tensor, track: Track = iter) -> None:
        """Compute the average of ``[N, 1, S, S]`` radiographs in [0, 1], starting with the central part of each.

        Args:
            images: float32 ``[N, 1, S, S]`` in-distribution radiographs in [0, 1].
            track: wraps an iterable to show progress.
        """
        small = _comparable(images[:: -(-len(images) // MAX_IMAGES)])
        middle = torch.tensor([SHARE, SHARE, 0.0, 0.0, 0.0])
        places = middle.expand(len(small), 5)
        for _ in track(range(_ROUNDS)):
            registered = grid_sample(small, _grid(places, _FRAME), "bilinear", "border", False)
            self.template.copy_(_unit(_unit(registered).mean(dim=0, keepdim=True))[0])
            places = self._search(small)
            # Keep the frame's mean size, place and tilt fixed: with the best matches as they are, it would shrink.
            mean = places.mean(dim=0)
            places = torch.cat([places[:, :2] * SHARE / mean[:2], places[:, 2:] - mean[2:]], dim=1)

    def places(self, images: Tensor) -> Tensor:
        """Frames ``[N, 5]`` of ``[N, 1, S, S]`` radiographs: width and height as shares, shifts right and down in half
        sides, tilt in radians."""
        return self._search(_comparable(images))

    def forward(self, images: Tensor, side: int) -> Tensor:
        """Register ``[N, 1, S, S]`` radiographs in [0, 1]: ``[N, 1, side, side]``, with the border continued outwards."""
        return sample(images, self.places(images), side)

    def _search(self, small: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # a graph's batches are for its user to choose
            return self._search_some(small)
        batch = _BATCH if small.device.type == "cpu" else len(small)  # a GPU is slowed by many small steps
        return torch.cat([self._search_some(group) for group in torch.split(small, max(batch, 1))])

    def _search_some(self, small: Tensor) -> Tensor:
        every = torch.arange(small.shape[0], device=small.device)
        coarse = torch.tensor(_COARSE, device=small.device)
        best, first = self._match(small, coarse.expand(small.shape[0], -1, 5)).max(dim=1)
        places = coarse[first]
        for step in _STEPS:
            for number in range(5):
                candidates = places[:, None].repeat(1, 2, 1)
                candidates[:, :, number] += torch.tensor([step, -step], device=small.device)
                correlations = self._match(small, candidates).where(_within(candidates), -2.0)
                sign = (correlations[:, 0] <= best).long()  # the negative step if the positive one is no better
                better = correlations[every, sign] > best
                best = best.where(~better, correlations[every, sign])
                places = places.where(~better[:, None], candidates[every, sign])
        return places

    def _match(self, small: Tensor, candidates: Tensor) -> Tensor:
        """Cross-correlations ``[N, K]`` of ``[N, K, 5]`` candidates with the template."""
        count, many = candidates.shape[:2]
        grid = _grid(candidates.flatten(0, 1), _FRAME).reshape(count, many * _FRAME, _FRAME, 2)
        registered = grid_sample(small, grid, "bilinear", "border", False).reshape(count * many, 1, _FRAME, _FRAME)
        return _unit(registered).flatten(1).mul(self.template.flatten()).sum(dim=1).reshape(count, many)


def equalize_histogram(images: Tensor) -> Tensor:
    """Histogram-equalised ``[N, 1, S, S]`` images: each value is the share of darker pixels (equal ones count half).

    Values that differ by less than ``2**-14`` may count as equal, so that rounding does not rank a uniform area; so do
    values beyond -16 and 16, and NaN counts as 0.
    """
    if torch.compiler.is_exporting():
        return equalized_levels(images)
    if not images.numel():
        return images.clone()
    return torch.cat([_equalized(group) for group in torch.split(images, _BATCH)])


def _equalized(images: Tensor) -> Tensor:
    values = (images.flatten(1).nan_to_num().clamp(-_RANGE, _RANGE) * 2.0**14).round().long()
    values = values - values.amin()
    counts = torch.zeros(len(values), int(values.amax()) + 1, dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, values, torch.ones_like(values))
    below = 2 * counts.cumsum(dim=1) - counts  # twice the number of darker pixels, and equal ones once
    return (below.gather(1, values).float() / (2 * values.shape[1])).reshape(images.shape)


def to_images(values: Tensor, frames: Tensor, side: int) -> Tensor:
    """Resample ``[N, h, w]`` values of registered frames to their radiographs ``[N, side, side]``; 0 outside the frame.

    Args:
        values: float32 ``[N, h, w]``.
        frames: matrices ``[N, 2, 3]`` from :func:`affine`.
        side: side of the radiographs.
    """
    last = torch.tensor([0.0, 0.0, 1.0]).expand(len(frames), 1, 3)
    inverse = torch.linalg.inv(torch.cat([frames, last], dim=1))[:, :2]
    grid = affine_grid(inverse, [len(values), 1, side, side], align_corners=False)
    return grid_sample(values[:, None], grid, "bilinear", "zeros", align_corners=False)[:, 0]


def _comparable(images: Tensor) -> Tensor:
    return equalize_histogram(resized(images, _FILM))


def _unit(images: Tensor) -> Tensor:
    """``[N, 1, S, S]`` as ``[N, S, S]`` of mean 0 and length 1."""
    centred = images.flatten(1) - images.flatten(1).mean(dim=1, keepdim=True)
    unit: Tensor = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return unit.reshape(images.shape[0], *images.shape[-2:])


def _within(places: Tensor) -> Tensor:
    shares, shifts = places[..., :2], places[..., 2:4]
    inside = (shares >= _SHARES[0]) & (shares <= _SHARES[1]) & (shifts.abs() <= _SHIFT)
    square = (shares[..., 0] / shares[..., 1]).log().abs() <= _RATIO
    allowed: Tensor = inside.all(dim=-1) & square & (places[..., 4].abs() <= _TILT)
    return allowed


def affine(places: Tensor) -> Tensor:
    """Places ``[N, 5]`` as matrices ``[N, 2, 3]`` from the frame to the radiograph, both from -1 to 1."""
    across, down, x, y, tilt = places.unbind(dim=1)
    cosine, sine = torch.cos(tilt), torch.sin(tilt)
    rows = (torch.stack([across * cosine, -down * sine, x], 1), torch.stack([across * sine, down * cosine, y], 1))
    return torch.stack(rows, 1)


def _grid(places: Tensor, side: int) -> Tensor:
    """Where the frame's ``side`` by ``side`` pixels lie in a radiograph: ``[N, side, side, 2]``."""
    return sampling_grid(affine(places), side)


def sample(images: Tensor, places: Tensor, side: int) -> Tensor:
    """Sample the frame at ``places``, oversampled and averaged if the radiograph is finer than ``side``."""
    finer = max(1, math.ceil(images.shape[-1] * SHARE / side))
    sampled = grid_sample(images, _grid(places, side * finer), "bilinear", "border", False)
    return interpolate(sampled, (side, side), mode="area") if finer > 1 else sampled
