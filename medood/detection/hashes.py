"""Perceptual hashes, by which the same picture is found again under another name, size or compression."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Hashes = npt.NDArray[np.uint8]

#: Side of the grid of differences; 256 bits.
_SIDE = 16
_BITS = _SIDE * _SIDE


def difference_hashes(pictures: Tensor) -> Hashes:
    """Whether each cell of a 16 x 16 grid is brighter than its left neighbour: uint8 ``[N, 32]``.

    Args:
        pictures: ``[N, 1, S, S]`` in [0, 1], as a detector prepares them.

    Source: the dHash of N. Krawetz, 2013.
    """
    small = torch.nn.functional.interpolate(pictures, (_SIDE, _SIDE + 1), mode="area")[:, 0]
    return np.packbits((small[:, :, 1:] > small[:, :, :-1]).reshape(len(pictures), -1).numpy(), axis=1)


class HashIndex:
    """Reference hashes, searched by the number of bits that differ.

    Args:
        reference: ``[M, 32]``.
    """

    def __init__(self, reference: Hashes) -> None:
        self._signs = _signs(reference)

    def nearest(self, queries: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Bits that differ from the nearest reference hash, and its place: two arrays ``[N]``; 256, -1 if none."""
        if not len(self._signs):
            return np.full(len(queries), _BITS), np.full(len(queries), -1)
        products, places = (_signs(queries) @ self._signs.T).max(dim=1)
        return ((_BITS - products) / 2).long().numpy(), places.numpy()


def near_pairs(hashes: Hashes, limit: int) -> list[tuple[int, int]]:
    """Pairs ``(i, j)``, i < j, of hashes that differ by at most ``limit`` bits."""
    signs = _signs(hashes)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(signs), 1024):
        rows, columns = torch.nonzero(signs[start : start + 1024] @ signs.T >= _BITS - 2 * limit, as_tuple=True)
        pairs += [(start + i, j) for i, j in zip(rows.tolist(), columns.tolist(), strict=True) if start + i < j]
    return pairs


def _signs(hashes: Hashes) -> Tensor:
    """Bits as 1 and -1: the product of two rows is 256 less twice their distance."""
    return torch.from_numpy(np.unpackbits(hashes, axis=1).astype(np.float32) * 2.0 - 1.0)
