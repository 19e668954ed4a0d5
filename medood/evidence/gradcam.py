"""Grad-CAM of the out-of-distribution score, raw, so that all scans can be drawn on one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn

from medood.detection.detector import Detector
from medood.detection.features import Features

Maps = npt.NDArray[np.float32]


#: The score whose map is drawn where another decides: an entropy is flat near its maximum, where what does not belong lies,
#: and the largest logit, which falls as the entropy rises, is not.
EXPLAINED = {"head_entropy": "head_logit", "head_contrast": "head_logit"}


class _ScoreModel(nn.Module):
    """Pictures to out-of-distribution scores ``[N]``, with the graph kept."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.network = detector.network
        self._detector = detector

    def forward(self, pictures: Tensor) -> Tensor:
        rows = Features(*self.network.embed(pictures))
        return self._detector.score(rows, EXPLAINED.get(self._detector.score_name, ""))


class _RawGradCAM(GradCAM):  # type: ignore[misc, unused-ignore]
    """pytorch-grad-cam without its scaling of each map by its own minimum and maximum."""

    def compute_cam_per_layer(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool) -> Any:
        activations = self.activations_and_grads.activations[0].numpy()
        gradients = self.activations_and_grads.gradients[0].numpy()
        return self.get_cam_image(input_tensor, self.target_layers[0], targets, activations, gradients, eigen_smooth)

    def aggregate_multi_layers(self, cam_per_target_layer: Any) -> Any:
        return np.maximum(cam_per_target_layer, 0.0)


def grad_cam(detector: Detector, pictures: Tensor, batch_size: int = 16) -> Maps:
    """Where the out-of-distribution score of each picture comes from.

    Args:
        detector: the detector.
        pictures: float32 ``[N, 1, S, S]`` as the detector prepares them.

    Returns:
        float32 ``[N, h, w]`` on the grid of the last block, at least 0, in units of the score per activation; not scaled, so
        that maps of different scans compare.
    """
    layer, reshape = _target(detector.network.backbone)
    device = next(detector.network.parameters()).device
    maps = []
    with _RawGradCAM(_ScoreModel(detector), [layer], reshape) as cam, torch.enable_grad():
        for batch in torch.split(pictures, batch_size):
            batch = batch.to(device).clone().requires_grad_(True)
            maps.append(cam(batch, [lambda score: score] * len(batch)))
    return np.concatenate(maps).astype(np.float32)


def normal_scale(maps: Maps) -> float:
    """The raw value drawn at full strength: 99 of 100 in-distribution scans stay below it everywhere.

    Args:
        maps: ``[n, h, w]`` maps of calibration scans.
    """
    scale = float(np.quantile(maps.reshape(len(maps), -1).max(axis=1), 0.99))
    return scale if np.isfinite(scale) and scale > 0 else 1.0


def _target(backbone: Any) -> tuple[nn.Module, Any]:
    """The layer to look at, and how its output becomes ``[N, C, h, w]``.

    A token network is read before the last attention, because after it only the class token reaches the score; its prefix
    tokens are dropped. A convolutional network is read at its last stage.
    """
    if hasattr(backbone, "blocks") and hasattr(backbone, "num_prefix_tokens"):
        prefix = int(backbone.num_prefix_tokens)

        def to_grid(tokens: Tensor) -> Tensor:
            patches = tokens[:, prefix:]
            side = int(patches.shape[1] ** 0.5)
            return patches.transpose(1, 2).reshape(len(patches), -1, side, side)

        return backbone.blocks[-1].norm1, to_grid
    return backbone.get_submodule(backbone.feature_info[-1]["module"]), None
