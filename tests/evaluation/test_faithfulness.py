from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medood.cli.main import app
from medood.config.resources import find_detector
from medood.detection.detector import Detector
from medood.evaluation.faithfulness import KINDS, deletion, localisation, overlap, peaks_inside, plant, randomise
from medood.evidence.evidence_maps import EvidenceMaps
from medood.evidence.grad_cam import grad_cam
from medood.evidence.score_map import ScoreMaps
from medood.phantom.chest import frontal_chest


def films(count: int, side: int = 64) -> torch.Tensor:
    return torch.stack([torch.from_numpy(frontal_chest(900 + i, side).image).float()[None] for i in range(count)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_planted_where_its_mask_says_and_nowhere_else(kind: str) -> None:
    plain = films(6)
    made, masks = plant(kind, plain, torch.Generator().manual_seed(1), (0.2, 0.25))
    again, _ = plant(kind, plain, torch.Generator().manual_seed(1), (0.2, 0.25))
    assert torch.equal(made, again)
    changed = (made - plain).abs()[:, 0].numpy()
    assert (changed[~masks].max() < 0.1) if kind == "opacity" else (changed[~masks].max() == 0)
    for some, mask in zip(changed, masks, strict=True):
        assert some[mask].mean() > 0.02
        width = int(mask.any(axis=0).sum())
        assert 0.18 * 64 <= width <= 0.25 * 64 + 1
    if kind == "opacity":
        assert float((made - plain).min()) > -1e-6


def test_peaks_and_overlap_by_hand() -> None:
    maps = np.zeros((3, 4, 4), np.float32)
    masks = np.zeros((3, 4, 4), bool)
    masks[:, :2, :2] = True
    maps[0, 1, 1], maps[1, 3, 3] = 2.0, 1.0  # the third is 0 everywhere, and peaks nowhere
    assert peaks_inside(maps, masks).tolist() == [True, False, False]
    np.testing.assert_allclose(overlap(maps > 0.5, masks), [1 / 4, 0.0, 0.0])
    np.testing.assert_allclose(overlap(masks, masks), 1.0)


def test_a_map_that_knows_the_place_is_told_from_chance(tiny_detector: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement itself, with maps that are right by construction: it must say so."""
    detector = Detector.load(tiny_detector)
    side = detector.preprocess.size
    plain = films(8, side)
    _, masks = plant("device", plain, torch.Generator().manual_seed(0))
    right_map, shown = masks.astype(np.float32), np.ones(len(masks))
    monkeypatch.setattr("medood.evaluation.faithfulness.evidence_maps", lambda *_: EvidenceMaps({"score": right_map}, shown))
    monkeypatch.setattr("medood.evaluation.faithfulness.score_maps", lambda *_: ScoreMaps(right_map, shown))
    right, of_the_head = localisation(detector, plain, "device")
    assert right.peak == right.iou == 1.0
    assert (of_the_head.maps, of_the_head.iou) == ("grad_cam", None)
    assert right.chance == pytest.approx(masks.mean(), abs=1e-4)
    by_map, by_centre, by_chance = deletion(detector, plain, "device")
    assert (by_map.order, by_centre.order, by_chance.order) == ("score", "centre", "random")
    assert set(by_map.left) == {0.025, 0.05, 0.1, 0.2}


def test_the_maps_of_the_shipped_detector_depend_on_its_weights() -> None:
    detector = Detector.load(find_detector("cxr-small"))
    before = grad_cam(detector, films(2, detector.preprocess.size))
    assert abs(randomise(detector, films(2, detector.preprocess.size))) < 0.5, "0.11 when this was written"
    np.testing.assert_array_equal(before, grad_cam(detector, films(2, detector.preprocess.size)))


def test_the_command_writes_the_figures(tiny_detector: Path, phantom_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "faithfulness.csv"
    arguments = ["--detector", str(tiny_detector), "--out", str(target), "--limit", "3", "--quiet"]
    done = CliRunner().invoke(app, ["check-maps", str(phantom_folder), *arguments])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(target)
    rows = {row["figure"]: row["value"] for row in csv.DictReader(target.open())}
    assert float(rows["scans"]) == 3
    for maps in ("score", "places", "both", "grad_cam"):
        assert 0 <= float(rows[f"opacity of 0.1 to 0.25 of the width: {maps} peaks inside"]) <= 1
    assert "score left after 0.05 of the image was filled, by random" in rows
    assert -1 <= float(rows["rank correlation with the map of random weights"]) <= 1
