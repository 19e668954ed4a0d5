"""Synthetic acquisition faults in in-distribution images, which every detector must flag.

They are written here anew, and not taken from :mod:`medood.negatives`: a benchmark that planted the training negatives with
their own code would also reward a network that recognises that code, such as its resampling or its borders.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]


def _permute_quarters(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Permute the four quarters at random, never to the original order."""
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    top, left = height // 2, width // 2
    quarters = [pixels[r : r + top, c : c + left] for r in (0, top) for c in (0, left)]
    order = rng.permutation(4)
    while (order == np.arange(4)).all():
        order = rng.permutation(4)
    a, b, c, d = (quarters[i] for i in order)
    return np.concatenate([np.concatenate([a, b], axis=1), np.concatenate([c, d], axis=1)])


#: Faults by name: functions of ``[H, W]`` pixels and a random generator that return ``[H', W']`` pixels.
FAULTS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "rot90": lambda pixels, rng: np.rot90(pixels),
    "rot180": lambda pixels, rng: np.rot90(pixels, 2),
    "mirror": lambda pixels, rng: pixels[:, ::-1],
    "upside_down": lambda pixels, rng: pixels[::-1],
    "inverted": lambda pixels, rng: 1.0 - pixels,
    "perm4": _permute_quarters,
    "crop_quarter": lambda pixels, rng: pixels[: pixels.shape[0] // 2, : pixels.shape[1] // 2],
}
