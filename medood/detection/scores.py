"""Out-of-distribution scores. One protocol; higher is more out-of-distribution; differentiable, so Grad-CAM can ask why."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from medood.detection.features import Features, head_entropy, log_divergence
from medood.detection.knn import largest_cosine, soft_cosine
from medood.errors import MedoodError

Fitted = dict[str, Tensor]
#: Temperature of the authors' score.
TEMPERATURE = 0.04
#: Share of the bank's variance that the principal subspace of ``Residual`` holds.
PRINCIPAL_SHARE = 0.9
#: Rows of the bank that a covariance is learned from; more do not change it, and would have to be held in float64.
COVARIANCE_ROWS = 100_000
#: Standard deviations beyond which a normal tail is taken by its series.
_TAIL = 30.0


class Score(Protocol):
    """A score is fitted once; what it learns is tensors that lie in the detector's folder."""

    def fit(self, bank: Features, development: Features) -> Fitted:
        """Learn from in-distribution rows.

        Args:
            bank: rows of the training scans.
            development: rows of in-distribution scans that were not trained on.
        """
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
    """Minus the cosine to the nearest row of the bank (k-NN with k = 1).

    Args:
        center: compare features less the bank's mean.
    """

    def __init__(self, center: bool = False) -> None:
        self._center = center

    def fit(self, bank: Features, development: Features) -> Fitted:
        return {"mean": bank.features.mean(dim=0)} if self._center else {}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        return -largest_cosine(rows.features, bank, fitted.get("mean"))


class SoftNearest:
    """The authors' score as ``-T (logsumexp(cos / T) - log M)``: their ranking without overflow; tends to ``Nearest``.

    Args:
        center: compare features less the bank's mean.

    Source: Rafiee et al., arXiv 2201.06378.
    """

    def __init__(self, center: bool = False) -> None:
        self._center = center

    def fit(self, bank: Features, development: Features) -> Fitted:
        return {"mean": bank.features.mean(dim=0)} if self._center else {}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        return -soft_cosine(rows.features, bank, TEMPERATURE, fitted.get("mean"))


class Mahalanobis:
    """Mahalanobis distance to the bank's mean, with Ledoit and Wolf's shrunk covariance (scikit-learn)."""

    def fit(self, bank: Features, development: Features) -> Fitted:
        rows = _thinned(bank.features)
        mean = rows.mean(dim=0)
        # The scale keeps the covariance of unit vectors away from the floor that a bank of one needs.
        shrunk = LedoitWolf(assume_centered=True).fit(((rows - mean) * 100.0).numpy())
        covariance = torch.from_numpy(shrunk.covariance_) + 1e-6 * torch.eye(rows.shape[1], dtype=torch.float64)
        precision = torch.linalg.inv(covariance) * 1e4
        return {"mean": mean.float(), "whitening": torch.linalg.cholesky(precision).float()}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        whitened = (rows.features - fitted["mean"]) @ fitted["whitening"]
        return whitened.square().sum(dim=1).clamp(min=1e-12).sqrt()


class Residual:
    """Length of what the bank's principal subspace (90 % of its variance) leaves of a row.

    The feature part of ViM (Wang et al., CVPR 2022); its logit part has no counterpart without classes.
    """

    def fit(self, bank: Features, development: Features) -> Fitted:
        rows = _thinned(bank.features)
        mean = rows.mean(dim=0)
        variances, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean))  # rising
        left_out = variances.cumsum(0) <= (1.0 - PRINCIPAL_SHARE) * variances.sum()
        left_out[0] = True  # a residual has at least one direction
        return {"mean": mean.float(), "axes": axes[:, left_out].float().contiguous()}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        left = (rows.features - fitted["mean"]) @ fitted["axes"]
        return left.square().sum(dim=1).clamp(min=1e-12).sqrt()


class HeadLogit:
    """Minus the largest cosine with a prototype: the head was taught to be uniform on negatives."""

    def fit(self, bank: Features, development: Features) -> Fitted:
        return {}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        return -rows.outputs.amax(dim=1)


class HeadEntropy:
    """Entropy of the head's softmax in nats at the student's temperature."""

    def fit(self, bank: Features, development: Features) -> Fitted:
        return {}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        return head_entropy(rows.outputs)


class HeadContrast:
    """The head's entropy less the median of its entropies on turned copies of the same picture.

    What belongs is recognised, and its copies, on which the head was taught to be uniform, are not: far below 0. Of anything
    else the head says as much as of its copies, be that little or, by accident, much: about 0. The median bears one copy
    that is recognised, as that of a film which came mirrored is.
    """

    def fit(self, bank: Features, development: Features) -> Fitted:
        return {}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        if rows.turned is None:
            raise ValueError("head_contrast needs the entropies of turned copies; embed with turned=True")
        return head_entropy(rows.outputs) - rows.turned.median(dim=1).values


class Combined:
    """Fisher's rule: ``sqrt(-2 sum log p)`` over the parts, p being a part's upper tail among development scans.

    The tail is a normal one (mean and standard deviation of the development scans' scores), so that it neither ends nor ties
    where empirical ranks do. A part that sees nothing adds nothing: it cannot cancel what another sees, as it does in a sum.
    """

    def __init__(self, parts: dict[str, Score]) -> None:
        self._parts = parts

    def fit(self, bank: Features, development: Features) -> Fitted:
        fitted: Fitted = {}
        for name, part in self._parts.items():
            inner = part.fit(bank, development)
            values = part.score(development, bank.features, inner)
            fitted |= {f"{name}.{key}": value for key, value in inner.items()}
            fitted[f"{name}.center"] = values.mean()
            fitted[f"{name}.spread"] = values.std(correction=0).clamp(min=1e-6)
        return fitted

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        values = []
        for name, part in self._parts.items():
            inner = {key.removeprefix(f"{name}."): v for key, v in fitted.items() if key.startswith(f"{name}.")}
            values.append((part.score(rows, bank, inner) - inner["center"]) / inner["spread"])
        return fisher(torch.stack(values))


