"""The lesion network: what is planted, what it sees, and its training as part of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score
from torch import Generator, Tensor

from medood.config.loader import load_config
from medood.config.schema import ModelConfig, RunConfig
from medood.detection.detector import Detector
from medood.detection.lesions.faults import FAULTS, plant_faults
from medood.detection.lesions.network import HIGHEST, LesionNetwork, frames
from medood.detection.lesions.training import LesionTrainer, lesion_loss
from medood.detection.lesions.views import LesionViews, adapt_contrast, lesion_views, mark, plant
from medood.detection.registration import Registration, affine, to_images
from medood.errors import MedoodError
from medood.evidence.grad_cam import SMOOTHING, grad_cam, lesion_cam
from medood.evidence.score_map import lesion_maps, score_maps
from medood.negatives.mixture import Mixture
from medood.phantom.chest import frontal_chest
from medood.workflows.train import train
from tests.conftest import ROOT, tiny_config

MIXTURE = {"infiltrate": 1.0, "nodules": 1.0, "reticular": 1.0, "lucency": 1.0, "displaced": 1.0, "foreign_structure": 1.0}
MODEL = ModelConfig(backbone="test_convnext")
WHOLE = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]])


def chests(count: int, side: int = 64) -> Tensor:
    return torch.stack([torch.from_numpy(frontal_chest(seed, side).image).float()[None] for seed in range(count)])


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_lesions_are_planted_in_the_wanted_share_and_where_the_mask_says() -> None:
    images = chests(8).repeat(40, 1, 1, 1)
    planted, change = plant(images, torch.ones(320, dtype=torch.bool), Mixture(MIXTURE), 0.4, generator())
    difference = (planted - images).abs()
    present = change.amax(dim=(1, 2, 3)) > 0
    assert 0.5 < float(present.float().mean()) < 0.62  # 0.6, but for what changed nearly nothing
    assert not difference[~present].any()
    assert (difference.amax(dim=(1, 2, 3))[present] > 0.03).all()
    plain = change == 1.0
    assert float(difference[plain].mean()) > 10 * float(difference[change == 0.0].mean())
    assert float(change.min()) >= 0.0
    assert float(change.max()) <= 1.0


def test_adaptive_contrast_evens_out_half_of_the_images() -> None:
    faint = 0.5 + 0.02 * torch.randn(1, 1, 64, 64, generator=generator())
    image = torch.cat([faint[..., :32], 0.5 + 8.0 * (faint[..., 32:] - 0.5)], dim=3)  # faint on the left, plain on the right
    adapted = adapt_contrast(image.repeat(200, 1, 1, 1), generator(1))
    is_adapted = (adapted - image).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert 0.4 < float(is_adapted.float().mean()) < 0.6
    left, right = adapted[..., :24].std(dim=(1, 2, 3)), adapted[..., 40:].std(dim=(1, 2, 3))
    before = image[..., 40:].std() / image[..., :24].std()
    assert ((right / left)[is_adapted] < before).all()
    assert float((right / left)[is_adapted].min()) < 0.6 * float(before)


def test_what_would_change_nearly_nothing_is_undone() -> None:
    blank = torch.zeros(20, 1, 64, 64)  # nothing to displace
    planted, change = plant(blank, torch.ones(20, dtype=torch.bool), Mixture({"displaced": 1.0}), 0.0, generator())
    assert torch.equal(planted, blank)
    assert not change.any()


def test_views_depend_on_the_generator_alone_and_are_equalised() -> None:
    images, places = chests(6), WHOLE.expand(6, 5)

    def views(seed: int) -> LesionViews:
        return lesion_views(images, torch.tensor([0, 0, 0, 0, 1, 2]), places, Mixture(MIXTURE), 0.5, 64, 16, generator(seed))

    first, again, other = views(1), views(1), views(2)
    assert torch.equal(first.frames, again.frames)
    assert not torch.equal(first.frames, other.frames)
    assert first.cells.shape == (6, 4, 4)
    assert torch.equal(first.present > 0, first.cells.amax(dim=(1, 2)) > 0)
    assert not first.present[4:].any()  # what has a fault gets no lesion
    levels = first.frames.flatten(1).sort(dim=1).values
    assert float((levels - (torch.arange(64 * 64) + 0.5) / 64**2).abs().max()) < 0.2  # uniform but for marks and bars


def test_each_fault_is_named_after_what_was_done() -> None:
    images = chests(2).repeat(200, 1, 1, 1)
    mixture = Mixture({"rot": 3.0, "mirror": 1.0, "upside_down": 1.0, "inverted": 1.0, "perm4": 1.0})
    faulty, fault = plant_faults(images, mixture, 0.5, generator())
    assert 0.4 < float((fault > 0).float().mean()) < 0.6
    undone = {
        "": lambda image: image,
        "rotated_90_ccw": lambda image: torch.rot90(image, -1, (-2, -1)),
        "rotated_180": lambda image: image.flip(-1, -2),
        "rotated_90_cw": lambda image: torch.rot90(image, 1, (-2, -1)),
        "mirrored": lambda image: image.flip(-1),
        "upside_down": lambda image: image.flip(-2),
        "inverted": lambda image: 1.0 - image,
    }
    seen = {FAULTS[index] for index in fault.tolist()}
    assert seen == {*undone, "not_a_frontal_chest_radiograph"}
    for plain, image, index in zip(images, faulty, fault.tolist(), strict=True):
        if FAULTS[index] in undone:
            torch.testing.assert_close(undone[FAULTS[index]](image), plain, atol=1e-6, rtol=0)


def test_marks_are_drawn_on_about_half_and_nothing_else_changes() -> None:
    images = torch.full((200, 1, 64, 64), 0.5)
    changed = (mark(images, generator()) != images).flatten(1).any(dim=1)
    assert 0.45 < float(changed.float().mean()) < 0.75
    assert float(images.min()) == float(images.max()) == 0.5


def test_the_score_against_a_slow_loop() -> None:
    network = LesionNetwork(MODEL, 64).eval()
    images, places = chests(3), WHOLE.expand(3, 5)
    with torch.no_grad():
        scores = network.parts(frames(images, places, 64))
        for image, score in zip(images, scores, strict=True):
            local, _, fault = network(frames(image[None], WHOLE, 64))
            highest = sorted(local.flatten().tolist(), reverse=True)[:HIGHEST]
            p = np.exp(fault[0].double().numpy()) / np.exp(fault[0].double().numpy()).sum()
            lesion, faulty = sum(highest) / len(highest), np.log1p((1 - p[0]) / p[0])
            assert score.tolist() == pytest.approx([lesion, faulty], abs=1e-4)


def test_no_grey_curve_reaches_the_network() -> None:
    network = LesionNetwork(MODEL, 64).eval()
    images, places = chests(4), WHOLE.expand(4, 5)
    with torch.no_grad():
        curve = 0.2 + 0.6 * images.clamp(min=0) ** 1.8
        plain, curved = (network.parts(frames(seen, places, 64)) for seen in (images, curve))
    torch.testing.assert_close(plain, curved, atol=1e-3, rtol=1e-3)


def test_the_loss_against_numpy() -> None:
    local, whole = torch.randn(3, 3, 3, generator=generator()), torch.randn(3, generator=generator(1))
    cells, present = torch.rand(3, 3, 3, generator=generator(2)), torch.tensor([0.0, 1.0, 0.0])
    logits, fault = torch.randn(3, len(FAULTS), generator=generator(3)), torch.tensor([0, 0, 4])  # the third is mirrored
    p, q = (1 / (1 + np.exp(-values.double().numpy()))[:2] for values in (local, whole))
    y, z, faults = cells.double().numpy()[:2], present.double().numpy()[:2], np.exp(logits.double().numpy())
    expected = -(4 * y * np.log(p) + (1 - y) * np.log(1 - p)).mean() - 0.3 * (z * np.log(q) + (1 - z) * np.log(1 - q)).mean()
    expected -= 0.3 * np.mean([np.log(row[i] / row.sum()) for row, i in zip(faults, fault, strict=True)])
    loss = lesion_loss((local, whole, logits), LesionViews(local, cells, present, fault))
    assert float(loss) == pytest.approx(expected, abs=1e-5)


def test_a_backbone_without_stages_is_refused() -> None:
    with pytest.raises(MedoodError, match="no stem and four stages"):
        LesionNetwork(ModelConfig(backbone="vit_tiny_patch16_224"), 64)


def settings(root: Path, out: Path, *overrides: str) -> RunConfig:
    return tiny_config(
        root,
        out,
        "model.backbone=test_convnext",
        "model.arguments={}",
        "detector.appearance=true",
        "detector.score=lesions",
        "lesions.epochs=2",
        "lesions.size=64",
        "lesions.batch_size=8",
        "lesions.mixture={infiltrate: 1, nodules: 1}",
        "lesions.faults={rot: 1, mirror: 1}",
        "views.local_count=0",
        *overrides,
    )


LONGER = ("lesions.faults={}", "lesions.epochs=110", "lesions.learning_rate=0.003", "lesions.momentum=0.98")


def trainer(config: RunConfig, folder: Path) -> LesionTrainer:
    images = (chests(24) * 255).round().byte()[:, 0].numpy()
    torch.manual_seed(3)
    backbone = LesionNetwork(config.model, 64).backbone.state_dict()
    registration = Registration()
    registration.fit(torch.from_numpy(images).float()[:, None] / 255.0)
    return LesionTrainer(config, backbone, images, registration, folder, "cpu", "32-true", "data")


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    config = settings(tmp_path, tmp_path / "out")
    whole = trainer(config, tmp_path / "whole").fit().state_dict()
    first = trainer(config, tmp_path / "stopped")

    losses: list[float] = []

    def stop(loss: float) -> None:
        losses.append(loss)
        if len(losses) == first.steps_per_epoch + 1:  # as if it were killed in the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.fit(stop)
    second = trainer(config, tmp_path / "stopped")
    assert second.resume() == []
    assert second.next_step == second.steps // 2
    resumed = second.fit().state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path, tmp_path / "out")
    trainer(config, tmp_path / "checkpoints").fit()
    other = dataclasses.replace(config, lesions=dataclasses.replace(config.lesions, healthy=0.2))
    with pytest.raises(MedoodError, match="another configuration"):
        trainer(other, tmp_path / "checkpoints").resume()


def test_it_learns_to_find_what_is_planted(tmp_path: Path) -> None:
    config = settings(tmp_path, tmp_path / "out", *LONGER)
    learner = trainer(config, tmp_path / "checkpoints")
    network = learner.fit().eval()
    images = chests(96).repeat(3, 1, 1, 1)
    places, sound = learner._registration.places(images), torch.zeros(len(images), dtype=torch.int64)
    views = lesion_views(images, sound, places, Mixture(config.lesions.mixture), 0.5, 64, 16, generator(9))
    with torch.no_grad():
        local, whole, _ = network(views.frames)
    assert roc_auc_score(views.present, whole) > 0.65
    assert roc_auc_score((views.cells > 0.5).flatten(), local.flatten()) > 0.75


def test_the_network_of_a_detector_can_be_taken_as_it_is(detector: Path, phantom_folder: Path, tmp_path: Path) -> None:
    weights = detector / "network.safetensors"
    sizes = ("preprocess.size=64", "views.source_size=80", "model.size=32")
    config = settings(phantom_folder, tmp_path / "again", *sizes, "lesions.epochs=0", f"lesions.weights='{weights}'")
    before, again = (Detector.load(folder).network.lesions for folder in (detector, train(config)))
    assert before is not None
    assert again is not None
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in before.state_dict().items())
    config.lesions.weights = str(tmp_path / "again" / "bank.safetensors")
    with pytest.raises(MedoodError, match="holds no lesion network"):
        trainer(config, tmp_path / "checkpoints")


@pytest.fixture(scope="module")
def detector(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lesions") / "detector"
    overrides = ("preprocess.size=64", "views.source_size=80", "model.size=32")
    return train(settings(phantom_folder, out, *overrides))


def test_a_run_trains_saves_and_loads_it(detector: Path) -> None:
    loaded = Detector.load(detector)
    assert loaded.network.lesions is not None
    assert loaded.network.size == 32
    assert loaded.preprocess.size == 64
    assert "lesions and faults in registered radiographs (64 px)" in loaded.network.describe()
    images = chests(3)
    rows = loaded.embed(images)
    assert loaded.network.appearance is not None
    places = loaded.network.appearance.registration.places(images)
    expected = loaded.network.lesions.parts(frames(images, places, 64))
    torch.testing.assert_close(rows.lesions, expected, atol=1e-4, rtol=0)
    assert loaded.score_name == "lesions"
    np.testing.assert_allclose(loaded.raw_scores(rows), expected.double().sum(dim=1).numpy(), atol=1e-4)


def test_the_score_has_a_grad_cam_in_the_registered_frame(detector: Path) -> None:
    loaded, images = Detector.load(detector), chests(3)
    assert loaded.network.lesions is not None
    assert loaded.network.appearance is not None
    registration = loaded.network.appearance.registration
    maps = grad_cam(loaded, images)
    assert maps.shape == (3, 64, 64)
    assert float(maps.min()) >= 0.0
    assert (maps.max(axis=(1, 2)) > 0).any()
    np.testing.assert_array_equal(maps, lesion_cam(loaded.network.lesions, registration, images, parts=(0, 1)))
    inside = to_images(torch.ones(3, 8, 8), affine(registration.places(images)), 64)
    outside = gaussian_filter(inside.numpy(), SMOOTHING * 64, axes=(1, 2)) == 0
    assert not maps[outside].any()


def test_its_map_is_part_of_the_scores_map(detector: Path) -> None:
    loaded, images = Detector.load(detector), chests(3)
    places, local, _ = loaded.network.lesion_outputs(images)
    maps = lesion_maps(local, places, 64)
    assert maps.shape == (3, 64, 64)
    assert 0.0 <= float(maps.min()) <= float(maps.max()) <= 1.0
    of_score, rows = score_maps(loaded, images), loaded.embed(images)
    middle = np.median(loaded.calibration.scores)
    assert rows.lesions is not None
    for drawn, shown, (lesion, fault) in zip(of_score.maps, of_score.shown, rows.lesions.double().numpy(), strict=True):
        above = max(lesion - middle, 0.0)
        assert shown <= 1.0 + 1e-9
        if above > 0:  # the lesion network's own map is never 0 everywhere
            assert shown >= above / (above + fault) - 1e-6
        assert (drawn.max() > 0) == (lesion + fault > middle and shown > 0)


def test_a_frozen_network_is_taken_as_it_is(detector: Path, phantom_folder: Path, tmp_path: Path) -> None:
    overrides = (
        "preprocess.size=64",
        "views.source_size=80",
        "model.size=32",
        "model.frozen=true",
        f"model.weights='{detector / 'network.safetensors'}'",
        "model.out_dim=16",
    )
    before = Detector.load(detector)
    again = Detector.load(
        train(settings(phantom_folder, tmp_path / "frozen", *overrides, f"model.out_dim={before.model.out_dim}"))
    )
    state, kept = before.network.backbone.state_dict(), again.network.backbone.state_dict()
    assert all(torch.equal(state[name], kept[name]) for name in state)
    assert torch.equal(before.network.head.prototypes.weight, again.network.head.prototypes.weight)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lesions.epochs=1", "weights above 0"),
        ("lesions.weights=file", "registered radiographs"),
        ("lesions.size=50", "a multiple of 32"),
        ("model.frozen=true", "model.weights"),
        ("model.size=500", "at most preprocess.size"),
        ("lesions.healthy=1.5", "below 1"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(override: str, message: str) -> None:
    with pytest.raises(MedoodError, match=message):
        load_config(ROOT / "configs" / "cxr_small.yaml", ["data.root=somewhere", override])
