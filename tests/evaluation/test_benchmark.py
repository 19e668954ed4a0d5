from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.evaluation.benchmark import benchmark, write_table
from medood.phantom.chest import frontal_chest
from medood.phantom.strangers import STRANGERS


def write_manifest(root: Path) -> Path:
    rows = []

    def add(picture: np.ndarray, split: str, group: str, dataset: str) -> None:
        name = f"{len(rows)}.png"
        Image.fromarray((picture * 255).astype(np.uint8)).save(root / name)
        rows.append({"file": name, "split": split, "group": group, "dataset": dataset, "patient_id": ""})

    for seed in range(6):
        add(frontal_chest(seed, 64).picture, "train", "in_distribution", "phantom")
        add(frontal_chest(50 + seed, 64).picture, "test", "in_distribution", "phantom")
        add(frontal_chest(70 + seed, 64).picture, "test", "id_shift", "here_normal")
        add(STRANGERS["opacities"](90 + seed, 64), "test", "near", "here_opacity")
        add(STRANGERS["ct_like"](seed, 64), "test", "far", "ct")
    rows.append({"file": "missing.png", "split": "test", "group": "far", "dataset": "ct", "patient_id": ""})
    with (root / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / "manifest.csv"


def test_what_is_compared_with_what(tiny_detector: Path, tmp_path: Path) -> None:
    table, missing = benchmark(Detector.load(tiny_detector), write_manifest(tmp_path), repeats=20)
    lines = {(line.kind, line.positives): line for line in table}
    for kind, name in [
        ("far", "ct"),
        ("near", "here_opacity"),
        ("id_shift", "here_normal"),
        ("acquisition", "rot90"),
        ("acquisition", "mirror"),
        ("near vs id_shift", "here_opacity"),
        ("same source", "here_opacity"),
    ]:
        assert (kind, name) in lines
    assert lines["far", "ct"].pixel_knn.auroc == 1
    assert lines["near vs id_shift", "here_opacity"].negative_count == 6
    assert len(missing) == 1
    assert "missing.png" in missing[0]
    write_table(table, tmp_path / "out", "A")
    with (tmp_path / "out" / "benchmark.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(table)
    assert float(rows[0]["low"]) <= float(rows[0]["auroc"]) <= float(rows[0]["high"])
    assert (tmp_path / "out" / "benchmark.md").read_text().count("\n|") == len(table) + 2


def test_manifests_that_cannot_be_used_are_told(tiny_detector: Path, tmp_path: Path) -> None:
    detector = Detector.load(tiny_detector)
    with pytest.raises(MedoodError, match="cannot be read"):
        benchmark(detector, tmp_path / "none.csv")
    (tmp_path / "a.csv").write_text("file,split\nx,test\n")
    with pytest.raises(MedoodError, match="column 'group'"):
        benchmark(detector, tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("file,split,group,dataset\nx.png,test,in_distribution,a\n")
    with pytest.raises(MedoodError, match="needs rows"):
        benchmark(detector, tmp_path / "b.csv")