class Ensemble:
    """Minus the sum of all there is to ask: log divergences from uniform of the network's head and of its members' heads,
    and minus the distance of its appearance model, each standardised among development scans. What one of them knows well
    to be strange stays far out, whatever the others say.
    """

    def fit(self, bank: Features, development: Features) -> Fitted:
        said = self._said(development)
        return {"center": said.mean(dim=0), "spread": said.std(dim=0, correction=0).clamp(min=1e-6)}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        return self.parts(rows, fitted).sum(dim=1)

    @classmethod
    def parts(cls, rows: Features, fitted: Fitted) -> Tensor:
        """What is summed, ``[N, K]``: of the head, of each member's head, and of the appearance model where there is one."""
        return -((cls._said(rows) - fitted["center"]) / fitted["spread"])

    @staticmethod
    def _said(rows: Features) -> Tensor:
        if rows.members is None:
            raise ValueError("ensemble needs members or an appearance model; the network has none")
        return torch.cat([log_divergence(rows.outputs)[:, None], rows.members], dim=1)


def fisher(standardised: Tensor) -> Tensor:
    """Fisher's rule over ``[K, N]`` standardised scores, with normal tails: ``[N]``."""
    z = standardised.double()
    near, beyond = z.clamp(max=_TAIL), z.clamp(min=_TAIL)
    # Beyond the tail its series: the exact form loses its gradient there.
    series = 0.5 * beyond.square() + beyond.log() + 0.5 * math.log(2.0 * math.pi) + beyond.pow(-2)
    surprise: Tensor = 2.0 * torch.where(z > _TAIL, series, -torch.special.log_ndtr(-near)).sum(dim=0)
    return surprise.clamp(min=1e-30).sqrt().float()


#: The parts of ``combined``.
COMBINED: dict[str, Score] = {"mahalanobis": Mahalanobis(), "head_logit": HeadLogit()}
#: Every score by the name that a configuration uses.
SCORES: dict[str, Score] = {
    "nearest": Nearest(),
    "nearest_centered": Nearest(center=True),
    "soft_nearest": SoftNearest(),
    "soft_nearest_centered": SoftNearest(center=True),
    "mahalanobis": Mahalanobis(),
    "residual": Residual(),
    "head_logit": HeadLogit(),
    "head_entropy": HeadEntropy(),
    "head_contrast": HeadContrast(),
    "combined": Combined(COMBINED),
    "ensemble": Ensemble(),
}
#: Scores that need the entropies of turned copies.
TURNED = {"head_contrast"}


def scores_of(rows: Features) -> dict[str, Score]:
    """The scores that these rows can have: ``ensemble`` needs members or an appearance model."""
    return {name: score for name, score in SCORES.items() if name != "ensemble" or rows.members is not None}


def fitted_shapes(dimensions: int, heads: int) -> dict[str, dict[str, tuple[int | None, ...]]]:
    """The shapes of what each score learns, by score and name; none is a side of any length.

    Args:
        dimensions: of a feature.
        heads: number of the network's head, its members' heads and its appearance model together.
    """
    mean: tuple[int | None, ...] = (dimensions,)
    mahalanobis = {"mean": mean, "whitening": (dimensions, dimensions)}
    parts: dict[str, dict[str, tuple[int | None, ...]]] = {"mahalanobis": mahalanobis, "head_logit": {}}
    scale: dict[str, tuple[int | None, ...]] = {"center": (), "spread": ()}
    return {
        **{name: {} for name in SCORES},
        "nearest_centered": {"mean": mean},
        "soft_nearest_centered": {"mean": mean},
        "mahalanobis": mahalanobis,
        "residual": {"mean": mean, "axes": (dimensions, None)},
        "combined": {f"{name}.{key}": shape for name in COMBINED for key, shape in {**parts[name], **scale}.items()},
        "ensemble": {"center": (heads,), "spread": (heads,)},
    }


def fit_all(bank: Features, development: Features) -> dict[str, Fitted]:
    """Fit every score that the rows can have.

    Raises:
        MedoodError: a feature is not a finite number.
    """
    for rows, what in ((bank, "training"), (development, "development")):
        said = torch.cat([some for some in (rows.features, rows.outputs, rows.members) if some is not None], dim=1)
        broken = ~torch.isfinite(said).all(dim=1)
        if broken.any():
            raise MedoodError(
                f"The network gives no finite features for {int(broken.sum())} of {len(rows)} {what} scans; its weights are "
                "damaged, training diverged, or the scans are all alike. Train again with a lower train.learning_rate, or "
                "with more scans."
            )
    return {name: score.fit(bank, development) for name, score in scores_of(development).items()}


def _thinned(rows: Tensor) -> Tensor:
    """At most ``COVARIANCE_ROWS`` rows, evenly spaced, in float64."""
    step = -(-len(rows) // COVARIANCE_ROWS)
    return rows[::step].double()
