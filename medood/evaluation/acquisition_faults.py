"""Acquisition faults made from in-distribution pictures: what a detector must flag whatever it learned from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]


def _quarters_permuted(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The four quarters in another order, each draw that keeps the order thrown away."""
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    top, left = height // 2, width // 2
    quarters = [pixels[r : r + top, c : c + left] for r in (0, top) for c in (0, left)]
    order = rng.permutation(4)
    while (order == np.arange(4)).all():
        order = rng.permutation(4)
    a, b, c, d = (quarters[i] for i in order)
    return np.concatenate([np.concatenate([a, b], axis=1), np.concatenate([c, d], axis=1)])


#: Fault by name: ``[H, W]`` pixels and a random generator to ``[H', W']`` pixels.
FAULTS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "rot90": lambda pixels, rng: np.rot90(pixels),
    "rot180": lambda pixels, rng: np.rot90(pixels, 2),
    "mirror": lambda pixels, rng: pixels[:, ::-1],
    "upside_down": lambda pixels, rng: pixels[::-1],
    "inverted": lambda pixels, rng: 1.0 - pixels,
    "perm4": _quarters_permuted,
    "crop_quarter": lambda pixels, rng: pixels[: pixels.shape[0] // 2, : pixels.shape[1] // 2],
}
