"""Unscaled Grad-CAM of the out-of-distribution score, so that all scans can be drawn on one scale.

The variant is HiResCAM (Draelos and Carin 2020, of pytorch-grad-cam), at the stages with a quarter and an eighth
of the input's resolution: at the last stage of a small network, a cell covers a third of the radiograph. The maps of several
slightly different crops are averaged, as in SmoothGrad (Smilkov et al. 2017), and smoothed. ``medood check-maps`` measures
how faithful they are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from pytorch_grad_cam import HiResCAM
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from medood.detection.detector import Detector
from medood.detection.ensemble import log_divergence
from medood.detection.features import Features
from medood.detection.lesions.network import LesionNetwork, frames
from medood.detection.registration import Registration, affine, to_images
from medood.distillation.network import backbone_features
from medood.negatives.shift import resample

Maps = npt.NDArray[np.float32]

#: Minimum number of crops whose maps are averaged; the scored crops come first.
VIEWS = 8
#: Largest change of a crop's side from that of a scored crop, as a share of the image's side.
_JITTER = 0.08
#: Standard deviation of the Gaussian that smooths a map, as a share of its side.
SMOOTHING = 0.04
#: Scores that are mapped as minus the head's log divergence from uniform, which rises with the entropy without saturating.
#: It equals ``head_entropy`` up to scale, and is the first network's part of the other two.
_OF_THE_HEAD = ("head_entropy", "head_contrast", "ensemble")


class _ScoreModel(nn.Module):
    """Maps crops to out-of-distribution scores ``[N]`` with gradients."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        # A copy, since Grad-CAM hooks its layers and other threads may be using the detector's own.
        self.backbone, self.head = copy.deepcopy((detector.network.backbone, detector.network.head))
        self._detector = detector
        self._rotation = copy.deepcopy(detector.network.rotation) if detector.score_name == "rotation" else None

    def forward(self, images: Tensor) -> Tensor:
        features = backbone_features(self.backbone, images)
        outputs = self.head(features)
        if self._detector.score_name in _OF_THE_HEAD:
            return -log_divergence(outputs)
        if self._rotation is not None:
            surprise: Tensor = -self._rotation(features).log_softmax(dim=1)[:, 0]  # of the turn by 0, the image as it is
            return surprise
        return self._detector.score(Features(functional.normalize(features, dim=-1), outputs))


class _LesionModel(nn.Module):
    """Maps registered frames to the sum of the chosen parts of the score ``lesions``, ``[N]``, with gradients."""

    def __init__(self, network: LesionNetwork, parts: Sequence[int]) -> None:
        super().__init__()
        self.network, self._parts = copy.deepcopy(network), list(parts)
        self.backbone = self.network.backbone

    def forward(self, registered: Tensor) -> Tensor:
        return self.network.parts(registered)[:, self._parts].sum(dim=1)


class _RawHiResCAM(HiResCAM):  # type: ignore[misc, unused-ignore]
    """pytorch-grad-cam without its scaling of each map by its own minimum and maximum; signed, per share of the area."""

    def compute_cam_per_layer(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool) -> list[Tensor]:
        pairs = zip(
            self.target_layers,
            self.activations_and_grads.activations,
            self.activations_and_grads.gradients,
            strict=True,
        )
        return [
            torch.from_numpy(
                self.get_cam_image(input_tensor, layer, targets, layer_output.numpy(), slope.numpy(), eigen_smooth)
            )
            * (layer_output.shape[-1] * layer_output.shape[-2])
            for layer, layer_output, slope in pairs
        ]

    def aggregate_multi_layers(self, cam_per_target_layer: list[Tensor]) -> Tensor:
        """The sum ``[N, 1, h, w]`` on the grid of the first layer, which is the finest."""
        shape = cam_per_target_layer[0].shape[-2:]
        maps = [functional.interpolate(cam[:, None], shape, mode="bilinear") for cam in cam_per_target_layer]
        return torch.stack(maps).sum(dim=0)


def grad_cam(detector: Detector, images: Tensor, batch_size: int = 16) -> Maps:
    """Map the out-of-distribution score of each image to its places.

    Args:
        detector: the detector.
        images: float32 ``[N, 1, S, S]`` as the detector prepares them.

    Returns:
        float32 ``[N, S, S]``, at least 0: what each place adds to the score, in its units, per share of the area; not
        scaled, so that maps of different scans are comparable; 0 outside the detector's crops.
    """
    side = images.shape[-1]
    if detector.score_name == "lesions":
        assert detector.network.lesions is not None
        assert detector.network.appearance is not None
        return lesion_cam(detector.network.lesions, detector.network.appearance.registration, images)
    signed = _averaged(_ScoreModel(detector), detector.network.scaled(images), side, detector.preprocess.crops, batch_size)
    return _smooth(signed)


