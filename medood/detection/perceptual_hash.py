"""Perceptual hashes, which identify the same image under another name, size or compression."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Hashes = npt.NDArray[np.uint8]

#: Side of the grid of differences; 256 bits.
_SIDE = 16
_BITS = _SIDE * _SIDE
#: Most bits by which two images of one scan may differ. Each of 1,000 chest radiographs differed from each of 6,000 others
#: by at least 10 bits, and 90 % of radiographs recompressed at JPEG quality 50 differed by at most 5.
NEAR = 6


def difference_hashes(images: Tensor) -> Hashes:
    """Difference hashes, uint8 ``[N, 32]``: whether each cell of a 16 x 16 grid is brighter than its left neighbour.

    Args:
        images: ``[N, 1, S, S]`` in [0, 1], as a detector prepares them.

    Source: the dHash of N. Krawetz, 2013.
    """
    small = torch.nn.functional.interpolate(images, (_SIDE, _SIDE + 1), mode="area").mean(dim=1)
    return np.packbits((small[:, :, 1:] > small[:, :, :-1]).reshape(len(images), -1).numpy(), axis=1)


class HashIndex:
    """Nearest-neighbour search in reference hashes by Hamming distance.

    Args:
        reference: ``[M, 32]``.
    """

    def __init__(self, reference: Hashes) -> None:
        self._words = _words(reference)

    def nearest(self, queries: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Hamming distance to the nearest reference hash, and its index: two arrays ``[N]``; 256, -1 if none."""
        distances = np.full(len(queries), _BITS, dtype=np.int64)
        places = np.full(len(queries), -1, dtype=np.int64)
        for i, query in enumerate(_words(queries) if len(self._words) else ()):
            bits = _distances(self._words, query)
            places[i] = bits.argmin()
            distances[i] = bits[places[i]]
        return distances, places


def near_pairs(hashes: Hashes, limit: int) -> list[tuple[int, int]]:
    """Pairs ``(i, j)``, i < j, that link all hashes that differ by at most ``limit`` bits.

    Equal hashes are linked only to the first of them, and only that one to other hashes, so that many images without
    contrast do not yield every possible pair.
    """
    distinct, first, group = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    pairs = [(int(first[g]), i) for i, g in enumerate(group.ravel()) if first[g] != i]
    words = _words(distinct)
    for i in range(len(words) - 1):
        near = np.nonzero(_distances(words[i + 1 :], words[i]) <= limit)[0] + i + 1
        pairs += [(int(first[i]), int(first[j])) for j in near]
    return sorted((min(pair), max(pair)) for pair in pairs)


def _words(hashes: Hashes) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(hashes).view(np.uint64)


def _distances(words: npt.NDArray[np.uint64], word: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    return np.asarray(np.bitwise_count(words ^ word).sum(axis=1, dtype=np.int64))
