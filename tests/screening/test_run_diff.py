from __future__ import annotations

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medood.cli.main import app
from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.screening.ledger.database import Ledger, Row
from medood.screening.ledger.run_pair import ABSENT, COLUMNS, RunPair
from medood.screening.run import screen
from medood.screening.run_diff import diff_runs, find_runs

IN, OUT = "in_distribution", "out_of_distribution"


def made(folder: Path, rows: list[Row], **metadata: object) -> Path:
    ledger = Ledger(folder, create=True)
    ledger.set_metadata(detector={"sha256": "d" * 64, "name": "one"}, fpr=0.05, started="s", **metadata)
    ledger.add(rows)
    ledger.close()
    return folder


def row(digit: str, decision: str, *, source: str = "a.dcm", frame: int = 0, status: str = "scored") -> Row:
    score, p = (1.0, 0.5) if decision else (None, None)
    return Row(source, "", frame, digit * 64, status, "", score, p, decision)


def test_scans_are_told_by_their_contents(tmp_path: Path) -> None:
    first = made(
        tmp_path / "one",
        [
            row("1", IN),
            row("2", IN),
            row("2", OUT, frame=1),
            row("3", OUT),
            row("1", "", source="copy.dcm", status="duplicate"),
            row("", "", source="x", status="unreadable"),
            row("", "", source="y", status="unreadable"),
            row("5", "", status="not_selected"),
        ],
    )
    second = made(
        tmp_path / "two",
        [
            row("1", IN, source="moved/a.dcm"),
            row("2", OUT),
            row("2", OUT, frame=1),
            row("4", IN),
            row("", "", source="x", status="unreadable"),
            row("6", IN, source="y"),
        ],
        fdr=0.1,
    )
    found = diff_runs(first, second, tmp_path / "changes.csv")
    assert found.counts == {
        (IN, IN): 1,
        (IN, OUT): 1,
        (OUT, OUT): 1,
        (OUT, ABSENT): 1,
        (ABSENT, IN): 2,
        ("unreadable", "unreadable"): 1,
        ("unreadable", ABSENT): 1,
    }
    assert found.changed == 5
    assert found.settings == [("false-discovery rate", None, 0.1)]
    with (tmp_path / "changes.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 5
    moved = next(line for line in rows if line["sha256"] == "2" * 64)
    assert (moved["before"], moved["after"], moved["frame"], moved["score_before"]) == (IN, OUT, "0", "1.0")
    assert diff_runs(first, first).changed == 0


def test_calibrations_are_told_by_name_and_held_together_by_contents(tmp_path: Path) -> None:
    calibrations = {"old": {"name": "training", "sha256": "1" * 64}, "renamed": {"name": "a", "sha256": "1" * 64}}
    calibrations["new"] = {"name": "kigali", "sha256": "2" * 64}
    runs = {name: made(tmp_path / name, [], calibration=calibration) for name, calibration in calibrations.items()}
    assert diff_runs(runs["old"], runs["renamed"]).settings == []
    told = ("calibration", "training 111111111111", "kigali 222222222222")
    assert diff_runs(runs["old"], runs["new"]).settings == [told]


def test_a_run_screened_again_at_another_rate(tiny_detector: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for seed in range(6):
        (scans / f"{seed}.dcm").write_bytes(dicom_bytes(frontal_chest(seed, 96).image, str(seed)))
    (scans / "hand.dcm").write_bytes(dicom_bytes(OUTLIERS["hand_like"](1, 96), "hand"))
    (scans / "no.dcm").write_bytes(b"no")
    for name, fpr in (("strict", 0.07), ("lax", 0.9)):
        screen([scans], tiny_detector, tmp_path / "runs" / name, fpr=fpr)
    found = diff_runs(tmp_path / "runs" / "strict", tmp_path / "runs" / "lax")
    assert sum(found.counts.values()) == 8
    assert set(found.counts) <= {(IN, IN), (IN, OUT), (OUT, OUT), ("not_an_image", "not_an_image")}
    assert {name for name, _, _ in found.settings} <= {"false-alarm rate", "threshold"}
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "ledger.sqlite").write_bytes(b"no database")
    runs = list(find_runs(tmp_path))
    assert [(run.folder.name, run.rows, bool(run.damaged)) for run in runs] == [
        ("broken", 0, True),
        ("lax", 8, False),
        ("strict", 8, False),
    ]
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "runs" / "lax"), "--limit", "1"]).stdout
    assert f"{runs[1].flagged:>9}  out of distribution" in shown
    assert "false-alarm rate 0.9" in shown
    listed = CliRunner().invoke(app, ["runs", str(tmp_path)])
    assert listed.exit_code == 0
    assert "cannot be opened" in listed.stdout
    assert "training       fpr 0.9 " in listed.stdout
    arguments = ["diff", str(tmp_path / "runs" / "strict"), str(tmp_path / "runs" / "lax"), "--out", str(tmp_path / "c.csv")]
    told = CliRunner().invoke(app, arguments).stdout
    assert f"{found.changed} of 8 scans changed" in told
    assert "false-alarm rate: 0.07 -> 0.9" in told


def test_many_rows_are_compared_through_an_index(tmp_path: Path) -> None:
    for name, every in (("one", 7), ("two", 11)):
        made(
            tmp_path / name,
            [
                Row(f"{i}.dcm", "", 0, f"{i:064x}", "scored", "", 1.0, 0.5, OUT if i % every == 0 else IN)
                for i in range(5_000)
            ],
        )
    pair = RunPair(tmp_path / "one", tmp_path / "two")
    plan = " ".join(str(row[3]) for row in pair._database.execute("EXPLAIN QUERY PLAN SELECT * FROM pairs"))
    pair.close()
    assert "SEARCH a USING PRIMARY KEY" in plan and "SEARCH b USING PRIMARY KEY" in plan, plan
    found = diff_runs(tmp_path / "one", tmp_path / "two")
    slow: dict[tuple[str, str], int] = {}
    for i in range(5_000):
        key = (OUT if i % 7 == 0 else IN, OUT if i % 11 == 0 else IN)
        slow[key] = slow.get(key, 0) + 1
    assert found.counts == slow


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match="is not a run"):
        diff_runs(tmp_path, tmp_path)
    with pytest.raises(MedoodError, match="is not a folder"):
        list(find_runs(tmp_path / "none"))
    run = made(tmp_path / "run", [])
    with pytest.raises(MedoodError, match="cannot be written"):
        diff_runs(run, run, tmp_path / "none" / "changes.csv")
    assert CliRunner().invoke(app, ["runs", str(tmp_path / "run" / "..")]).exit_code == 0
