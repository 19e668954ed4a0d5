"""Lazily read rows of decoded images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class ConcatenatedArray:
    """Several memory-mapped arrays, concatenated and read on access."""

    def __init__(self, parts: list[npt.NDArray[np.uint8]]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        which = np.searchsorted(self._starts, index, side="right") - 1
        return np.stack([self._parts[w][i - self._starts[w]] for w, i in zip(which, index, strict=True)])


class RowSubset:
    """A subset of the rows of a memory-mapped array, read on access."""

    def __init__(self, images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> None:
        self._pictures = images
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return np.asarray(self._pictures[self._rows[index]])
