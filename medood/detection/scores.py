"""Out-of-distribution scores with one protocol; higher is more out-of-distribution; differentiable, for Grad-CAM."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from medood.detection.ensemble import log_divergence
from medood.detection.features import Features, head_entropy
from medood.detection.knn import largest_cosine, soft_cosine
from medood.detection.whitening import shrunk_whitening
from medood.errors import MedoodError

Fitted = dict[str, Tensor]
#: Temperature of the paper's score (``SoftNearest``).
TEMPERATURE = 0.04
#: Share of the bank's variance that the principal subspace of ``Residual`` holds.
PRINCIPAL_SHARE = 0.9
#: Largest number of bank rows to fit a covariance; more do not change it, and would have to be held in float64.
COVARIANCE_ROWS = 100_000
#: Standard deviations beyond which a normal tail is computed from its series.
_TAIL = 30.0


class Score(Protocol):
    """Protocol of a score: fitted once; its fitted tensors are stored in the detector's folder."""

    def fit(self, bank: Features, development: Features) -> Fitted:
        """Fit the score to in-distribution features.

        Args:
            bank: rows of the training scans.
            development: rows of in-distribution scans that were not trained on.
        """
        ...

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        """Scores ``[N]``, float32; higher is more out-of-distribution.

        Args:
            rows: features to score.
            bank: ``[M, D]`` in-distribution features, L2-normalised.
            fitted: what :meth:`fit` returned.
        """
        ...


class Nearest:
    """Minus the cosine to the nearest row of the bank (k-NN with k = 1).

    Args:
        center: subtract the bank's mean from the features first.
    """

    def __init__(self, center: bool = False) -> None:
        self._center = center

    def fit(self, bank: Features, development: Features) -> Fitted:
        return {"mean": bank.features.mean(dim=0)} if self._center else {}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        return -largest_cosine(rows.features, bank, fitted.get("mean"))


