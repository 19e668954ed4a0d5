from __future__ import annotations

import threading
from typing import ClassVar

import numpy as np
import pytest
import torch
from pytorch_grad_cam import HiResCAM

from medood.config.schema import ModelConfig, PreprocessConfig
from medood.detection.calibration import empty
from medood.detection.detector import Detector, LearnedScans
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import embed
from medood.detection.scores import SCORES, fit_all
from medood.distillation.network import Network
from medood.evidence.grad_cam import VIEWS, _crops, _RawHiResCAM, _ScoreModel, _targets, grad_cam
from medood.evidence.padim import normal_scale
from medood.workflows.train import train


def detector_with(backbone: str, arguments: dict[str, object], score: str) -> Detector:
    torch.manual_seed(0)
    model = ModelConfig(backbone, arguments, 0.0, 16, 8, 12, rotation_head=score == "rotation")
    network = EnsembleNetwork(Network(model, 64)).eval()
    bank = embed(network, torch.rand(40, 1, 64, 64))
    return Detector(
        network,
        model,
        PreprocessConfig(64),
        score,
        bank.features,
        torch.zeros(40, 32, dtype=torch.uint8),
        LearnedScans(torch.zeros(40, 32, dtype=torch.uint8), torch.zeros(40, 32, dtype=torch.uint8)),
        fit_all(bank, embed(network, torch.rand(9, 1, 64, 64))),
        empty(bank.features.shape[1]),
    )


@pytest.mark.parametrize("score", [name for name in SCORES if name != "lesions"])  # that has a network of its own
@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}),
        ("resnet18", {}),
        ("convnext_atto", {}),
    ],
)
def test_maps_are_finite_non_zero_and_follow_the_score(backbone: str, arguments: dict[str, object], score: str) -> None:
    detector = detector_with(backbone, arguments, score)
    maps = grad_cam(detector, torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(1)), batch_size=2)
    assert maps.shape == (3, 64, 64)
    assert np.isfinite(maps).all()
    assert (maps >= 0).all()
    assert maps.max() > 0


def test_raw_maps_are_the_librarys_before_its_scaling() -> None:
    detector = detector_with("resnet18", {}, "mahalanobis")
    image = torch.rand(1, 1, 64, 64, requires_grad=True)
    model = _ScoreModel(detector)
    layers, reshape = _targets(model.backbone)
    for layer in layers:
        with _RawHiResCAM(model, [layer], reshape) as cam:
            raw = cam(image, [lambda score: score])[0]
        with HiResCAM(model, [layer], reshape) as cam:
            scaled = cam(image, [lambda score: score])[0]
        shown = torch.nn.functional.interpolate(raw[None].clamp(min=0), 64, mode="bilinear")[0, 0].numpy()
        assert np.corrcoef(scaled.ravel(), shown.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("backbone", ["convnext_atto", "convnext_zepto_rms", "resnet18"])
def test_a_map_is_more_than_rounding_error(backbone: str) -> None:
    """Before a norm over channels gradient times activation is 0 in every cell, but for rounding (1e-5 of the score)."""
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    detector = detector_with(backbone, {}, "head_logit")
    assert float(grad_cam(detector, image).max()) > 1e-2 * abs(float(detector.score(detector.embed(image))[0]))


def test_a_crop_and_its_inverse_are_none() -> None:
    crops, back = _crops([0.9, 0.7])
    assert len(crops) == VIEWS
    last = torch.tensor([0.0, 0.0, 1.0]).expand(VIEWS, 1, 3)
    both = torch.cat([crops, last], dim=1) @ torch.cat([back, last], dim=1)
    torch.testing.assert_close(both, torch.eye(3).expand(VIEWS, 3, 3), atol=1e-5, rtol=0)
    for crop, share in zip(crops, (0.9, 0.7), strict=False):  # those that are scored
        torch.testing.assert_close(crop, torch.tensor([[share, 0.0, 0.0], [0.0, share, 0.0]]))
    torch.testing.assert_close(crops[3:, 0, 0], torch.tensor([0.7, 0.9, 0.7, 0.9, 0.7]), atol=0.08, rtol=0)
    edges = crops[:, :, :2].sum(dim=2) + crops[:, :, 2].abs()
    assert float(edges.max()) <= 1.0 + 1e-6, "no crop reaches over the edge"


def test_a_linear_score_is_mapped_where_it_comes_from() -> None:
    """A score that is the grey value of one place alone: its map peaks there, in the image's own coordinates."""
    detector = detector_with("resnet18", {}, "head_logit")
    detector.preprocess.crops = [0.9]

    class Spot(torch.nn.Module):
        feature_info: ClassVar = [{"module": "stage", "reduction": 4}]

        def __init__(self) -> None:
            super().__init__()
            self.stage = torch.nn.AvgPool2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.stage(x).flatten(1)[:, 16 * 4 + 11 : 16 * 4 + 12] + 3.0

    detector.network.backbone = Spot()
    detector.network.head = torch.nn.Linear(1, 1, bias=False)  # type: ignore[assignment]
    torch.nn.init.ones_(detector.network.head.weight)  # type: ignore[arg-type]
    detector.score = lambda rows, name="": rows.outputs[:, 0]  # type: ignore[method-assign, assignment]
    row, col = divmod(int(grad_cam(detector, torch.ones(1, 1, 64, 64))[0].argmax()), 64)
    assert abs(row - (0.05 + 0.9 * 4.5 / 16) * 64) < 3
    assert abs(col - (0.05 + 0.9 * 11.5 / 16) * 64) < 3


def test_a_map_is_its_own_while_other_threads_score() -> None:
    detector = detector_with("resnet18", {}, "head_entropy")
    image, others = torch.rand(1, 1, 64, 64), torch.rand(7, 1, 64, 64)
    undisturbed = grad_cam(detector, image)
    stopped = threading.Event()

    def score() -> None:
        while not stopped.is_set():
            detector.embed(others)

    threads = [threading.Thread(target=score) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            np.testing.assert_allclose(grad_cam(detector, image), undisturbed, atol=1e-6)
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def test_the_scale_leaves_normal_scans_below_its_end() -> None:
    maps = np.random.default_rng(0).random((400, 8, 8)).astype(np.float32)
    scale = normal_scale(maps)
    assert (maps.reshape(400, -1).max(axis=1) <= scale).mean() == pytest.approx(0.99, abs=0.005)
    assert normal_scale(np.zeros((5, 4, 4), np.float32)) == 1.0


def test_train_is_public() -> None:
    import medood

    assert medood.train is train
    assert medood.Detector is Detector
