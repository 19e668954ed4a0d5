"""Perceptual hashes, by which the same picture is found again under another name, size or compression."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Hashes = npt.NDArray[np.uint8]

#: Side of the grid of differences; 256 bits.
_SIDE = 16


def difference_hashes(pictures: Tensor) -> Hashes:
    """Whether each cell of a 16 x 16 grid is brighter than its left neighbour: uint8 ``[N, 32]``.

    Args:
        pictures: ``[N, 1, S, S]`` in [0, 1], as a detector prepares them.

    Source: the dHash of N. Krawetz, 2013.
    """
    small = torch.nn.functional.interpolate(pictures, (_SIDE, _SIDE + 1), mode="area")[:, 0]
    return np.packbits((small[:, :, 1:] > small[:, :, :-1]).reshape(len(pictures), -1).numpy(), axis=1)


def nearest_distance(queries: Hashes, reference: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Bits that differ from the nearest reference hash, and its place: two arrays ``[N]``.

    Args:
        queries: ``[N, 32]``.
        reference: ``[M, 32]``.
    """
    theirs = _signs(reference)
    distances, places = [], []
    for some in np.array_split(queries, len(queries) // 1024 + 1):
        products = _signs(some) @ theirs.T
        best = products.argmax(axis=1)
        places.append(best)
        distances.append((_SIDE * _SIDE - products[np.arange(len(some)), best]) // 2)
    return np.concatenate(distances).astype(np.int64), np.concatenate(places).astype(np.int64)


def _signs(hashes: Hashes) -> npt.NDArray[np.float32]:
    """Bits as 1 and -1: the product of two rows is 256 less twice their distance."""
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2.0 - 1.0


def near_pairs(hashes: Hashes, limit: int) -> list[tuple[int, int]]:
    """Pairs ``(i, j)``, i < j, of hashes that differ by at most ``limit`` bits."""
    signs = _signs(hashes)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(signs), 1024):
        products = signs[start : start + 1024] @ signs.T
        rows, columns = np.nonzero(products >= _SIDE * _SIDE - 2 * limit)
        pairs += [(start + int(i), int(j)) for i, j in zip(rows, columns, strict=True) if start + i < j]
    return pairs
