"""Films brought to a common frame: moved, scaled and tilted a little until they look most like the average film.

That takes out a hospital's framing, and films can be compared place by place. The match is the normalised cross-correlation
of histogram-equalised films, which no grey curve changes. The search is bounded: mirrored, turned and upside-down films stay
so, and what is no chest is not bent until it looks like one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate

Track = Callable[[Iterable[Any]], Iterator[Any]]

#: Share of each side of the average film that the frame shows.
SHARE = 0.8
#: Films that the average is taken of, evenly spaced; more do not change it.
MOST_FILMS = 2000
_FILM, _FRAME = 48, 24  # sides at which films are compared
_SCALES = (0.6, 0.68, 0.76, 0.84, 0.92, 1.0)
_SHIFTS = (-0.2, -0.1, 0.0, 0.1, 0.2)
#: Bounds of the search: shares of each side, the logarithm of their ratio, shifts in half sides, tilt in radians.
_SHARES, _RATIO, _SHIFT, _TILT = (0.5, 1.1), 0.22, 0.3, 0.2
#: Where the search begins: every share whose frame lies within the film.
_COARSE = [(s, s, x, y, 0.0) for s in _SCALES for x in _SHIFTS for y in _SHIFTS if max(abs(x), abs(y)) <= 1.0 - s + 1e-6]
_STEPS = (0.06, 0.06, 0.03, 0.03, 0.015, 0.015)
_ROUNDS = 3
_BATCH = 64  # films that are searched at once


class Registration(nn.Module):
    """Finds where the average film lies in a film.

    Attributes:
        template: float32 ``[24, 24]``, the average of registered films, of mean 0 and length 1.
    """

    template: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("template", torch.zeros(_FRAME, _FRAME))

    def fit(self, films: Tensor, track: Track = iter) -> None:
        """Learn the average of ``[N, 1, S, S]`` films in [0, 1], beginning with the middle of each.

        Args:
            films: films that belong.
            track: draws progress.
        """
        small = _comparable(films[:: -(-len(films) // MOST_FILMS)])
        middle = torch.tensor([SHARE, SHARE, 0.0, 0.0, 0.0])
        places = middle.expand(len(small), 5)
        for _ in track(range(_ROUNDS)):
            seen = grid_sample(small, _grid(places, _FRAME), "bilinear", "border", False)
            self.template.copy_(_unit(_unit(seen).mean(dim=0, keepdim=True))[0])
            places = self._search(small)
            # The frame keeps its size, place and tilt on average; the average of the best matches would shrink.
            mean = places.mean(dim=0)
            places = torch.cat([places[:, :2] * SHARE / mean[:2], places[:, 2:] - mean[2:]], dim=1)

    def places(self, films: Tensor) -> Tensor:
        """Where the frame lies in ``[N, 1, S, S]`` films: ``[N, 5]``, shares across and down, shifts right and down in half
        sides, tilt in radians."""
        return self._search(_comparable(films))

    def forward(self, films: Tensor, side: int) -> Tensor:
        """``[N, 1, S, S]`` films in [0, 1] as ``[N, 1, side, side]`` registered ones; outside a film its border goes on."""
        return _sampled(films, self.places(films), side)

    def _search(self, small: Tensor) -> Tensor:
        return torch.cat([self._search_some(some) for some in torch.split(small, _BATCH)])

    def _search_some(self, small: Tensor) -> Tensor:
        every = torch.arange(len(small), device=small.device)
        coarse = torch.tensor(_COARSE, device=small.device)
        best, first = self._match(small, coarse.expand(len(small), -1, 5)).max(dim=1)
        places = coarse[first]
        for step in _STEPS:
            for number in range(5):
                moved = places[:, None].repeat(1, 2, 1)
                moved[:, :, number] += torch.tensor([step, -step], device=small.device)
                found = self._match(small, moved).where(_within(moved), -2.0)
                sign = (found[:, 0] <= best).long()  # the second way where the first is no better
                better = found[every, sign] > best
                best = best.where(~better, found[every, sign])
                places = places.where(~better[:, None], moved[every, sign])
        return places

    def _match(self, small: Tensor, candidates: Tensor) -> Tensor:
        """Cross-correlations ``[N, K]`` of ``[N, K, 5]`` candidates with the template."""
        count, many = candidates.shape[:2]
        grid = _grid(candidates.flatten(0, 1), _FRAME).reshape(count, many * _FRAME, _FRAME, 2)
        seen = grid_sample(small, grid, "bilinear", "border", False).reshape(count * many, 1, _FRAME, _FRAME)
        return _unit(seen).flatten(1).mul(self.template.flatten()).sum(dim=1).reshape(count, many)


def equalized(pictures: Tensor) -> Tensor:
    """``[N, 1, S, S]`` with each grey value as the share of the picture's pixels that are darker (half of equal ones).

    Values that differ by less than ``2**-14`` may count as equal, so that rounding does not order an area of one grey.
    """
    values = (pictures.flatten(1) * 2.0**14).round()
    ordered = values.sort(dim=1).values
    darker = torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)
    return (darker.float() / (2 * values.shape[1])).reshape(pictures.shape)


def _comparable(films: Tensor) -> Tensor:
    return equalized(interpolate(films, (_FILM, _FILM), mode="bilinear", antialias=True, align_corners=False))


def _unit(pictures: Tensor) -> Tensor:
    """``[N, 1, S, S]`` as ``[N, S, S]`` of mean 0 and length 1."""
    centred = pictures.flatten(1) - pictures.flatten(1).mean(dim=1, keepdim=True)
    unit: Tensor = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return unit.reshape(len(pictures), *pictures.shape[-2:])


def _within(places: Tensor) -> Tensor:
    shares, shifts = places[..., :2], places[..., 2:4]
    inside = (shares >= _SHARES[0]) & (shares <= _SHARES[1]) & (shifts.abs() <= _SHIFT)
    square = (shares[..., 0] / shares[..., 1]).log().abs() <= _RATIO
    allowed: Tensor = inside.all(dim=-1) & square & (places[..., 4].abs() <= _TILT)
    return allowed


def affine(places: Tensor) -> Tensor:
    """Places ``[N, 5]`` as matrices ``[N, 2, 3]`` from the frame to the film, both from -1 to 1."""
    across, down, x, y, tilt = places.unbind(dim=1)
    cosine, sine = torch.cos(tilt), torch.sin(tilt)
    rows = (torch.stack([across * cosine, -down * sine, x], 1), torch.stack([across * sine, down * cosine, y], 1))
    return torch.stack(rows, 1)


def _grid(places: Tensor, side: int) -> Tensor:
    """Where the frame's ``side`` by ``side`` pixels lie in a film: ``[N, side, side, 2]``."""
    return affine_grid(affine(places), [len(places), 1, side, side], align_corners=False)


def _sampled(films: Tensor, places: Tensor, side: int) -> Tensor:
    """The frame at ``places``, drawn finely and averaged where the film is finer than ``side``."""
    finer = max(1, math.ceil(films.shape[-1] * SHARE / side))
    seen = grid_sample(films, _grid(places, side * finer), "bilinear", "border", False)
    return interpolate(seen, (side, side), mode="area") if finer > 1 else seen
