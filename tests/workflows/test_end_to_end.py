"""The main job from scans to a report: on phantoms, and on real images."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pypdf import PdfReader
from sklearn.metrics import roc_auc_score

import medood
from medood.config.loader import load_config
from medood.phantom.archive import PhantomConfig, write_archive
from medood.progress import Progress
from medood.reporting.pdf import report
from medood.workflows.demo import demo
from tests.conftest import ROOT, tiny_config


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "verdicts.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_phantoms(phantom_folder: Path, tmp_path: Path) -> None:
    """Train, screen an archive with outliers and a broken file, report."""
    detector = medood.train(tiny_config(phantom_folder, tmp_path / "detector", "train.epochs=6"))
    settings = PhantomConfig(size=96, in_distribution=10, outliers={"ct_like": 3, "hand_like": 3, "inverted": 3}, broken=1)
    archive = write_archive(settings, tmp_path / "archive.zip", Progress(quiet=True))
    found = medood.screen([archive], detector, tmp_path / "run", fpr=0.1)
    assert found.scanned == 20
    assert found.refused == 1
    rows = [row for row in rows_of(tmp_path / "run") if row["status"] == "scored"]
    strange = [not row["member"].startswith("chest") for row in rows]
    assert roc_auc_score(strange, [float(row["score"]) for row in rows]) > 0.95
    assert sum(row["decision"] == "out_of_distribution" for row, odd in zip(rows, strange, strict=True) if odd) >= 6
    text = " ".join(page.extract_text() for page in PdfReader(report(tmp_path / "run", top=3)).pages)
    assert "broken-000.dcm" in text


def test_the_demo_runs_and_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's own steps at a size of seconds."""
    import medood.workflows.demo as module

    (tmp_path / "phantom.yaml").write_text("size: 64\ntraining: 60\nin_distribution: 4\noutliers: {ct_like: 2}\nbroken: 1\n")
    small = (ROOT / "configs" / "demo.yaml").read_text().replace("epochs: 40", "epochs: 1")
    assert "epochs: 1\n" in small
    (tmp_path / "demo.yaml").write_text(small + "\ndata: {calibration_fraction: 0.4}\n")
    monkeypatch.setattr(module, "shipped_file", lambda name: tmp_path / Path(name).name)
    for _ in range(2):
        made = demo(tmp_path / "out", Progress(quiet=True), train=True)
        assert made.pdf.is_file()
        assert made.verdicts.is_file()
        assert any("ct like" in line for line in made.lines)


def test_real_pictures(medood_data: Path, tmp_path: Path) -> None:
    """A minute on 480 real radiographs at 48 px begins to tell other modalities from chests.

    It holds the chain, not the quality: what a real run reaches is in reports/.
    """
    root = tmp_path / "train.zip"
    with zipfile.ZipFile(root, "w") as archive:
        for path in sorted((medood_data / "in_distribution" / "train").iterdir())[:600]:
            archive.write(path, path.name)
    overrides = [f"data.root='{root}'", f"out='{tmp_path / 'detector'}'", "train.epochs=20"]
    detector = medood.train(load_config(ROOT / "configs" / "demo.yaml", overrides))
    mixed = tmp_path / "mixed.zip"
    with zipfile.ZipFile(mixed, "w") as archive:
        for kind, folder in {"own": "in_distribution/test", "ct": "far/chest_ct", "bone": "far/bone_xray"}.items():
            for path in sorted((medood_data / folder).iterdir())[:30]:
                archive.write(path, f"{kind}/{path.name}")
        for path in sorted(p for p in (medood_data / "dicom").rglob("*") if p.is_file())[:40:8]:
            archive.write(path, f"dicom/{path.name}")
    found = medood.screen([mixed], detector, tmp_path / "run", fpr=0.05)
    rows = rows_of(tmp_path / "run")
    assert found.scanned == len(rows) >= 95
    scores = {kind: [float(r["score"]) for r in rows if r["member"].startswith(kind)] for kind in ("own", "ct", "bone")}
    for kind in ("ct", "bone"):
        truth = np.r_[np.zeros(30), np.ones(30)]
        assert roc_auc_score(truth, scores["own"] + scores[kind]) > 0.75, kind
    assert report(tmp_path / "run", top=5).stat().st_size > 20_000
