"""Trivial baselines; a detector that does not beat them is worthless."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import laplace
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from medood.scans.scan import Scan
from medood.scans.transforms import ResizeTo

#: Side of the images that the pixel baselines compare.
SIDE = 32
_COMPONENTS = 64
_shrink, _coarse = ResizeTo(SIDE), ResizeTo(64)

Matrix = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trivial:
    """Trivial features of scans, which ignore what the scans show.

    Attributes:
        small: ``[N, 32, 32]`` images.
        grey: ``[N, 10]``: quantiles 5, 25, 50, 75 and 95 %, mean, standard deviation, mean and standard deviation of the
            outer tenth, mean gradient.
        file: ``[N, 4]``: logarithms of rows, columns, their ratio, and bytes of the file.
        sharpness: ``[N, 2]``: logarithms of the standard deviations of the Laplacian at full size and at 64 x 64 pixels.
    """

    small: Matrix
    grey: Matrix
    file: Matrix
    sharpness: Matrix


def trivial(scan: Scan, size: int) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """The four rows of trivial features of one scan; ``size`` is the size of its file in bytes."""
    pixels = scan.pixels[0]
    small = _shrink(torch.from_numpy(np.ascontiguousarray(scan.pixels)))
    height, width = pixels.shape
    rim = max(1, min(height, width) // 10)
    border = np.concatenate([part.ravel() for part in (pixels[:rim], pixels[-rim:], pixels[:, :rim], pixels[:, -rim:])])
    gradient = sum(float(np.abs(step).mean()) for axis in (0, 1) if (step := np.diff(pixels, axis=axis)).size)
    quantiles = np.quantile(pixels, [0.05, 0.25, 0.5, 0.75, 0.95])
    grey = np.r_[quantiles, pixels.mean(), pixels.std(), border.mean(), border.std(), gradient]
    file = np.log([height, width, height / width, max(size, 1)])
    coarse = np.asarray(_coarse(torch.from_numpy(np.ascontiguousarray(scan.pixels))))[0]
    sharpness = np.log([max(float(laplace(image).std()), 1e-6) for image in (pixels, coarse)])
    return np.asarray(small, dtype=np.float32)[0], *(row.astype(np.float32) for row in (grey, file, sharpness))


def stack(rows: Sequence[tuple[Matrix, Matrix, Matrix, Matrix]]) -> Trivial:
    """Stack rows of :func:`trivial` into arrays."""
    return Trivial(*(np.stack(column) for column in zip(*rows, strict=True)))


def baseline_scores(
    reference: Trivial,
    queries: dict[tuple[str, str], Trivial],
    track: Callable[[Iterable[tuple[tuple[str, str], Trivial]]], Iterable[tuple[tuple[str, str], Trivial]]] = iter,
) -> dict[str, dict[tuple[str, str], Scores]]:
    """Scores ``[N]`` of every baseline for every set; higher is more out-of-distribution.

    Args:
        reference: in-distribution scans that the detector learned from.
        queries: sets of scans by key.
        track: wraps the sets to show progress.
    """
    flat = _flat(reference.small)
    components = PCA(min(_COMPONENTS, *flat.shape), svd_solver="randomized", random_state=0).fit(flat)
    grey, file = _Distance(reference.grey), _Distance(reference.file)
    coded = _Distance(components.transform(flat))
    scores: dict[str, dict[tuple[str, str], Scores]] = {}
    for key, rows in track(queries.items()):
        code = components.transform(_flat(rows.small))
        residual = np.linalg.norm(_flat(rows.small) - components.inverse_transform(code), axis=1)
        for name, values in {
            "pixel_knn": pixel_knn(rows.small, reference.small),
            "pca_mahalanobis": coded(code),
            "pca_residual": residual,
            "grey_statistics": grey(rows.grey),
            "file_facts": file(rows.file),
        }.items():
            scores.setdefault(name, {})[key] = np.asarray(values, dtype=np.float64)
    return scores


def pixel_knn(queries: Matrix, reference: Matrix) -> Scores:
    """Minus the largest normalised cross-correlation with a reference image; higher is more out-of-distribution.

    Args:
        queries: ``[N, 32, 32]``.
        reference: ``[M, 32, 32]`` in-distribution images.

    Returns:
        ``[N]`` in [-1, 1].
    """
    bank = _normalise(reference)
    parts = [-(_normalise(part) @ bank.T).max(axis=1) for part in np.array_split(queries, len(queries) // 512 + 1)]
    return np.concatenate(parts).astype(np.float64)


class _Distance:
    """Mahalanobis distance to standardised rows, with a shrunk covariance."""

    def __init__(self, rows: Matrix) -> None:
        self._mean, self._spread = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
        self._covariance = LedoitWolf(assume_centered=True).fit((rows - self._mean) / self._spread)

    def __call__(self, rows: Matrix) -> Scores:
        return np.asarray(np.sqrt(self._covariance.mahalanobis((rows - self._mean) / self._spread)))


def _flat(images: Matrix) -> Matrix:
    return images.reshape(len(images), -1)


def _normalise(images: Matrix) -> Matrix:
    rows = images.reshape(len(images), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8), dtype=np.float32)
