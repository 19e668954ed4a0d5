"""What trivial means reach; a detector that does not beat them is worth nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Side of the pictures that the pixel baseline compares.
SIDE = 32


def pixel_knn(queries: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Minus the largest normalised cross-correlation with a reference picture; higher is more out-of-distribution.

    Args:
        queries: ``[N, 32, 32]``.
        reference: ``[M, 32, 32]`` in-distribution pictures.

    Returns:
        ``[N]`` in [-1, 1].
    """
    bank = _normalised(reference)
    parts = [-(_normalised(part) @ bank.T).max(axis=1) for part in np.array_split(queries, len(queries) // 512 + 1)]
    return np.concatenate(parts).astype(np.float64)


def _normalised(pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8), dtype=np.float32)
