"""How registered films look: a statistical appearance model, the principal components of films brought to a common frame."""

from __future__ import annotations

import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from torch import Tensor, nn

from medood.detection.registration import Registration, Track, affine, equalized

#: Side of the pictures that are compared, and the number of principal components.
SIDE, COMPONENTS = 32, 128
#: Films that need be learned from at most; more do not change what is learned.
MOST_FILMS = 20_000
_BATCH = 500


class Appearance(nn.Module):
    """Mahalanobis distance from the average registered film, within the principal components of such films.

    A film is compared by its histogram-equalised grey values, of mean 0 and length 1; the covariance is Ledoit and Wolf's
    (scikit-learn). It holds an average and directions in which films vary, from which no film can be had back where there
    were many more films than components.

    Source: Turk and Pentland, Eigenfaces for recognition, 1991; Moghaddam and Pentland, Probabilistic visual learning for
    object representation, 1997.

    Attributes:
        registration: brings films to the common frame.
        mean: float32 ``[1024]``.
        axes: float32 ``[1024, 128]``, whitened principal directions; 0 where there were fewer films.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.registration = Registration()
        self.register_buffer("mean", torch.zeros(SIDE * SIDE))
        self.register_buffer("axes", torch.zeros(SIDE * SIDE, COMPONENTS))

    def fit(self, films: Tensor, seed: int, track: Track = iter) -> None:
        """Learn from films that belong.

        Args:
            films: float32 ``[N, 1, S, S]`` in [0, 1], two at least and better some hundreds: fewer than 129 give fewer
                directions, and what differs in another one is not seen.
            seed: of the randomised decomposition.
            track: draws progress.
        """
        self.registration.fit(films, track)
        rows = torch.cat([self._rows(part) for part in track(torch.split(films, _BATCH))]).numpy()
        count = min(COMPONENTS, len(rows) - 1)
        found = PCA(count, svd_solver="randomized", random_state=seed).fit(rows)
        # The scale keeps the covariance of unit vectors away from the floor that films which are all alike need.
        shrunk = LedoitWolf(assume_centered=True).fit(found.transform(rows).astype("float64") * 100.0)
        covariance = torch.from_numpy(shrunk.covariance_) + 1e-6 * torch.eye(count, dtype=torch.float64)
        whitening = torch.linalg.cholesky(torch.linalg.inv(covariance) * 1e4)
        self.mean.copy_(torch.from_numpy(found.mean_))
        self.axes.zero_()[:, :count] = (torch.from_numpy(found.components_).double().T @ whitening).float()

    def forward(self, films: Tensor) -> Tensor:
        """Distance ``[N]`` of ``[N, 1, S, S]`` films in [0, 1]; it grows with strangeness."""
        distance: Tensor = ((self._rows(films) - self.mean) @ self.axes).norm(dim=1)
        return distance

    def differences(self, films: Tensor) -> tuple[Tensor, Tensor]:
        """Where the frame lies in each of ``[N, 1, S, S]`` films, as affine matrices ``[N, 2, 3]``, and how the registered
        film differs from the average one, ``[N, 1024]``."""
        return affine(self.registration.places(films)), self._rows(films) - self.mean

    def _rows(self, films: Tensor) -> Tensor:
        values = equalized(self.registration(films, SIDE)).flatten(1)
        centred = values - values.mean(dim=1, keepdim=True)
        rows: Tensor = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-6)
        return rows