class SoftNearest:
    """The paper's score as ``-T (logsumexp(cos / T) - log M)``: the same ranking without overflow; approaches ``Nearest``.

    Args:
        center: subtract the bank's mean from the features first.

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
        rows = _subsample(bank.features)
        mean = rows.mean(dim=0)
        return {"mean": mean.float(), "whitening": shrunk_whitening(rows - mean).float()}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        whitened = (rows.features - fitted["mean"]) @ fitted["whitening"]
        return whitened.square().sum(dim=1).clamp(min=1e-12).sqrt()


class Residual:
    """Norm of a row's residual outside the bank's principal subspace (90 % of its variance).

    The feature part of ViM (Wang et al., CVPR 2022); its logit part has no counterpart without classes.
    """

    def fit(self, bank: Features, development: Features) -> Fitted:
        rows = _subsample(bank.features)
        mean = rows.mean(dim=0)
        variances, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean))  # ascending
        left_out = variances.cumsum(0) <= (1.0 - PRINCIPAL_SHARE) * variances.sum()
        left_out[0] = True  # a residual has at least one direction
        return {"mean": mean.float(), "axes": axes[:, left_out].float().contiguous()}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        residual = (rows.features - fitted["mean"]) @ fitted["axes"]
        return residual.square().sum(dim=1).clamp(min=1e-12).sqrt()


class HeadLogit:
    """Minus the largest cosine with a prototype: the head was trained to be uniform on negatives."""

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
    """The head's entropy minus the median of its entropies on turned copies of the same image.

    The head is confident on in-distribution images but was trained to be uniform on their copies: the score is far below 0.
    On any other image it is about as confident as on the copies, whether little or, by chance, highly: the score is about 0.
    The median tolerates one recognised copy, as with a radiograph that was stored mirrored.
    """

    def fit(self, bank: Features, development: Features) -> Fitted:
        return {}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        if rows.orientations is None:
            raise ValueError("head_contrast needs the entropies of turned copies; embed with orientations=True")
        return head_entropy(rows.outputs) - rows.orientations.median(dim=1).values


class Combined:
    """Fisher's rule: ``sqrt(-2 sum log p)`` over the parts, where p is a part's upper tail among development scans.

    The tail is that of a normal distribution (mean and standard deviation of the development scans' scores), which, unlike
    empirical ranks, has neither an end nor ties. A part that detects nothing adds nothing: it cannot cancel another part's
    evidence, as it would in a sum.
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
    """Minus the sum over all ensemble members: log divergences from uniform of the network's head and of its members' heads,
    and minus the distance of its appearance model, each standardised among development scans. A scan that one of them
    clearly rejects keeps a high score, whatever the others output.
    """

    def fit(self, bank: Features, development: Features) -> Fitted:
        outputs = self._outputs(development)
        return {"center": outputs.mean(dim=0), "spread": outputs.std(dim=0, correction=0).clamp(min=1e-6)}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        return self.parts(rows, fitted).sum(dim=1)

    @classmethod
    def parts(cls, rows: Features, fitted: Fitted) -> Tensor:
        """The summands, ``[N, K]``: of the head, of each member's head, and of the appearance model if there is one."""
        return -((cls._outputs(rows) - fitted["center"]) / fitted["spread"])

    @staticmethod
    def _outputs(rows: Features) -> Tensor:
        if rows.members is None:
            raise ValueError("ensemble needs members or an appearance model; the network has none")
        return torch.cat([log_divergence(rows.outputs)[:, None], rows.members], dim=1)


class Lesions:
    """What the lesion network finds: its highest places, plus softplus of the log odds of a fault of the whole image."""

    def fit(self, bank: Features, development: Features) -> Fitted:
        return {}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        if rows.lesions is None:
            raise ValueError("lesions needs a lesion network; the detector has none")
        return rows.lesions.sum(dim=1)


class Rotation:
    """How little the rotation head knows by which quarter turn an image was turned: minus its mean log probability, in nats.

    Source: Hendrycks et al., Using self-supervised learning can improve model robustness and uncertainty, NeurIPS 2019.
    """

    def fit(self, bank: Features, development: Features) -> Fitted:
        return {}

    def score(self, rows: Features, bank: Tensor, fitted: Fitted) -> Tensor:
        if rows.rotation is None:
            raise ValueError("rotation needs a rotation head; embed with turns=True")
        return rows.rotation


def fisher(standardised: Tensor) -> Tensor:
    """Fisher's rule over ``[K, N]`` standardised scores, with normal tails: ``[N]``."""
    z = standardised.double()
    near, tail = z.clamp(max=_TAIL), z.clamp(min=_TAIL)
    # Use the series in the far tail, where the exact form loses its gradient.
    series = 0.5 * tail.square() + tail.log() + 0.5 * math.log(2.0 * math.pi) + tail.pow(-2)
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
    "lesions": Lesions(),
    "rotation": Rotation(),
}
#: Scores that need the entropies of turned copies, and those that need the rotation head on turned copies.
ORIENTATION_SCORES, TURN_SCORES = {"head_contrast"}, {"rotation"}


def scores_of(rows: Features) -> dict[str, Score]:
    """The scores available for these rows: ``ensemble`` needs members or an appearance model, ``lesions`` its network,
    ``rotation`` its head."""
    parts = (("ensemble", rows.members), ("lesions", rows.lesions), ("rotation", rows.rotation))
    absent = {name for name, part in parts if part is None}
    return {name: score for name, score in SCORES.items() if name not in absent}


def fitted_shapes(dimensions: int, heads: int) -> dict[str, dict[str, tuple[int | None, ...]]]:
    """The shapes of each score's fitted tensors, by score and name; None stands for any length.

    Args:
        dimensions: number of feature dimensions.
        heads: total number of heads and appearance models: the network's, its members' and its appearance model.
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
    """Fit every score available for the rows.

    Raises:
        MedoodError: a feature is not a finite number.
    """
    for rows, set_name in ((bank, "training"), (development, "development")):
        values = torch.cat(
            [array for array in (rows.features, rows.outputs, rows.members, rows.lesions) if array is not None], dim=1
        )
        broken = ~torch.isfinite(values).all(dim=1)
        if broken.any():
            raise MedoodError(
                f"The network gives no finite features for {int(broken.sum())} of {len(rows)} {set_name} scans; its weights "
                "are damaged, training diverged, or the scans are all alike. Train again with a lower train.learning_rate, "
                "or with more scans."
            )
    return {name: score.fit(bank, development) for name, score in scores_of(development).items()}


def _subsample(rows: Tensor) -> Tensor:
    """At most ``COVARIANCE_ROWS`` rows, evenly spaced, in float64."""
    step = -(-len(rows) // COVARIANCE_ROWS)
    return rows[::step].double()
