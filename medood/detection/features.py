"""What the network says of pictures, one deterministic view each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medood.detection.ensemble import EnsembleNetwork

#: Temperature at which the head's entropy is taken: that of the student's softmax.
HEAD_TEMPERATURE = 0.1


@dataclass(frozen=True)
class Features:
    """Rows of features.

    Attributes:
        features: float32 ``[N, D]``, L2-normalised backbone features of the teacher.
        outputs: float32 ``[N, K]``, the head's cosines with the prototypes.
        turned: float32 ``[N, 5]``, the head's entropy in nats on the picture mirrored, upside down, and turned by 180, 90
            and 270 degrees; none where it was not asked for.
        members: float32 ``[N, M]``, what else there is to ask, high where a picture belongs: :func:`log_divergence` of each
            member's head, then minus the distance of the network's ``appearance``; none where it has neither.
    """

    features: Tensor
    outputs: Tensor
    turned: Tensor | None = None
    members: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)


@torch.no_grad()
def embed(network: EnsembleNetwork, pictures: Tensor, batch_size: int = 64, *, turned: bool = True) -> Features:
    """Features of ``[N, 1, S, S]`` pictures in [0, 1], on the CPU, without gradient.

    Args:
        network: the teacher.
        pictures: as the detector prepares them.
        batch_size: pictures that go through the network at once.
        turned: look at the turned copies too, which takes six times as long; a bank does without.

    Raises:
        ValueError: there is no picture.
    """
    if not len(pictures):
        raise ValueError("there is no picture to embed")
    device = next(network.parameters()).device
    return joined([_embedded(network, batch.to(device), turned) for batch in torch.split(pictures, batch_size)])


def joined(parts: Sequence[Features]) -> Features:
    """Rows one after the other."""

    def column(each: list[Tensor | None]) -> Tensor | None:
        there = [one for one in each if one is not None]
        return torch.cat(there) if len(there) == len(each) else None

    return Features(
        torch.cat([part.features for part in parts]),
        torch.cat([part.outputs for part in parts]),
        column([part.turned for part in parts]),
        column([part.members for part in parts]),
    )


def turned_entropies(network: EnsembleNetwork, pictures: Tensor) -> Tensor:
    """The head's entropy ``[N, 5]`` on turned copies of ``[N, 1, S, S]`` pictures."""
    copies = (
        pictures.flip(-1),
        pictures.flip(-2),
        pictures.flip(-2, -1),
        torch.rot90(pictures, 1, (-2, -1)),
        torch.rot90(pictures, -1, (-2, -1)),
    )
    return torch.stack([head_entropy(network.embed(copy)[1]) for copy in copies], dim=1)


def head_entropy(outputs: Tensor) -> Tensor:
    """Entropy ``[N]`` in nats of the head's softmax over ``[N, K]`` cosines: log K less its KL divergence to uniform."""
    logs = torch.log_softmax(outputs / HEAD_TEMPERATURE, dim=1)
    return -(logs.exp() * logs).sum(dim=1)


def log_divergence(outputs: Tensor) -> Tensor:
    """Logarithm ``[N]`` of the KL divergence to uniform, in nats, of the head's softmax over ``[N, K]`` cosines.

    Low where the head says nothing. Unlike the entropy, which ends at log K, it goes on falling there, down to log 1e-6.
    """
    logs = torch.log_softmax(outputs.double() / HEAD_TEMPERATURE, dim=1)
    divergence = (logs.exp() * (logs + math.log(outputs.shape[1]))).sum(dim=1)
    return divergence.clamp(min=1e-6).log().float()


def _embedded(network: EnsembleNetwork, pictures: Tensor, turned: bool) -> Features:
    features, outputs = network.embed(pictures)
    others = turned_entropies(network, pictures).float().cpu() if turned else None
    members = [log_divergence(some) for some in network.member_outputs(pictures)]
    if network.appearance is not None:
        members.append(-network.appearance(pictures))
    asked = torch.stack(members, dim=1).float().cpu() if members else None
    return Features(features.float().cpu(), outputs.float().cpu(), others, asked)
