"""Features and head outputs of images, from one deterministic view each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medood.detection.ensemble import HEAD_TEMPERATURE, EnsembleNetwork


@dataclass(frozen=True)
class Features:
    """Features and outputs of N images.

    Attributes:
        features: float32 ``[N, D]``, L2-normalised backbone features of the teacher.
        outputs: float32 ``[N, K]``, the head's cosines with the prototypes.
        orientations: float32 ``[N, 5]``, the head's entropy in nats on the image mirrored, upside down, and turned by 180,
            90 and 270 degrees; None if not requested.
        members: float32 ``[N, M]``, :meth:`medood.detection.ensemble.EnsembleNetwork.other_parts`; None if there are none.
        lesions: float32 ``[N, 2]``, :meth:`medood.detection.lesions.network.LesionNetwork.parts`; None without one.
        rotation: float32 ``[N]``, :meth:`medood.detection.ensemble.EnsembleNetwork.turn_surprise`; None without a rotation
            head, or if it was not requested.
    """

    features: Tensor
    outputs: Tensor
    orientations: Tensor | None = None
    members: Tensor | None = None
    lesions: Tensor | None = None
    rotation: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)


@torch.no_grad()
def embed(
    network: EnsembleNetwork,
    images: Tensor,
    batch_size: int = 64,
    *,
    orientations: bool = True,
    turns: bool | None = None,
) -> Features:
    """Features of ``[N, 1, S, S]`` images in [0, 1], on the CPU, without gradient.

    Args:
        network: the teacher.
        images: images as the detector prepares them.
        batch_size: number of images per forward pass.
        orientations: also embed the turned copies, which takes six times as long; a bank does not need them.
        turns: also apply the rotation head, if there is one, to four turned copies; None as ``orientations``.

    Raises:
        ValueError: ``images`` is empty.
    """
    if not len(images):
        raise ValueError("there is no image to embed")
    device = next(network.parameters()).device
    return concatenate_features(
        [
            _embed_batch(network, batch.to(device), orientations, orientations if turns is None else turns)
            for batch in torch.split(images, batch_size)
        ]
    )


def concatenate_features(parts: Sequence[Features]) -> Features:
    """Concatenate the rows of several features."""

    def column(columns: list[Tensor | None]) -> Tensor | None:
        present = [column_part for column_part in columns if column_part is not None]
        return torch.cat(present) if len(present) == len(columns) else None

    return Features(
        torch.cat([part.features for part in parts]),
        torch.cat([part.outputs for part in parts]),
        column([part.orientations for part in parts]),
        column([part.members for part in parts]),
        column([part.lesions for part in parts]),
        column([part.rotation for part in parts]),
    )


def orientation_entropies(network: EnsembleNetwork, images: Tensor) -> Tensor:
    """The head's entropy ``[N, 5]`` on turned copies of ``[N, 1, S, S]`` images."""
    copies = (
        images.flip(-1),
        images.flip(-2),
        images.flip(-2, -1),
        torch.rot90(images, 1, (-2, -1)),
        torch.rot90(images, -1, (-2, -1)),
    )
    return torch.stack([head_entropy(network.embed(copy)[1]) for copy in copies], dim=1)


def head_entropy(outputs: Tensor) -> Tensor:
    """Entropy ``[N]`` in nats of the head's softmax over ``[N, K]`` cosines: log K minus its KL divergence from uniform."""
    logs = torch.log_softmax(outputs / HEAD_TEMPERATURE, dim=1)
    return -(logs.exp() * logs).sum(dim=1)


def _embed_batch(network: EnsembleNetwork, images: Tensor, orientations: bool, turns: bool) -> Features:
    features, outputs = network.embed(images)
    others = orientation_entropies(network, images) if orientations else None
    rotation = network.turn_surprise(images) if turns else None
    more = [None if part is None else part.float().cpu() for part in (others, *network.other_parts(images), rotation)]
    return Features(features.float().cpu(), outputs.float().cpu(), *more)
