"""Sensitivity: the definition against a slow loop, and the command on phantoms."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from medood.errors import MedoodError
from medood.negatives.mixture import SHIFTS
from medood.progress import Progress
from medood.workflows.sensitivity import sensitivity, strategies, table, write_sensitivity
from tests.conftest import tiny_config


def test_the_definition_written_out() -> None:
    chosen = {"none": {}, "a": {"mirror": 1.0}, "b": {"inverted": 1.0, "opacity": 0.0}}
    reactions = {
        "none": {"mirror": 0.5, "inverted": 0.6, "opacity": 0.5},
        "a": {"mirror": 0.9, "inverted": 0.8, "opacity": 0.6},
        "b": {"mirror": 0.6, "inverted": 1.0, "opacity": 0.7},
    }
    means = {"mirror": (0.5 + 0.6) / 2, "inverted": (0.6 + 0.8) / 2, "opacity": (0.5 + 0.6 + 0.7) / 3}
    expected = {
        "none": ((0.5 - means["mirror"]) + (0.6 - means["inverted"]) + (0.5 - means["opacity"])) / 3,
        "a": ((0.8 - means["inverted"]) + (0.6 - means["opacity"])) / 2,
        "b": ((0.6 - means["mirror"]) + (0.7 - means["opacity"])) / 2,
    }
    rows = table(chosen, reactions)
    assert [row.strategy for row in rows] == sorted(expected, key=lambda name: -expected[name])
    for row in rows:
        assert row.sensitivity == pytest.approx(expected[row.strategy])


def test_a_shift_much_like_a_trained_one_is_left_out() -> None:
    chosen = {"turns": {"rot": 1.0}, "none": {}}
    reactions = {name: dict.fromkeys(("rot", "rot_360", "upside_down", "mirror"), 0.5) for name in chosen}
    reactions["turns"] |= {"rot_360": 1.0, "upside_down": 1.0, "rot": 1.0}
    assert table(chosen, reactions)[0].sensitivity == pytest.approx(0)


def test_names_of_strategies(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path)
    assert strategies(config, ["none", "rot", "mixture"]) == {
        "none": {},
        "rot": {"rot": 1.0},
        "mixture": config.negatives.mixture,
    }
    with pytest.raises(MedoodError, match="Did you mean 'mirror'"):
        strategies(config, ["none", "mirorr"])
    with pytest.raises(MedoodError, match="at least two"):
        strategies(config, ["rot"])


def test_strategies_are_trained_once_and_ranked(phantom_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(phantom_folder, tmp_path / "unused")
    rows = sensitivity(config, ["none", "rot"], tmp_path, Progress(quiet=True))
    before = (tmp_path / "rot" / "detector.json").stat().st_mtime_ns
    again = sensitivity(config, ["none", "rot"], tmp_path, Progress(quiet=True))
    assert rows == again
    assert (tmp_path / "rot" / "detector.json").stat().st_mtime_ns == before
    assert set(rows[0].reactions) == set(SHIFTS) - {"image_as_is"}
    write_sensitivity(rows, tmp_path / "sensitivity.csv")
    with (tmp_path / "sensitivity.csv").open() as stream:
        table_rows = list(csv.DictReader(stream))
    assert [row["strategy"] for row in table_rows] == [row.strategy for row in rows]
    assert all(0 <= float(row["mirror"]) <= 1 for row in table_rows)
    assert np.isfinite([row.sensitivity for row in rows]).all()
