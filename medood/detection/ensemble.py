"""The networks of a detector: its own, those of other detectors, and the appearance model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from medood.config.schema import ModelConfig
from medood.detection.appearance import Appearance
from medood.detection.graph.operators import resized
from medood.detection.lesions.network import LesionNetwork, frames
from medood.distillation.network import TURNS, backbone_features
from medood.negatives.shift import resample

#: Softmax temperature for the head's entropy, the same as the student's.
HEAD_TEMPERATURE = 0.1


class Parts(Protocol):
    """What an ensemble takes of a network such as :class:`medood.distillation.network.Network`."""

    @property
    def config(self) -> ModelConfig:
        """How it is built."""
        ...

    @property
    def size(self) -> int:
        """Side of its input."""
        ...

    @property
    def backbone(self) -> Any:
        """From images to features."""
        ...

    @property
    def head(self) -> Any:
        """From features to outputs."""
        ...

    @property
    def rotation(self) -> Any:
        """From features to logits of quarter turns, or None."""
        ...


class EnsembleNetwork(nn.Module):
    """A trained network with optional ensemble members and appearance model, as a detector uses it for scoring.

    Args:
        network: the trained backbone and head.
        crops: central crops, as shares of each side, that :meth:`embed` averages over.

    Attributes:
        config: how the network is built.
        size: side of its input in pixels.
        crops: as given.
        members: other networks applied to the same images, for the score ``ensemble``.
        lesions: network that finds synthetic lesions and faults, for the score ``lesions``, in the frames of the appearance
            model; None if the detector has none.
        appearance: model of registered radiographs, for the same score; None if the detector has none.
    """

    def __init__(self, network: Parts, crops: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        self.config, self.size, self.crops = network.config, network.size, list(crops)
        self.members = nn.ModuleList()
        self.lesions: LesionNetwork | None = None
        self.appearance: Appearance | None = None
        self.backbone, self.head, self.rotation = network.backbone, network.head, network.rotation

    def features(self, images: Tensor) -> Tensor:
        """Backbone features ``[N, D]`` of ``[N, 1, S, S]`` images in [0, 1]."""
        return backbone_features(self.backbone, images)

    def scaled(self, images: Tensor) -> Tensor:
        """The images at the network's own size, which may be smaller than the detector's."""
        if images.shape[-1] <= self.size:
            return images
        return resized(images, self.size)

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[N, D]``, L2-normalised, and head outputs ``[N, K]`` of ``[N, 1, S, S]`` images: means over crops."""
        small = self.scaled(images)
        features = [self.features(center_crop(small, share)) for share in self.crops]
        outputs = torch.stack([self.head(crop_features) for crop_features in features]).mean(dim=0)
        return functional.normalize(torch.stack(features).mean(dim=0), dim=-1), outputs

    def turn_surprise(self, images: Tensor) -> Tensor | None:
        """Minus the log probability, in nats, that the rotation head gives to the turn by which an image was turned.

        Args:
            images: float32 ``[N, 1, S, S]``; each is turned here by 0 to 3 quarters.

        Returns:
            the mean over the turns, ``[N]``; None without a rotation head.
        """
        if self.rotation is None:
            return None
        small, logs = self.scaled(images), []
        for turns in range(TURNS):
            logits = self.rotation(self.features(torch.rot90(small, turns, (-2, -1))))
            logs.append(logits.float().log_softmax(dim=1)[:, turns])
        return -torch.stack(logs).mean(dim=0)

    def other_parts(self, images: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What else scores ``[N, 1, S, S]`` images.

        Returns:
            the other parts of the score ``ensemble``, ``[N, M]``, high for in-distribution images: :func:`log_divergence` of
            each member's head, minus the distance of the appearance; and the parts of the score ``lesions``, ``[N, 2]``.
            None where the network has none.
        """
        parts = [log_divergence(output) for output in self.member_outputs(images)]
        lesions = None
        if self.appearance is not None:
            places = self.appearance.registration.places(images)
            parts.append(-self.appearance(images, places))
            if self.lesions is not None:
                lesions = self.lesions.parts(frames(images, places, self.lesions.size))
        return torch.stack(parts, dim=1) if parts else None, lesions

    @torch.no_grad()
    def lesion_outputs(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames ``[N, 5]`` of ``[N, 1, S, S]`` images, and there the lesion network's logits of places ``[N, g, g]`` and of
        faults ``[N, F]``: what the score ``lesions`` is made of."""
        assert self.appearance is not None
        assert self.lesions is not None
        places = self.appearance.registration.places(images)
        local, _, fault = self.lesions(frames(images, places, self.lesions.size))
        return places, local, fault

    def member_outputs(self, images: Tensor) -> list[Tensor]:
        """Head outputs ``[N, K]`` of each member, on the images resized to its input size."""
        outputs = []
        for member in self.members:
            assert isinstance(member, EnsembleNetwork)
            outputs.append(member.embed(images)[1])
        return outputs

    def to_dict(self) -> dict[str, Any]:
        """Settings from which the network can be rebuilt as a member."""
        return {"model": asdict(self.config), "size": self.size, "crops": self.crops}

    def describe(self) -> str:
        """The backbones of the network and of its members, with the members' input sizes, and the appearance model."""
        members = [f"{m.config.backbone} ({m.size} px)" for m in self.members if isinstance(m, EnsembleNetwork)]
        lesions = (
            [f"lesions and faults in registered radiographs ({self.lesions.size} px)"] if self.lesions is not None else []
        )
        appearance = ["appearance of registered radiographs"] if self.appearance is not None else []
        return " + ".join([self.config.backbone, *members, *lesions, *appearance])


def center_crop(images: Tensor, share: float) -> Tensor:
    """Central crop of ``[N, 1, S, S]`` images, ``share`` of each side, resampled to ``S``."""
    if share == 1.0:
        return images
    matrix = torch.tensor([[share, 0.0, 0.0], [0.0, share, 0.0]], device=images.device)
    return resample(images, matrix.expand(len(images), 2, 3), images.shape[-1])


def log_divergence(outputs: Tensor) -> Tensor:
    """Logarithm ``[N]`` of the KL divergence from uniform, in nats, of the head's softmax over ``[N, K]`` cosines.

    Low if the head's output is near uniform. Unlike the entropy, which saturates at log K, it keeps falling to log 1e-6.
    """
    logs = torch.log_softmax(outputs.double() / HEAD_TEMPERATURE, dim=1)
    divergence = (logs.exp() * (logs + math.log(outputs.shape[1]))).sum(dim=1)
    return divergence.clamp(min=1e-6).log().float()
