from __future__ import annotations

import json
from pathlib import Path

import pytest

from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.screening.metrics import Metrics
from medood.screening.run import screen
from medood.screening.run_options import RunOptions
from tests.scans.films import film, write


def test_figures_and_events_count_rows_and_name_nobody(tiny_detector: Path, tmp_path: Path) -> None:
    root = tmp_path / "secret-folder"
    root.mkdir()
    for i in range(40):
        (root / f"Miller-{i}.dcm").write_bytes(dicom_bytes(frontal_chest(i, 32).image, f"{i}"))
    (root / "named.dcm").write_bytes(write(film()))
    (root / "text.dcm").write_text("no scan")
    figures, events = tmp_path / "figures.prom", tmp_path / "events.jsonl"
    screen([root], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(metrics=Metrics(figures, events)))
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "rows", "rows", "finished"]
    assert [line.get("count") for line in lines] == [None, 32, 10, None]
    assert lines[-1]["rows"] == 42
    text = figures.read_text()
    rows = [line for line in text.splitlines() if line.startswith("medood_rows_total")]
    assert sum(float(line.rpartition(" ")[2]) for line in rows) == 42
    assert 'medood_rows_total{decision="",status="not_an_image"} 1.0' in rows
    for word in ("Miller", "secret-folder", "SECRET", "^Name", str(tmp_path)):
        assert word not in text + events.read_text()


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match="--log"):
        Metrics(events=tmp_path / "none" / "a").event("started")
    with pytest.raises(MedoodError, match="--metrics"):
        Metrics(figures=tmp_path / "none" / "a").write()
