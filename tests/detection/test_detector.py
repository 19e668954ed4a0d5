from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medood.detection.conformal import p_values
from medood.detection.detector import Detector, _read_json
from medood.detection.features import embed
from medood.detection.score_selection import choose
from medood.errors import MedoodError
from medood.scans.cache import ImageCache
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from medood.workflows.train import train
from medood.workflows.training_data import split_by_patient
from tests.conftest import tiny_config


def copied(detector: Path, target: Path) -> Path:
    shutil.copytree(detector, target, ignore=shutil.ignore_patterns("cache", "checkpoints", "tensorboard"))
    return target


def test_a_detector_is_the_same_after_saving_and_loading(tiny_detector: Path, tmp_path: Path) -> None:
    first = Detector.load(tiny_detector)
    first.save(tmp_path / "again")
    second = Detector.load(tmp_path / "again")
    images = torch.rand(5, 1, 32, 32)
    assert first.judge(embed(first.network, images), 0.1) == second.judge(embed(second.network, images), 0.1)
    assert first.sha256 == second.sha256


def test_what_the_folder_holds(tiny_detector: Path) -> None:
    stated = json.loads((tiny_detector / "detector.json").read_text())
    assert stated["schema_version"] == 4
    assert len(Detector.load(tiny_detector).calibration.scores) == stated["data"]["calibration_scans"] == 16
    assert stated["score"] == choose(stated["score_choice"])
    assert set(stated["parts"]) == {"network.safetensors", "bank.safetensors"}
    assert stated["config"]["train"]["epochs"] == 2
    assert "root" not in stated["config"]["data"]
    weights = load_file(tiny_detector / "network.safetensors")
    assert any(name.startswith("backbone.") for name in weights)
    assert any(name.startswith("head.") for name in weights)
    assert load_file(tiny_detector / "bank.safetensors")["features"].shape == (22, 32)
    assert not list(tiny_detector.rglob("*.p*kl")) + list(tiny_detector.rglob("*.pt"))


def test_calibration_scores_are_those_of_the_held_out_scans_read_afresh(tiny_detector: Path, phantom_folder: Path) -> None:
    """Screening the held-out files gives their calibration scores again: training and screening read alike."""
    detector = Detector.load(tiny_detector)
    scans = [scan for scan in read_scans(phantom_folder) if isinstance(scan, Scan)]
    bank = {bytes(row.tolist()).hex() for row in detector.bank_keys}
    held_out = [scan for scan in scans if scan.identity.sha256 not in bank]
    assert len(held_out) == 18  # 2 of them are development scans
    rows = embed(detector.network, torch.stack([detector.prepare(scan) for scan in held_out]))
    scores = [verdict.score for verdict in detector.judge(rows, 0.2)]
    assert all(np.isclose(scores, value, rtol=1e-5, atol=1e-5).any() for value in detector.calibration.scores)


def test_verdicts(tiny_detector: Path) -> None:
    detector = Detector.load(tiny_detector)
    verdicts = detector.judge(embed(detector.network, torch.rand(6, 1, 32, 32)), 0.1)
    for verdict in verdicts:
        assert verdict.p_value == pytest.approx(float(p_values(np.array([verdict.score]), detector.calibration.scores)[0]))
        assert (verdict.decision == "out_of_distribution") == (verdict.p_value <= 0.1)
        assert verdict.nearest == sorted(verdict.nearest, reverse=True)
        assert len(verdict.nearest) == len(verdict.nearest_keys) == 5


def test_a_score_that_is_not_a_number_is_out_of_distribution(tiny_detector: Path) -> None:
    detector = Detector.load(tiny_detector)
    (verdict,) = detector.judge(embed(detector.network, torch.full((1, 1, 32, 32), float("nan"))), 0.1)
    assert verdict.decision == "out_of_distribution"
    assert verdict.p_value == pytest.approx(1 / 17)
    assert verdict.nearest == verdict.nearest_keys == [], "what cannot be placed has no neighbours"


@pytest.mark.parametrize("name", ["network.safetensors", "bank.safetensors", "detector.json"])
def test_a_changed_byte_is_told_with_the_file(tiny_detector: Path, tmp_path: Path, name: str) -> None:
    folder = copied(tiny_detector, tmp_path / "d")
    content = bytearray((folder / name).read_bytes())
    place = content.rindex(b"0.") + 3 if name == "detector.json" else len(content) - 7
    content[place] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(MedoodError, match=name):
        Detector.load(folder)


@pytest.mark.parametrize("name", ["network.safetensors", "bank.safetensors", "detector.json"])
def test_a_missing_part_is_told(tiny_detector: Path, tmp_path: Path, name: str) -> None:
    folder = copied(tiny_detector, tmp_path / "d")
    (folder / name).unlink()
    with pytest.raises(MedoodError, match=name):
        Detector.load(folder)


def test_a_part_outside_the_folder_is_not_read(tiny_detector: Path, tmp_path: Path) -> None:
    folder = copied(tiny_detector, tmp_path / "d")
    stated = json.loads((folder / "detector.json").read_text())
    stated["parts"] = {"../secret": "0"}
    (folder / "detector.json").write_text(json.dumps(stated))
    with pytest.raises(MedoodError, match="changed"):
        Detector.load(folder)


def test_a_detector_of_an_earlier_version_is_scored_as_it_was(tiny_detector: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = _read_json(tiny_detector)
    del stated["preprocess"]["crops"]
    stated["preprocess"]["crop"] = 0.9
    monkeypatch.setattr("medood.detection.detector._read_json", lambda folder: stated)
    assert Detector.load(tiny_detector).network.crops == [0.9]


def test_no_patient_is_on_both_sides_of_the_split() -> None:
    patients = [f"p{i // 3}" for i in range(60)] + [""] * 20
    cache = ImageCache(np.zeros((80, 2, 2), np.uint8), [f"{i:064x}:0" for i in range(80)], patients, {})
    kept, held = split_by_patient(cache, 0.25, seed=0)
    assert len(kept) + len(held) == 80
    assert not {patients[i] for i in kept if patients[i]} & {patients[i] for i in held if patients[i]}
    assert 10 <= len(held) <= 30
    with pytest.raises(MedoodError, match="too few"):
        split_by_patient(ImageCache(cache.images[:2], cache.keys[:2], ["", ""], {}), 0.25, 0)


def test_a_detector_in_half_precision_decides_as_it_was_calibrated(
    tiny_detector: Path, phantom_folder: Path, tmp_path: Path
) -> None:
    half = train(tiny_config(phantom_folder, tmp_path / "half", "detector.half=true", "preprocess.crops=[0.8,1.0]"))
    size = {folder: sum(item.stat().st_size for item in folder.glob("*.safetensors")) for folder in (half, tiny_detector)}
    assert size[half] < 0.75 * size[tiny_detector]
    weights = load_file(half / "network.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    detector = Detector.load(half)
    assert detector.bank.dtype == torch.float32
    assert detector.network.crops == [0.8, 1.0]
    scans = [scan for scan in read_scans(phantom_folder) if isinstance(scan, Scan)]
    scores = detector.raw_scores(embed(detector.network, torch.stack([detector.prepare(scan) for scan in scans])))
    assert all(np.isclose(scores, value, rtol=1e-5, atol=1e-5).any() for value in detector.calibration.scores)
