"""A statistical appearance model: the principal components of registered radiographs."""

from __future__ import annotations

import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from medood.detection.registration import Registration, Track, affine, equalize_histogram, sample
from medood.detection.whitening import shrunk_whitening

#: Side of the images that are compared, and the number of principal components.
SIDE, COMPONENTS = 32, 128
#: Largest number of radiographs to fit; more do not change the model.
MAX_IMAGES = 20_000
_BATCH = 500


class Appearance(nn.Module):
    """Mahalanobis distance of a registered radiograph from the average one, in the space of the principal components.

    Radiographs are compared by their histogram-equalised grey values, normalised to mean 0 and length 1; the covariance is
    the Ledoit-Wolf estimate (scikit-learn). The model holds the average and the directions of variation; single radiographs
    cannot be reconstructed from it if there were many more radiographs than components.

    Source: Turk and Pentland, Eigenfaces for recognition, 1991; Moghaddam and Pentland, Probabilistic visual learning for
    object representation, 1997.

    Attributes:
        registration: registers radiographs to the common frame.
        mean: float32 ``[1024]``.
        axes: float32 ``[1024, 128]``, whitened principal directions; unused columns are 0 if there were fewer radiographs.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.registration = Registration()
        self.register_buffer("mean", torch.zeros(SIDE * SIDE))
        self.register_buffer("axes", torch.zeros(SIDE * SIDE, COMPONENTS))

    def fit(self, images: Tensor, seed: int, track: Track = iter) -> None:
        """Fit the model to in-distribution radiographs.

        Args:
            images: float32 ``[N, 1, S, S]`` in [0, 1], at least two, preferably several hundred: fewer than 129 give
                fewer directions, and deviations along the missing ones are not detected.
            seed: seed of the randomised PCA.
            track: wraps an iterable to show progress.
        """
        self.registration.fit(images, track)
        parts = track(torch.split(images, _BATCH))
        rows = torch.cat([self._rows(part, self.registration.places(part)) for part in parts]).numpy()
        count = min(COMPONENTS, len(rows) - 1)
        pca = PCA(count, svd_solver="randomized", random_state=seed).fit(rows)
        whitening = shrunk_whitening(torch.from_numpy(pca.transform(rows).astype("float64")))
        self.mean.copy_(torch.from_numpy(pca.mean_))
        self.axes.zero_()[:, :count] = (torch.from_numpy(pca.components_).double().T @ whitening).float()

    def forward(self, images: Tensor, places: Tensor | None = None) -> Tensor:
        """Distance ``[N]``, higher is more out-of-distribution.

        Args:
            images: float32 ``[N, 1, S, S]`` radiographs in [0, 1].
            places: ``[N, 5]``, their frames, if they are registered already.
        """
        places = self.registration.places(images) if places is None else places
        distance: Tensor = ((self._rows(images, places) - self.mean) @ self.axes).norm(dim=1)
        return distance

    def differences(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Affine matrices ``[N, 2, 3]`` of the frames of ``[N, 1, S, S]`` radiographs, and the differences ``[N, 1024]`` of
        the registered radiographs from the mean."""
        places = self.registration.places(images)
        return affine(places), self._rows(images, places) - self.mean

    def _rows(self, images: Tensor, places: Tensor) -> Tensor:
        values = equalize_histogram(sample(images, places, SIDE)).flatten(1)
        centred = values - values.mean(dim=1, keepdim=True)
        rows: Tensor = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-6)
        return rows
