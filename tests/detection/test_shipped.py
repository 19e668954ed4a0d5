"""The detector that is part of the package."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pypdf import PdfReader
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from medood.config.resources import DEFAULT, find_detector, is_shipped, shipped_detectors
from medood.detection.detector import Detector
from medood.detection.features import embed
from medood.detection.scores import SCORES
from medood.evidence.fault_codes import ABNORMALITIES
from medood.phantom.archive import PhantomConfig, write_archive
from medood.phantom.chest import frontal_chest
from medood.phantom.outliers import OUTLIERS
from medood.progress import Progress
from medood.scans.scan import Identity, Scan
from medood.screening.ledger.database import Ledger
from medood.workflows.demo import demo
from tests.cli.test_commands import medood

FOLDER = find_detector(DEFAULT)


def test_it_is_small_and_holds_no_picture() -> None:
    files = {path.relative_to(FOLDER).as_posix(): path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()}
    assert set(files) == {
        "README.md",
        "detector.json",
        "network.safetensors",
        "bank.safetensors",
        "calibrations/training.json",
        "calibrations/training.safetensors",
    }
    assert files["network.safetensors"] <= 16 * 2**20
    assert sum(files.values()) <= 18 * 2**20  # with the calibration
    assert {value.dtype for value in load_file(FOLDER / "network.safetensors").values()} == {torch.float16}
    bank = load_file(FOLDER / "bank.safetensors")
    known = {"features", "keys", "learned_keys", "learned_hashes", "places", *SCORES}
    assert {name.partition("/")[0] for name in bank} <= known


def test_it_tells_made_up_chests_from_strangers_it_never_saw() -> None:
    detector = Detector.load(DEFAULT)

    def scores(images: list[np.ndarray]) -> np.ndarray:
        scans = [Scan(Identity("made up"), image.astype(np.float32)[None]) for image in images]
        return detector.raw_scores(embed(detector.network, torch.stack([detector.prepare(scan) for scan in scans])))

    chests = scores([frontal_chest(seed, 256).image for seed in range(5000, 5030)])
    for kind, draw in OUTLIERS.items():
        strange = scores([draw(seed, 256) for seed in range(10)])
        assert roc_auc_score(np.r_[np.zeros(30), np.ones(10)], np.r_[chests, strange]) > 0.9, kind


def test_screening_uses_it_where_none_is_named(tmp_path: Path) -> None:
    settings = PhantomConfig(size=128, in_distribution=0, outliers={"mirrored": 2, "ct_like": 2}, broken=0)
    archive = write_archive(settings, tmp_path / "archive.zip", Progress(quiet=True))
    medood("screen", archive, "--out", tmp_path / "run", "--quiet")
    with (tmp_path / "run" / "verdicts.csv").open(newline="") as stream:
        assert {row["decision"] for row in csv.DictReader(stream)} == {"out_of_distribution"}
    assert Ledger.read_metadata(tmp_path / "run").detector.name == DEFAULT


def test_calibrated_with_made_up_chests_it_accepts_others_and_still_flags_strangers(tmp_path: Path) -> None:
    """The demo: a synthetic chest is no radiograph, and without the calibration most are flagged."""
    made = demo(tmp_path, Progress(quiet=True))
    flagged = {line[:16].strip(): int(line[16:24]) for line in made.lines[1:]}
    assert flagged["chest"] <= 6
    assert sum(count for kind, count in flagged.items() if kind != "chest") >= 12, flagged
    told = " ".join(" ".join(page.extract_text() for page in PdfReader(tmp_path / "screening/report.pdf").pages).split())
    assert "convnext_atto + lesions and faults in registered radiographs (192 px)" in told
    assert "shows where the lesion network sees a lesion" in told
    record = json.loads((tmp_path / "screening" / "record.json").read_text())
    corrections = {page["member"]: page["correction"] for page in record["pages"]}
    assert all(corrections[f"inverted-{number:03d}.dcm"] == "inverted" for number in (0, 1))
    clear = [page for page in record["pages"] if page["finding"] not in ABNORMALITIES]
    assert len(clear) >= 10
    assert all(page["overlay"] for page in clear), "the highest scans have a map of the score"


def test_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert DEFAULT in shipped_detectors()
    assert is_shipped(find_detector(DEFAULT))
    (tmp_path / DEFAULT).mkdir()
    assert is_shipped(find_detector(DEFAULT))
    (tmp_path / DEFAULT / "detector.json").write_text("{}")
    assert find_detector(DEFAULT) == Path(DEFAULT)  # a folder that is there comes first
    assert find_detector("elsewhere") == Path("elsewhere")
    assert not is_shipped(tmp_path)
