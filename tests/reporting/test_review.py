from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from medood.errors import MedoodError
from medood.reporting.review import COLUMNS, read_review, run_name
from medood.screening.ledger.run_metadata import CalibrationInfo, DetectorInfo, RunMetadata

METADATA = RunMetadata(started="a", finished="b", detector=DetectorInfo(sha256="c"), calibration=CalibrationInfo(sha256="d"))
KEYS = {f"{i:064x}:0" for i in range(4)}
FIRST, SECOND, THIRD, _ = sorted(KEYS)
ENTRIES = [
    {"key": FIRST, "scan": "a", "decision": "out_of_distribution", "verdict": "agree", "note": ""},
    {"key": SECOND, "scan": "b", "decision": "out_of_distribution", "verdict": "disagree", "note": "=1+1"},
    {"key": THIRD, "scan": "c", "decision": "in_distribution", "verdict": "", "note": 'odd, "really"\nyes'},
]


def as_json(path: Path, **changed: Any) -> Path:
    body = {"medood_review": 1, "run": run_name(METADATA), "reviewer": "R. N.", "reviews": ENTRIES, **changed}
    path.write_text(json.dumps(body))
    return path


def as_csv(path: Path, run: str = "") -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for entry in ENTRIES:
            guarded = "'" + entry["note"] if entry["note"].startswith("=") else entry["note"]
            writer.writerow({**entry, "note": guarded, "run": run or run_name(METADATA), "reviewer": "R. N."})
    return path


def test_json_and_csv_say_the_same(tmp_path: Path) -> None:
    one, other = (read_review(path, METADATA, KEYS) for path in (as_json(tmp_path / "r.json"), as_csv(tmp_path / "r.csv")))
    assert (one.reviewer, one.verdicts, one.notes) == (other.reviewer, other.verdicts, other.notes)
    assert one.verdicts == {FIRST: "agree", SECOND: "disagree"}
    assert one.notes == {SECOND: "=1+1", THIRD: 'odd, "really"\nyes'}
    out, accepted = ("a", "out_of_distribution"), ("b", "in_distribution")
    stated = one.to_dict({FIRST: out, SECOND: out, THIRD: accepted})
    assert (stated["reviewed"], stated["agree"], stated["disagree"], stated["others"]) == (2, 1, 1, 0)
    assert [entry["note"] for entry in stated["entries"]] == ["", "=1+1", 'odd, "really"\nyes']
    assert one.to_dict({FIRST: out, SECOND: accepted, THIRD: accepted})["others"] == 1


def test_a_review_of_another_run_is_refused(tmp_path: Path) -> None:
    for path in (as_json(tmp_path / "r.json", run="0" * 16), as_csv(tmp_path / "r.csv", "0" * 16)):
        with pytest.raises(MedoodError, match="is a review of the run '0000000000000000', not of"):
            read_review(path, METADATA, KEYS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "[]",
        "{}",
        '{"medood_review": 2}',
        json.dumps(
            {"medood_review": 1, "run": "x", "reviewer": "", "reviews": [{"key": "k", "verdict": "yes", "note": ""}]}
        ),
        json.dumps({"medood_review": 1, "run": "x", "reviewer": 3, "reviews": []}),
        json.dumps({"medood_review": 1, "run": "x", "reviewer": "", "reviews": 3}),
    ],
)
@pytest.mark.parametrize("ending", ["json", "csv"])
def test_what_is_no_review_is_told(tmp_path: Path, text: str, ending: str) -> None:
    path = tmp_path / f"r.{ending}"
    path.write_text(text)
    with pytest.raises(MedoodError, match="is not a review"):
        read_review(path, METADATA, KEYS)


def test_other_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match="cannot be read"):
        read_review(tmp_path / "none.json", METADATA, KEYS)
    with pytest.raises(MedoodError, match="cannot be read"):
        read_review(tmp_path, METADATA, KEYS)
    (tmp_path / "odd.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MedoodError, match="is not a review"):
        read_review(tmp_path / "odd.json", METADATA, KEYS)
    with pytest.raises(MedoodError, match="more than once"):
        read_review(as_json(tmp_path / "r.json", reviews=ENTRIES + ENTRIES[:1]), METADATA, KEYS)
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(MedoodError, match="is not a review"):
        read_review(tmp_path / "deep.json", METADATA, KEYS)
    text = as_csv(tmp_path / "r.csv").read_text()
    (tmp_path / "r.csv").write_text(text.replace("R. N.", "S. O.", 1))
    with pytest.raises(MedoodError, match="several runs or reviewers"):
        read_review(tmp_path / "r.csv", METADATA, KEYS)
    with pytest.raises(MedoodError, match="1 scans that the run did not score"):
        read_review(as_json(tmp_path / "r.json"), METADATA, KEYS - {FIRST})
