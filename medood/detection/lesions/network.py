"""The lesion network: a logit for each place of the registered, histogram-equalised radiograph, and one for the whole."""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from medood.config.schema import ModelConfig
from medood.detection.graph.operators import sampling_grid
from medood.detection.lesions.faults import FAULTS
from medood.detection.registration import affine, equalize_histogram
from medood.errors import MedoodError

#: Highest places whose mean logit is the score of lesions.
HIGHEST = 3
#: Stages of the backbone that are read; the coarser one is enlarged to the finer one's grid.
_FINE, _COARSE = 2, 3


class LesionNetwork(nn.Module):
    """Finds what was planted in a radiograph, so that it finds what looks alike.

    It sees the registered frame with its histogram equalised: neither framing nor a device's grey curve reaches it.

    Args:
        model: the backbone, of four stages; weights and head are not used.
        size: side of the registered frame in pixels.

    Attributes:
        size: as given.
        backbone: a timm network with stages.
        local: logit of each place, from two stages.
        whole: logit of the radiograph, from the last stage; for training alone.
        fault: logits of :data:`medood.detection.lesions.faults.FAULTS`, from the last stage.

    Raises:
        MedoodError: the backbone has no four stages.
    """

    def __init__(self, model: ModelConfig, size: int) -> None:
        super().__init__()
        self.size = size
        self.backbone: Any = timm.create_model(
            model.backbone, pretrained=False, in_chans=1, num_classes=0, **model.arguments
        )
        if not hasattr(self.backbone, "stem") or len(getattr(self.backbone, "stages", ())) != 4:
            raise MedoodError(
                f"lesions: the backbone {model.backbone} has no stem and four stages; expected a ConvNeXt such as "
                "convnext_atto, or lesions.epochs=0."
            )
        widths = [int(info["num_chs"]) for info in self.backbone.feature_info]
        self.local = nn.Conv2d(widths[_FINE] + widths[_COARSE], 1, 1)
        self.whole = nn.Linear(widths[_COARSE], 1)
        self.fault = nn.Linear(widths[_COARSE], len(FAULTS))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of places ``[N, g, g]``, radiographs ``[N]`` and faults ``[N, F]`` in frames ``[N, 1, size, size]``."""
        x = self.backbone.stem((frames - 0.5) / 0.25)
        stages = []
        for stage in self.backbone.stages:
            x = stage(x)
            stages.append(x)
        fine, coarse = stages[_FINE], stages[_COARSE]
        enlarged = functional.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        local = self.local(torch.cat([_normalised(fine), _normalised(enlarged)], dim=1))
        pooled = functional.layer_norm(coarse.mean(dim=(2, 3)), [coarse.shape[1]])
        return local[:, 0].float(), self.whole(pooled)[:, 0].float(), self.fault(pooled).float()

    def parts(self, registered: Tensor) -> Tensor:
        """:func:`lesion_parts` of :func:`frames` ``[N, 1, size, size]``."""
        local, _, fault = self(registered)
        return lesion_parts(local, fault)


def lesion_parts(local: Tensor, fault: Tensor) -> Tensor:
    """Scores ``[N, 2]``, higher with a lesion and with a fault, of logits of places ``[N, g, g]`` and faults ``[N, F]``.

    The mean of the highest places' logits, and softplus of the log odds of any fault, which is near 0 in a radiograph
    without one; their sum is the score ``lesions``.
    """
    highest = local.flatten(1).topk(min(HIGHEST, local[0].numel()), dim=1).values
    return torch.stack([highest.mean(dim=1), functional.softplus(fault_odds(fault))], dim=1)


def most_probable_faults(fault: Tensor) -> list[tuple[str, float]]:
    """The most probable of :data:`medood.detection.lesions.faults.FAULTS`, and its probability, of logits ``[N, F]``."""
    shares = fault.softmax(dim=1)
    return [(FAULTS[int(place)], float(share)) for share, place in zip(*shares.max(dim=1), strict=True)]


def fault_odds(fault: Tensor) -> Tensor:
    """Log odds ``[N]`` of any fault against none, of logits ``[N, F]``."""
    odds: Tensor = fault[:, 1:].logsumexp(dim=1) - fault[:, 0]
    return odds


def frames(images: Tensor, places: Tensor, side: int) -> Tensor:
    """Registered frames ``[N, 1, side, side]`` of ``[N, 1, S, S]`` radiographs, with their histograms equalised."""
    return equalize_histogram(cut_frames(images, places, side))


def cut_frames(images: Tensor, places: Tensor, side: int) -> Tensor:
    """Registered frames ``[N, 1, side, side]`` of ``[N, 1, S, S]`` radiographs, with the border continued outwards."""
    grid = sampling_grid(affine(places), side)
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _normalised(maps: Tensor) -> Tensor:
    """Layer norm over the channels of ``[N, C, h, w]``."""
    return functional.layer_norm(maps.permute(0, 2, 3, 1), [maps.shape[1]]).permute(0, 3, 1, 2)
