"""From odd folders to a detector, or to a sentence."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from medood.detection.detector import Detector
from medood.detection.detector_folder import PARTS
from medood.detection.ensemble import log_divergence
from medood.detection.features import embed
from medood.detection.score_selection import choose
from medood.detection.scores import SCORES
from medood.errors import MedoodError
from medood.progress import Progress
from medood.workflows.train import train
from tests.conftest import ROOT, tiny_config

CONFIGS = ROOT / "configs"


def image(side: tuple[int, int], seed: int, mode: str = "L") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    return Image.fromarray(noise).resize(side, Image.Resampling.BICUBIC).convert(mode)


def test_three_pictures_are_too_few(tmp_path: Path) -> None:
    for i in range(3):
        image((40, 40), i).save(tmp_path / f"{i}.png")
    with pytest.raises(MedoodError, match="3 scans of 3 patients; too few"):
        train(tiny_config(tmp_path, tmp_path / "out"))


def test_sizes_and_colours_mixed_train(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for i in range(12):
        image((40 + i, 60), i, "RGB" if i % 2 else "L").save(root / f"{i}.png")
    image((16, 16), 20).save(root / "small.png")
    image((6000, 4000), 21).save(root / "large.png")
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    detector = Detector.load(train(tiny_config(root, tmp_path / "out", "train.epochs=1")))
    assert len(detector.bank) + len(detector.calibration.scores) == 12  # and 2 for choosing the score
    assert detector.metadata.data["left_out"] == {"unreadable": 1}


def test_what_was_left_open_is_saved_as_numbers(phantom_folder: Path, tmp_path: Path) -> None:
    out = train(tiny_config(phantom_folder, tmp_path / "out", "train.batch_size=0", "train.epochs=2", "model.out_dim=0"))
    saved = Detector.load(out)
    assert saved.metadata.config["train"]["batch_size"] == 5
    assert saved.model.out_dim == 512


def test_a_reduced_bank_prints_what_it_costs(
    phantom_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = train(tiny_config(phantom_folder, tmp_path / "out", "detector.bank_size=8"), progress=Progress())
    saved = Detector.load(out)
    assert 1 <= len(saved.bank) <= 8
    assert len(saved.learned.keys) == 24, "what was learned from is known whole"
    assert saved.score_name == choose(saved.metadata.score_choice)
    told = " ".join("".join(capsys.readouterr()).split())
    assert re.search(r"bank reduced from 22 to \d scans: mean AUROC of \w+ .* \d\.\d+ before, \d\.\d+ after", told)


def test_auxiliary_pictures_are_brought_to_the_in_distribution_resolution(phantom_folder: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    for i in range(4):
        image((300, 300), i, "RGB").save(others / f"{i}.png")
    config = tiny_config(phantom_folder, tmp_path / "out", "train.epochs=1")
    config.negatives.sources, config.negatives.auxiliary = "both", [str(others)]
    config.negatives.auxiliary_mixture = {"image_as_is": 1.0}
    assert (train(config) / "detector.json").exists()
    (tmp_path / "empty").mkdir()
    config.negatives.auxiliary, config.out = [str(tmp_path / "empty")], str(tmp_path / "again")
    with pytest.raises(MedoodError, match=r"negatives\.auxiliary: no scan was found"):
        train(config)


def test_a_finished_run_that_is_resumed_states_the_same_training(phantom_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(phantom_folder, tmp_path / "out", "train.epochs=1")
    first = Detector.load(train(config)).metadata.training
    again = Detector.load(train(config, resume=True)).metadata.training
    assert again["loss"] == pytest.approx(first["loss"], rel=1e-4)
    assert set(again) == set(first)


def test_a_run_goes_on_from_a_detectors_weights_and_its_own_folder_needs_no_other(
    phantom_folder: Path, tiny_detector: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "network.safetensors"
    weights.write_bytes((tiny_detector / "network.safetensors").read_bytes())
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    out = train(tiny_config(phantom_folder, tmp_path / "out", "train.epochs=1", f"model.weights={weights}"))
    weights.unlink()
    saved = Detector.load(out)
    assert saved.model.weights == ""
    assert saved.metadata.config["model"]["weights"] == f"sha256:{digest}"
    assert str(tmp_path) not in (out / "detector.json").read_text()


def test_other_detectors_heads_are_asked_too(phantom_folder: Path, tiny_detector: Path, tmp_path: Path) -> None:
    chosen = (f"detector.members=[{tiny_detector}]", "detector.score=ensemble", "train.seed=3", "data.split_seed=0")
    out = train(tiny_config(phantom_folder, tmp_path / "out", "train.epochs=1", "preprocess.size=48", *chosen))
    saved, member = Detector.load(out), Detector.load(tiny_detector)
    assert saved.metadata.config["detector"]["members"] == [member.sha256]
    assert str(tmp_path) not in (out / "detector.json").read_text()
    images = torch.rand(4, 1, 48, 48)
    small = torch.nn.functional.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    found = saved.embed(images)
    assert found.members is not None
    torch.testing.assert_close(found.members[:, 0], log_divergence(embed(member.network, small).outputs))
    assert saved.score_name == "ensemble"
    assert saved.network.describe() == "vit_tiny_patch16_224 + vit_tiny_patch16_224 (32 px)"
    assert np.isfinite(saved.raw_scores(found)).all()
    further = train(tiny_config(phantom_folder, tmp_path / "on", "preprocess.size=48", f"model.weights={out}/{PARTS[0]}"))
    assert not Detector.load(further).network.members, "a member's weights are not taken for the network's"
    with pytest.raises(MedoodError, match="has members itself"):
        train(tiny_config(phantom_folder, tmp_path / "no", f"detector.members=[{out}]"))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.split_seed=7", "was trained on other radiographs"),
        ("train.seed=7", "was trained on other radiographs"),
        ("preprocess.equalize=true", r"\('squash', False, 1\), not \('squash', True, 1\) as here"),
    ],
)
def test_a_member_that_does_not_fit_is_refused_before_training(
    phantom_folder: Path, tiny_detector: Path, tmp_path: Path, override: str, told: str
) -> None:
    with pytest.raises(MedoodError, match=told):
        train(tiny_config(phantom_folder, tmp_path / "out", f"detector.members=[{tiny_detector}]", override))
    assert not (tmp_path / "out/training.csv").exists()


def test_an_appearance_model_is_asked_too(phantom_folder: Path, tmp_path: Path) -> None:
    chosen = ("detector.appearance=true", "detector.score=ensemble", "detector.half=true")
    out = train(tiny_config(phantom_folder, tmp_path / "out", "train.epochs=1", *chosen))
    saved = Detector.load(out)
    model = saved.network.appearance
    assert model is not None and saved.network.describe() == "vit_tiny_patch16_224 + appearance of registered radiographs"
    images = torch.rand(4, 1, 32, 32)
    found = saved.embed(images)
    assert found.members is not None
    torch.testing.assert_close(found.members[:, 0], -model(images))
    center, spread = saved.fitted["ensemble"]["center"], saved.fitted["ensemble"]["spread"]
    said = (torch.stack([log_divergence(found.outputs), -model(images)], dim=1) - center) / spread
    np.testing.assert_allclose(saved.raw_scores(found), -said.sum(dim=1).numpy(), rtol=1e-5)
    further = train(tiny_config(phantom_folder, tmp_path / "on", f"model.weights={out}/{PARTS[0]}"))
    assert Detector.load(further).network.appearance is None, "the model is not taken for the network's weights"
    combined = train(tiny_config(phantom_folder, tmp_path / "joined", "train.epochs=1", f"detector.members=[{out}]"))
    asked = Detector.load(combined).embed(images).members
    assert asked is not None and asked.shape == (4, 1), "a member's head is asked, its own appearance model is not"


def test_a_score_that_two_share_is_kept_once(tiny_detector: Path) -> None:
    saved, paths = Detector.load(tiny_detector), load_file(tiny_detector / PARTS[1])
    assert "mahalanobis/whitening" in paths and "combined/mahalanobis.whitening" not in paths
    torch.testing.assert_close(saved.fitted["combined"]["mahalanobis.whitening"], saved.fitted["mahalanobis"]["whitening"])
    assert saved.fitted["combined"]["mahalanobis.center"] != 0


def test_an_ensemble_needs_members(phantom_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match=r"more than one ensemble member: .* detector\.appearance=true"):
        train(tiny_config(phantom_folder, tmp_path / "out", "detector.score=ensemble"))


def test_a_detector_is_not_trained_over(phantom_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(phantom_folder, tmp_path / "out", "train.epochs=1")
    train(config)
    before = (tmp_path / "out" / "detector.json").read_bytes()
    with pytest.raises(MedoodError, match=r"out already holds a detector.*or finish the training there with --resume"):
        train(config)
    assert (tmp_path / "out" / "detector.json").read_bytes() == before
    train(config, resume=True)
    for suffix in (".json", ".safetensors"):
        kept = tmp_path / "out" / "calibrations" / "training"
        kept.with_name("kigali.x").with_suffix(suffix).write_bytes(kept.with_suffix(suffix).read_bytes())
    with pytest.raises(MedoodError, match=r"calibrations of its own \(kigali\)"):
        train(config, resume=True)


def test_over_a_detector_the_command_is_refused_before_anything_is_loaded(tiny_detector: Path) -> None:
    code = (
        "import sys; from medood.cli.train import train_command as t\n"
        "from medood.errors import MedoodError; from pathlib import Path\n"
        f"try: t(Path({str(CONFIGS / 'demo.yaml')!r}), ['out={tiny_detector}'])\n"
        "except MedoodError as error: print(error, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "already holds a detector" in done.stdout
    assert done.stdout.strip().endswith("False")


@pytest.mark.parametrize("change", ["model.backbone=no_such_network", "data.root={missing}"])
def test_training_that_fails_early_leaves_no_folder(phantom_folder: Path, tmp_path: Path, change: str) -> None:
    config = tiny_config(phantom_folder, tmp_path / "new" / "out", change.format(missing=tmp_path / "missing"))
    with pytest.raises(MedoodError):
        train(config)
    assert not (tmp_path / "new" / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    config.out = str(tmp_path / "mine")
    with pytest.raises(MedoodError):
        train(config)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine", "a folder that was there stays"


def test_training_that_learned_nothing_is_told(
    phantom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for mean, told in ((0.55, True), (0.9, False)):
        monkeypatch.setattr(
            "medood.workflows.train.separations", lambda *_, mean=mean: {name: {"rot": mean} for name in SCORES}
        )
        train(tiny_config(phantom_folder, tmp_path / str(mean), "train.epochs=1"), progress=Progress())
        said = " ".join(capsys.readouterr().err.split())
        assert ("Do not screen with this detector" in said) == told
        assert ("where 0.5 is chance" in said) == told
