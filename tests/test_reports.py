from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUDIES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "reports").rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_imports_without_running(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    study = importlib.import_module(name)
    assert study.__doc__
    assert capsys.readouterr().out == ""
