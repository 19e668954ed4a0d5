"""Every shipped configuration trains: its own backbone, views, negatives and schedule, for two steps at a small size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medood.config.loader import load_config
from medood.config.schema import ModelConfig
from medood.detection.lesions.network import LesionNetwork
from medood.detection.lesions.training import LesionTrainer
from medood.detection.registration import Registration
from medood.distillation.trainer import Trainer
from medood.phantom.chest import frontal_chest
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SMALL = (
    *("preprocess.size=32", "views.source_size=40", "views.local_size=32", "train.batch_size=4", "train.epochs=1"),
    *("train.device=cpu", "train.compile=false", "train.threads=0", "model.weights=''", "model.frozen=false"),
    *("model.arguments={}", "model.size=0", "detector.members=[]"),
)


def chests(count: int) -> np.ndarray:
    return np.stack([np.uint8(frontal_chest(seed, 40).image * 255) for seed in range(count)])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_trains_two_steps(path: Path, tmp_path: Path) -> None:
    patches = ["model.arguments={patch_size: 8}"] if "vit" in path.read_text() else []
    config = load_config(path, [f"data.root={tmp_path}", *SMALL, *patches])
    trainer = Trainer(config, chests(8), tmp_path, auxiliary=chests(8))
    before = [value.clone() for value in trainer.teacher.parameters()]
    seen = []
    trainer.fit(lambda step, steps, metrics: seen.append(metrics["loss"]))
    assert len(seen) == 2
    assert np.isfinite(seen).all()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.teacher.parameters(), strict=True))


def test_the_lesion_network_of_a_configuration_trains_two_steps(tmp_path: Path) -> None:
    small = [*SMALL, "lesions.epochs=1", "lesions.size=64", "lesions.batch_size=4", "lesions.weights=''"]
    config = load_config(ROOT / "configs" / "cxr_small_lesions.yaml", [f"data.root={tmp_path}", *small])
    images, registration = chests(8), Registration()
    registration.fit(torch.from_numpy(images).float()[:, None] / 255.0)
    backbone = LesionNetwork(ModelConfig(backbone=config.model.backbone), 64).backbone.state_dict()
    trainer = LesionTrainer(config, backbone, images, registration, tmp_path, "cpu", "32-true", "data")
    losses: list[float] = []
    trainer.fit(losses.append)
    assert len(losses) == 2
    assert np.isfinite(losses).all()