def lesion_cam(network: LesionNetwork, registration: Registration, images: Tensor, parts: Sequence[int] = (0, 1)) -> Maps:
    """Map parts of the score ``lesions`` to places of the images, through the registered frames.

    Args:
        network: the lesion network.
        registration: what registers radiographs to its frame.
        images: float32 ``[N, 1, S, S]`` in [0, 1].
        parts: columns of :meth:`medood.detection.lesions.network.LesionNetwork.parts`.

    Returns:
        as of :func:`grad_cam`; 0 outside the frame.
    """
    places = registration.places(images)
    signed = _averaged(_LesionModel(network, parts), frames(images, places, network.size), network.size, [1.0])
    return _smooth(to_images(signed[:, 0], affine(places), images.shape[-1])[:, None])


def _averaged(
    model: _ScoreModel | _LesionModel, images: Tensor, side: int, scored: list[float], batch_size: int = 16
) -> Tensor:
    """Signed maps ``[N, 1, side, side]`` of ``[N, 1, s, s]`` images, averaged over slightly different crops."""
    layers, reshape = _targets(model.backbone)
    device = next(model.parameters()).device
    small = images.shape[-1]
    crops, back = _crops(scored)
    maps = []
    with _RawHiResCAM(model, layers, reshape) as cam, torch.enable_grad():
        for batch in torch.split(images, batch_size):
            total = torch.zeros(len(batch), 1, side, side)
            for crop, inverse in zip(crops, back, strict=True):
                view = resample(batch.to(device), crop.to(device).expand(len(batch), 2, 3), small).requires_grad_(True)
                raw = cam(view, [lambda score: score] * len(batch))
                grid = functional.affine_grid(
                    inverse.expand(len(batch), 2, 3), [len(batch), 1, side, side], align_corners=False
                )
                total += functional.grid_sample(raw, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            maps.append(total / len(crops))
    return torch.cat(maps)


def _smooth(signed: Tensor) -> Maps:
    """Smoothed ``[N, S, S]``, at least 0, of signed maps ``[N, 1, S, S]``."""
    deviation = SMOOTHING * signed.shape[-1]
    smooth = gaussian_filter(signed[:, 0].numpy().astype(np.float32), deviation, mode="constant", axes=(1, 2))
    return np.asarray(np.maximum(smooth, 0.0), dtype=np.float32)


def _crops(scored: list[float]) -> tuple[Tensor, Tensor]:
    """Matrices ``[V, 2, 3]`` from crops to the image, the same on every call, and their inverses."""
    generator = torch.Generator().manual_seed(0)
    count = max(VIEWS, len(scored))
    around = torch.tensor([scored[i % len(scored)] for i in range(count)])
    shares = around + _JITTER * (2 * torch.rand(count, generator=generator) - 1)
    shares = shares.clamp(max=1.0)
    shares[: len(scored)] = around[: len(scored)]
    shifts = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - shares)[:, None]
    shifts[: len(scored)] = 0.0
    diagonal = torch.eye(2).expand(count, 2, 2)
    crops = torch.cat([diagonal * shares[:, None, None], shifts[:, :, None]], dim=2)
    back = torch.cat([diagonal / shares[:, None, None], -(shifts / shares[:, None])[:, :, None]], dim=2)
    return crops, back


def _targets(backbone: Any) -> tuple[list[nn.Module], Any]:
    """Target layers, and a function that reshapes their output to ``[N, C, h, w]``.

    A transformer is read before the last attention, because after it only the class token reaches the score; its prefix
    tokens are dropped. A convolutional network is read at a quarter and an eighth of the input's resolution, after the norm
    that begins the next stage, if there is one: the norm removes each cell's scale, so that before it gradient times
    activation sums to rounding error only.
    """
    if hasattr(backbone, "blocks") and hasattr(backbone, "num_prefix_tokens"):
        prefix = int(backbone.num_prefix_tokens)

        def to_grid(tokens: Tensor) -> Tensor:
            patches = tokens[:, prefix:]
            side = int(patches.shape[1] ** 0.5)
            return patches.transpose(1, 2).reshape(len(patches), -1, side, side)

        return [backbone.blocks[-1].norm1], to_grid
    stages = [backbone.get_submodule(stage["module"]) for stage in backbone.feature_info]
    fine = [i for i, stage in enumerate(backbone.feature_info) if stage["reduction"] in (4, 8)] or [len(stages) - 1]
    return [_norm_of(stages[i + 1]) or stages[i] if i + 1 < len(stages) else stages[i] for i in fine], None


def _norm_of(stage: nn.Module) -> nn.Module | None:
    """The channel norm at the start of a stage (ConvNeXt), or None."""
    first = next(getattr(stage, "downsample", nn.Identity()).children(), None)
    return first if type(first).__name__ in ("LayerNorm2d", "SimpleNorm2d") else None
