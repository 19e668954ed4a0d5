"""What the network says of pictures, one deterministic view each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medood.distillation.network import Network


@dataclass(frozen=True)
class Features:
    """Rows of features.

    Attributes:
        features: float32 ``[N, D]``, L2-normalised backbone features of the teacher.
        outputs: float32 ``[N, K]``, the head's cosines with the prototypes.
    """

    features: Tensor
    outputs: Tensor

    def __len__(self) -> int:
        return len(self.features)


@torch.no_grad()
def embed(network: Network, pictures: Tensor, batch_size: int = 64) -> Features:
    """Features of ``[N, 1, S, S]`` pictures in [0, 1], on the CPU, without gradient.

    Raises:
        ValueError: there is no picture.
    """
    if not len(pictures):
        raise ValueError("there is no picture to embed")
    device = next(network.parameters()).device
    parts = [network.embed(batch.to(device)) for batch in torch.split(pictures, batch_size)]
    return Features(
        torch.cat([features.float().cpu() for features, _ in parts]),
        torch.cat([outputs.float().cpu() for _, outputs in parts]),
    )
