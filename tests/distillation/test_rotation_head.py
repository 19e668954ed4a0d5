"""The second head, which predicts quarter turns: its labels, its loss, its score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medood.config.schema import ModelConfig
from medood.detection.detector import Detector
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import concatenate_features, embed
from medood.detection.score_selection import rows_at
from medood.detection.scores import SCORES, scores_of
from medood.distillation.losses import UNKNOWN_TURN, rotation_loss
from medood.distillation.network import Network
from medood.distillation.trainer import Trainer
from medood.errors import MedoodError
from medood.evidence.grad_cam import grad_cam
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from medood.workflows.train import train
from tests.conftest import tiny_config

HEAD = "model.rotation_head=true"
RESNET = ModelConfig("resnet10t", {}, 0.0, 16, 8, 12, rotation_head=True)


def half_bright() -> np.ndarray:
    """Images whose upper half is bright, so that each view shows its turn."""
    images = np.zeros((8, 40, 40), dtype=np.uint8)
    images[:, :20] = 200
    return images


def brightest_side(view: torch.Tensor) -> int:
    """Quarter turns counter-clockwise by which the bright side of ``[S, S]`` lies from the top."""
    rows, columns = view.mean(dim=1), view.mean(dim=0)
    half = len(view) // 2
    sides = [rows[:half].mean(), columns[:half].mean(), rows[half:].mean(), columns[half:].mean()]
    return int(torch.stack(sides).argmax())


def test_labels_are_the_turns_of_the_views(tmp_path: Path) -> None:
    overrides = (HEAD, "negatives.mixture={rot: 1, pixel_perm: 1}", "negatives.count=3", "views.local_count=2")
    config = tiny_config(tmp_path, tmp_path, *overrides, "views.global_scale=[0.9,1]", "negatives.scale=[0.9,1]")
    views = Trainer(config, half_bright(), tmp_path).views.make(0, np.arange(8))
    assert views.turns is not None
    assert views.negatives is not None
    assert len(views.turns) == len(views.positives) + len(views.negatives)
    assert (views.turns[: len(views.positives)] == 0).all()
    shown = torch.cat([views.positives, views.negatives])[:, 0]
    labelled = views.turns != UNKNOWN_TURN
    assert set(views.turns.tolist()) == {UNKNOWN_TURN, 0, 1, 2, 3}
    assert [brightest_side(view) for view in shown[labelled]] == views.turns[labelled].tolist()
    part = views.part(slice(2, 5), 8)
    assert part.turns is not None
    assert torch.equal(part.turns, views.turns.view(-1, 8)[:, 2:5].flatten())


def test_turns_of_auxiliary_images_are_not_learned(tmp_path: Path) -> None:
    overrides = (HEAD, "negatives.mixture={rot: 1}", "negatives.sources=both", "negatives.auxiliary=[x]")
    trainer = Trainer(tiny_config(tmp_path, tmp_path, *overrides), half_bright(), tmp_path, auxiliary=half_bright())
    turns = trainer.views.make(0, np.arange(8)).turns
    assert turns is not None
    assert (turns[-8:] == UNKNOWN_TURN).all()
    assert (turns[-16:-8] > 0).all()


def test_the_loss_is_the_mean_cross_entropy_of_known_turns(tmp_path: Path) -> None:
    logits, turns = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, -1, 2, 1, -1])
    expected = []
    for row, turn in zip(logits.double().numpy(), turns.tolist(), strict=True):
        if turn >= 0:
            expected.append(np.log(np.exp(row).sum()) - row[turn])
    assert float(rotation_loss(logits, turns)) == pytest.approx(np.mean(expected), abs=1e-6)
    trainer = Trainer(tiny_config(tmp_path, tmp_path, HEAD, "negatives.mixture={rot: 1}"), half_bright(), tmp_path)
    views = trainer.views.make(0, np.arange(8))
    assert views.negatives is not None
    assert views.turns is not None
    student = trainer.student.module.eval()
    terms, total = trainer._losses(views, torch.softmax(torch.rand(2, 8, 16), dim=-1))
    of_turns = rotation_loss(student.rotation(student.features(torch.cat([views.positives, views.negatives]))), views.turns)
    torch.testing.assert_close(terms["loss_rotation"], of_turns.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(total, terms["loss_positive"] + terms["kl_negatives"] + of_turns, atol=1e-5, rtol=1e-4)


def test_the_score_against_a_loop_over_the_turns() -> None:
    torch.manual_seed(0)
    network = EnsembleNetwork(Network(RESNET, 32)).eval()
    images = torch.rand(3, 1, 32, 32)
    rows = embed(network, images)
    for n, image in enumerate(images.numpy()[:, 0]):
        surprise = []
        for turns in range(4):
            turned = torch.from_numpy(np.rot90(image, turns).copy())[None, None]
            p = torch.softmax(network.rotation(network.features(turned)).detach().double(), dim=1)
            surprise.append(-float(p[0, turns].log()))
        assert float(SCORES["rotation"].score(rows, rows.features, {})[n]) == pytest.approx(np.mean(surprise), abs=1e-5)
    assert torch.equal(rows_at(rows, torch.tensor([2, 0])).rotation, rows.rotation[[2, 0]])  # type: ignore[index, arg-type]
    assert torch.equal(concatenate_features([rows, rows]).rotation, rows.rotation.repeat(2))  # type: ignore[union-attr, arg-type]


def test_without_a_head_there_is_no_such_score() -> None:
    network = EnsembleNetwork(Network(ModelConfig("resnet10t", {}, 0.0, 16, 8, 12), 32)).eval()
    rows = embed(network, torch.rand(2, 1, 32, 32))
    assert rows.rotation is None
    assert "rotation" not in scores_of(rows)
    with pytest.raises(ValueError, match="rotation head"):
        SCORES["rotation"].score(rows, rows.features, {})


@pytest.mark.parametrize(
    "overrides",
    [
        ("negatives.mixture={mirror: 1}",),
        ("negatives.mixture={rot: 0, mirror: 1}",),
        ("negatives.mixture={rot: 1}", "negatives.count=0", "negatives.local_count=1"),
        ("negatives.mixture={rot: 1}", "negatives.sources=auxiliary", "negatives.auxiliary=[x]"),
        ("negatives.mixture={rot: 1}", "model.frozen=true", "model.weights=x.safetensors"),
    ],
)
def test_a_head_that_could_learn_nothing_is_refused(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    with pytest.raises(MedoodError, match="rotation_head"):
        tiny_config(tmp_path, tmp_path, HEAD, *overrides)


def test_a_detector_decides_by_it(tmp_path: Path, phantom_folder: Path) -> None:
    overrides = (
        HEAD,
        "negatives.mixture={rot: 1}",
        "detector.score=rotation",
        "lesions.epochs=0",
        "detector.appearance=false",
    )
    folder = train(tiny_config(phantom_folder, tmp_path / "detector", *overrides))
    detector = Detector.load(folder)
    assert detector.score_name == "rotation"
    assert "rotation" in detector.metadata.score_choice
    scans = [scan for path in sorted(phantom_folder.iterdir())[:3] for scan in read_scans(path)]
    images = torch.stack([detector.prepare(scan) for scan in scans if isinstance(scan, Scan)])
    surprise = detector.network.turn_surprise(images)
    assert surprise is not None
    np.testing.assert_allclose(detector.score_samples(images), surprise.double().numpy(), rtol=1e-6)
    maps = grad_cam(detector, images)
    assert maps.shape[0] == 3
    assert np.isfinite(maps).all()
    assert maps.std() > 0
