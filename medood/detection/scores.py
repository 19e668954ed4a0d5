"""Out-of-distribution scores. One protocol; higher is more out-of-distribution; differentiable, so Grad-CAM can ask why."""

from __future__ import annotations

from typing import Protocol

import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from medood.detection.features import Features

Fitted = dict[str, Tensor]
#: Temperature of the authors' score.
TEMPERATURE = 0.04


class Score(Protocol):
    """A score is fitted on the bank once; what it learns is tensors that lie in the detector's folder."""

    def fit(self, bank: Features) -> Fitted:
        """Learn from in-distribution rows."""
        ...

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        """``[N]`` float32, higher is more out-of-distribution.

        Args:
            rows: what is scored.
            bank: ``[M, D]`` in-distribution features, L2-normalised.
            fitted: what :meth:`fit` returned.
        """
        ...


class Nearest:
    """Minus the cosine to the nearest row of the bank."""

    def fit(self, bank: Features) -> Fitted:
        return {}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        return -(rows.features @ bank.T).amax(dim=1)


class SoftNearest:
    """The authors' score as ``-T (logsumexp(cos / T) - log M)``: their ranking without overflow; tends to ``Nearest``."""

    def fit(self, bank: Features) -> Fitted:
        return {}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        cosines = rows.features @ bank.T / TEMPERATURE
        return -TEMPERATURE * (torch.logsumexp(cosines, dim=1) - torch.log(torch.tensor(float(len(bank)))))


class Mahalanobis:
    """Mahalanobis distance to the bank's mean, with Ledoit and Wolf's shrunk covariance (scikit-learn)."""

    def fit(self, bank: Features) -> Fitted:
        rows = bank.features.double()
        mean = rows.mean(dim=0)
        # The scale keeps the covariance of unit vectors away from the floor that a bank of one needs.
        shrunk = LedoitWolf(assume_centered=True).fit(((rows - mean) * 100.0).numpy())
        covariance = torch.from_numpy(shrunk.covariance_) + 1e-6 * torch.eye(rows.shape[1], dtype=torch.float64)
        precision = torch.linalg.inv(covariance) * 1e4
        return {"mean": mean.float(), "whitening": torch.linalg.cholesky(precision).float()}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        whitened = (rows.features - fitted["mean"]) @ fitted["whitening"]
        return whitened.square().sum(dim=1).clamp(min=1e-12).sqrt()


class HeadScore:
    """Minus the largest cosine with a prototype: the head was taught to be uniform on negatives."""

    def fit(self, bank: Features) -> Fitted:
        return {}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        return -rows.outputs.amax(dim=1)


class Combined:
    """Sum of ``Mahalanobis`` and ``HeadScore``, each standardised by its mean and standard deviation on the bank."""

    def __init__(self) -> None:
        self._parts: dict[str, Score] = {"mahalanobis": Mahalanobis(), "head": HeadScore()}

    def fit(self, bank: Features) -> Fitted:
        fitted: Fitted = {}
        for name, part in self._parts.items():
            inner = part.fit(bank)
            values = part.score(bank, bank.features, inner)
            fitted |= {f"{name}.{key}": value for key, value in inner.items()}
            fitted[f"{name}.center"] = values.mean()
            fitted[f"{name}.spread"] = values.std(correction=0).clamp(min=1e-6)
        return fitted

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        total = torch.zeros(len(rows), device=rows.features.device)
        for name, part in self._parts.items():
            inner = {key.removeprefix(f"{name}."): v for key, v in fitted.items() if key.startswith(f"{name}.")}
            value = part.score(rows, bank, inner)
            total = total + (value - inner["center"]) / inner["spread"]
        return total


#: Every score by the name that a configuration uses.
SCORES: dict[str, Score] = {
    "combined": Combined(),
    "mahalanobis": Mahalanobis(),
    "head": HeadScore(),
    "nearest": Nearest(),
    "soft_nearest": SoftNearest(),
}
