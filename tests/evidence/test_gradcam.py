from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM

from medood.build import train
from medood.detection.detector import Detector, Learned
from medood.detection.features import embed
from medood.detection.reference import empty
from medood.detection.scores import SCORES, fit_all
from medood.distillation.network import Network
from medood.evidence.gradcam import _ScoreModel, _target, grad_cam, normal_scale
from medood.schema import ModelConfig, PreprocessConfig


def detector_with(backbone: str, arguments: dict[str, object], score: str) -> Detector:
    torch.manual_seed(0)
    model = ModelConfig(backbone, arguments, 0.0, 16, 8, 12)
    network = Network(model, 64).eval()
    bank = embed(network, torch.rand(40, 1, 64, 64))
    return Detector(
        network,
        model,
        PreprocessConfig(64),
        score,
        bank.features,
        torch.zeros(40, 32, dtype=torch.uint8),
        Learned(torch.zeros(40, 32, dtype=torch.uint8), torch.zeros(40, 32, dtype=torch.uint8)),
        fit_all(bank, embed(network, torch.rand(9, 1, 64, 64))),
        empty(bank.features.shape[1]),
    )


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("backbone", "arguments", "grid"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}, 8),
        ("resnet18", {}, 2),
        ("convnext_atto", {}, 2),
    ],
)
def test_maps_are_finite_non_zero_and_follow_the_score(
    backbone: str, arguments: dict[str, object], grid: int, score: str
) -> None:
    detector = detector_with(backbone, arguments, score)
    maps = grad_cam(detector, torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(1)), batch_size=2)
    assert maps.shape == (3, grid, grid)
    assert np.isfinite(maps).all()
    assert (maps >= 0).all()
    assert maps.max() > 0


def test_raw_maps_differ_from_the_librarys_only_by_its_scaling() -> None:
    detector = detector_with("resnet18", {}, "mahalanobis")
    picture = torch.rand(1, 1, 64, 64, requires_grad=True)
    raw = grad_cam(detector, picture.detach())[0]
    layer, reshape = _target(detector.network.backbone)
    with GradCAM(_ScoreModel(detector), [layer], reshape) as cam:
        scaled = cam(picture, [lambda score: score])[0]
    assert scaled.max() == pytest.approx(1.0, abs=1e-3)
    assert np.unravel_index(scaled.argmax(), scaled.shape)[0] // 32 == np.unravel_index(raw.argmax(), raw.shape)[0]


def test_the_scale_leaves_normal_scans_below_its_end(tiny_detector: Path) -> None:
    maps = np.random.default_rng(0).random((400, 8, 8)).astype(np.float32)
    scale = normal_scale(maps)
    assert (maps.reshape(400, -1).max(axis=1) <= scale).mean() == pytest.approx(0.99, abs=0.005)
    assert normal_scale(np.zeros((5, 4, 4), np.float32)) == 1.0
    assert Detector.load(tiny_detector).cam_scale > 0


def test_train_is_public() -> None:
    import medood

    assert medood.train is train
    assert medood.Detector is Detector
