"""Every trained detector carries a card that says what it was made from."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from medood.detection.detector import Detector
from medood.detection.detector_folder import CARD
from medood.workflows.model_card import write_card


def test_the_card_states_what_the_folder_holds(tiny_detector: Path) -> None:
    text = (tiny_detector / CARD).read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "medood"
    detector = Detector.load(tiny_detector)
    for fact in (detector.sha256, detector.score_name, detector.metadata.data["training_sha256"]):
        assert fact in body
    assert f"| calibration scans | {detector.metadata.data['calibration_scans']} |" in body
    assert "For its owner to add" in body


def test_a_card_that_a_person_has_taken_over_is_kept(tiny_detector: Path, tmp_path: Path) -> None:
    folder = tmp_path / "detector"
    shutil.copytree(tiny_detector, folder)
    detector = Detector.load(folder)
    (folder / CARD).write_text((folder / CARD).read_text() + "more\n")
    write_card(detector, folder)
    assert not (folder / CARD).read_text().endswith("more\n")
    (folder / CARD).write_text("# ours\n")
    write_card(detector, folder)
    assert (folder / CARD).read_text() == "# ours\n"
