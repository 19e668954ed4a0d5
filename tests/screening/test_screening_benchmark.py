"""The benchmark of screening measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medood.cli.speed import speed_app
from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.screening import screening_benchmark
from medood.screening.screening_benchmark import decode_all, score_all, screen_all, screening_speed


@pytest.mark.parametrize("work", [decode_all, screen_all])
def test_every_image_of_an_archive_counts(work: object, tiny_detector: Path, phantom_folder: Path) -> None:
    assert callable(work)
    assert work(Detector.load(tiny_detector), phantom_folder, ReadConfig()) == 40
    assert score_all(Detector.load(tiny_detector), 70) == 70


def test_a_run_is_compared_with_the_slower_of_its_parts(
    monkeypatch: pytest.MonkeyPatch, tiny_detector: Path, tmp_path: Path
) -> None:
    seconds = {"decode_all": 4.0, "score_all": 2.0, "screen_all": 5.0}
    monkeypatch.setattr(screening_benchmark, "_alone", lambda work, *_: (40, seconds[work.__name__]))
    speed = screening_speed(tmp_path, str(tiny_detector), ReadConfig(), repeats=3)
    assert (speed.images, speed.decode, speed.score, speed.screen, speed.limit) == (40, 10.0, 20.0, 8.0, 10.0)
    assert speed.share == pytest.approx(0.8)


def test_the_speed_of_scoring_is_shown_beside_its_limit(tiny_detector: Path, tmp_path: Path) -> None:
    arguments = ["score", str(tiny_detector), "--repeats", "1", "--out", str(tmp_path / "speed.csv")]
    result = CliRunner().invoke(speed_app, arguments)
    assert result.exit_code == 0, result.output
    figures = dict(line.split(",") for line in (tmp_path / "speed.csv").read_text().splitlines())
    assert list(figures) == ["one_thread", "all_cores", "gflop", "limit"]
    assert all(float(value) > 0 for value in figures.values())
    assert "at the speed of a matrix product" in result.output
