"""What medood 0.1.0 wrote is read as it was: a detector, ledgers, reviews, a checkpoint."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medood.detection.detector import Detector
from medood.distillation.checkpoint import load_newest
from medood.phantom.archive import PhantomConfig, write_archive
from medood.progress import Progress
from medood.reporting.pdf import report
from medood.reporting.review import read_review
from medood.screening.ledger.database import Ledger
from medood.screening.ledger.schema import SCHEMA_VERSION
from medood.screening.run import screen
from medood.screening.run_diff import diff_runs, find_runs

OLD = Path(__file__).parent / "fixtures" / "0.1.0"
DECIDED = ("source", "member", "frame", "sha256", "status", "score", "p_value", "decision")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy: opening an old ledger migrates it."""
    shutil.copytree(OLD, tmp_path / "old")
    return tmp_path / "old"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def verdicts(path: Path) -> list[list[str]]:
    return [[row[name] for name in DECIDED] for row in table(path)]


@pytest.mark.parametrize("run", ["run", "run_north"])
def test_a_ledger_is_migrated_and_gives_the_same_verdicts(old: Path, run: str) -> None:
    database = sqlite3.connect(old / run / "ledger.sqlite")
    assert database.execute("PRAGMA user_version").fetchone() == (2,)
    before = {name: json.loads(value) for name, value in database.execute("SELECT name, value FROM run")}
    facts = [json.loads(value) for (value,) in database.execute("SELECT facts FROM scans ORDER BY id")]
    database.close()
    ledger = Ledger(old / run)
    assert ledger._version() == SCHEMA_VERSION == 4
    before["read"] |= {"decode": "full", "text": False}  # new keys, with what versions before them did
    before["calibration"]["made"] = ""
    assert ledger.metadata().to_dict() == before
    assert [row.metadata for row in ledger.rows()] == facts
    ledger.write_csv(old / "again.csv")
    ledger.close()
    lines = (OLD / run / "verdicts.csv").read_bytes().splitlines()
    with_finding = [lines[0] + b",finding", *(line + b"," for line in lines[1:])]
    assert (old / "again.csv").read_bytes().splitlines() == with_finding, "a new column at the end, empty"


def test_a_detector_scores_the_same_archive_the_same(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = PhantomConfig(size=96, in_distribution=6, outliers={"ct_like": 3, "inverted": 3}, broken=1)
    write_archive(settings, Path("archive.zip"), Progress(quiet=True))
    for run, calibration in (("run", "training"), ("run_north", "north")):
        screen(["archive.zip"], old / "detector", run, fpr=0.1, calibration=calibration)
        expected, actual = verdicts(OLD / run / "verdicts.csv"), verdicts(tmp_path / run / "verdicts.csv")
        for before, now in zip(expected, actual, strict=True):
            assert (now[:5], now[6:]) == (before[:5], before[6:])
            assert not before[5] or float(now[5]) == pytest.approx(float(before[5]), abs=1e-5)
    difference = diff_runs(old / "run", tmp_path / "run")
    assert difference.changed == 0
    assert [name for name, _, _ in difference.settings] in (["medood"], ["threshold", "medood"])
    assert {entry.rows for entry in find_runs(old)} == {13}


def test_a_saved_detector_states_what_it_stated(old: Path) -> None:
    detector = Detector.load(old / "detector")
    stated = json.loads((OLD / "detector" / "detector.json").read_text())
    detector.save(old / "again")
    again = json.loads((old / "again" / "detector.json").read_text())
    changing = {"versions", "sha256"}
    stated["model"] |= {"size": 0, "frozen": False, "rotation_head": False}  # new keys with their defaults
    stated["preprocess"]["channels"] = 1
    assert {name: value for name, value in again.items() if name not in changing} == {
        name: value for name, value in stated.items() if name not in changing
    }
    assert dataclasses.asdict(detector.metadata) == {name: stated[name] for name in dataclasses.asdict(detector.metadata)}


def test_reviews_belong_to_the_run_and_go_into_its_report(old: Path) -> None:
    ledger = Ledger(old / "run")
    metadata, keys = ledger.metadata(), set(ledger.keys(scored_only=True))
    ledger.close()
    reviews = [read_review(OLD / name, metadata, keys) for name in ("review.json", "review.csv")]
    assert reviews[0].verdicts == reviews[1].verdicts
    assert "=1+1" in reviews[0].notes.values()
    report(old / "run", old / "detector", images=False, review=OLD / "review.json")
    record = json.loads((old / "run" / "record.json").read_text())
    before = json.loads((OLD / "run" / "record.json").read_text())
    assert record["review"]["disagree"] > 0
    assert record["schema_version"] == before["schema_version"] + 1
    before["run"]["read"] |= {"decode": "full", "text": False}  # new keys, with what versions before them did
    before["run"]["calibration"]["made"] = ""
    for name in ("run_name", "run", "counts", "summary", "inputs_sha256", "settings_sha256"):
        assert record[name] == before[name], name
    assert [line["source"] for line in record["flagged"]] == [line["source"] for line in before["flagged"]]


def test_a_checkpoint_is_read() -> None:
    found: Any = load_newest(OLD / "detector" / "checkpoints")
    (tensors, header), damaged = found
    assert (header["step"], damaged) == (6, [])
    assert all(np.isfinite(value.float().numpy()).all() for value in tensors.values())
