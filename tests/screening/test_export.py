from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from medood.errors import MedoodError
from medood.screening.export import VERDICTS_VERSION, export
from medood.screening.ledger.database import VERDICT_COLUMNS, Ledger, Row
from medood.text import spreadsheet_cell


@pytest.fixture
def run(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path / "run", create=True)
    ledger.add(
        [
            Row("a.dcm", "", 0, "1" * 64, "scored", "", 0.1 + 0.2, 1 / 3, "in_distribution"),
            Row('ä, "b"\n日本.zip', "x", 3, "2" * 64, "scored", "flagged", 1e308, 0.001, "out_of_distribution"),
            Row("c", "", 0, "", "unreadable", "the file is empty (0 bytes)"),
        ]
    )
    ledger.close()
    return tmp_path / "run"


def test_every_format_holds_the_same_rows(run: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in export(run, tmp_path / "v.jsonl").read_text().splitlines()]
    assert {line.pop("version") for line in lines} == {VERDICTS_VERSION}
    table = pyarrow.parquet.read_table(export(run, tmp_path / "v.parquet"))
    assert table.to_pylist() == lines
    assert table.schema.names == list(VERDICT_COLUMNS)
    assert table.schema.metadata[b"medood_verdicts"].decode() == VERDICTS_VERSION
    with export(run, tmp_path / "v.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["source"] for row in rows] == ["a.dcm", 'ä, "b"\\n日本.zip', "c"], "control characters are spelled out"
    assert [float(row["score"]) for row in rows[:2]] == [line["score"] for line in lines[:2]]
    assert lines[2]["score"] is None
    assert rows[2]["score"] == ""


def test_mistakes_are_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MedoodError, match=r"expected one of \.csv, \.jsonl, \.parquet"):
        export(run, tmp_path / "v.xlsx")
    with pytest.raises(MedoodError, match="is not a run"):
        export(tmp_path / "none", tmp_path / "v.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(MedoodError, match="cannot be written"):
        export(run, tmp_path / "file" / "v.jsonl")
    (tmp_path / "v.csv").mkdir()
    with pytest.raises(MedoodError, match=r"/v\.csv cannot be written: Is a directory\."):
        export(run, tmp_path / "v.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MedoodError, match=r"Install medood\[parquet\]"):
        export(run, tmp_path / "v.parquet")
    assert not list(tmp_path.glob(".v*"))


@pytest.mark.parametrize("name", ['=HYPERLINK("http://x","y")', "@SUM(1)", "+1", "-1+1", "\t=1", "\r=1", "\x1b[31m"])
def test_a_spreadsheet_runs_no_name_and_machines_get_it_as_it_is(tmp_path: Path, name: str) -> None:
    ledger = Ledger(tmp_path / "run", create=True)
    ledger.add([Row("a.zip", name, 0, "1" * 64, "scored", "", -0.5, 0.5, "in_distribution")])
    ledger.close()
    with export(tmp_path / "run", tmp_path / "v.csv").open(newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert row["member"] == spreadsheet_cell(name) != name
    assert row["score"] == "-0.5", "a number is no text"
    assert json.loads(export(tmp_path / "run", tmp_path / "v.jsonl").read_text())["member"] == name
    assert pyarrow.parquet.read_table(export(tmp_path / "run", tmp_path / "v.parquet"))["member"].to_pylist() == [name]
