"""The site: its diagram, its tutorial, its words."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tokenize
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from medood import __version__
from medood.errors import ExitCode
from tests.conftest import ROOT


def import_graph() -> ModuleType:
    spec = importlib.util.spec_from_file_location("import_graph", ROOT / "docs" / "import_graph.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_diagram_is_that_of_the_code_and_no_arrow_points_up() -> None:
    graph = import_graph()
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    assert re.findall(r"```mermaid\n(.*?)\n```", page, re.S) == [graph.mermaid()]
    layer = {name: i for i, names in enumerate(graph.layers(graph.rooms())) for name in names}
    assert all(layer[source] < layer[target] for source, targets in graph.rooms().items() for target in targets)
    with pytest.raises(ValueError, match="a circle: a -> b -> a"):
        graph.layers({"a": {"b"}, "b": {"a"}})


def test_every_folder_and_file_that_the_architecture_names_is_there() -> None:
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)/` \|.*\| ([^|]*) \|$", page, re.M)
    assert {name for name, _ in rows} == {path.parent.name for path in (ROOT / "medood").glob("*/__init__.py")}
    for name, files in rows:
        for file in re.findall(r"`([\w/.]+\.py)`", files):
            assert (ROOT / "medood" / name / file).is_file(), file


def test_folders_and_modules_stay_small() -> None:
    for folder in {path.parent for path in (ROOT / "medood").rglob("*.py")}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= 16 or folder.name == "cli", folder
        for path in modules:
            assert len(path.read_text().splitlines()) <= 400, path


def test_the_old_words_are_gone() -> None:
    """Identifiers of 0.1 that no paper, library or standard uses."""
    old = {"Work", "Reading", "Asked", "Doors", "Here", "Isolated", "End", "Seen", "Coming", "Whole", "Pace", "Codestream"}
    old |= {"told", "there", "facts", "stated", "turned", "_ALONE", "_told_over", "_SAME", "some", "made", "taken", "found"}
    old |= {"strangers", "STRANGERS", "belonging", "picture", "pictures", "film", "films"}
    allowed = {"found", "made", "some"}  # counted below: few are left
    left = []
    for path in (ROOT / "medood").rglob("*.py"):
        with path.open("rb") as stream:
            names = [token.string for token in tokenize.tokenize(stream.readline) if token.type == tokenize.NAME]
        left += [f"{path.name}: {name}" for name in names if name in old]
    assert [name for name in left if name.split()[-1] not in allowed] == []
    assert len(left) < 10


def test_the_citation_and_the_changelog_name_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    committed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    for name in ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", ".pre-commit-config.yaml"):
        assert name in committed


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "docs" / "tutorial" / "first_screening.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    rows = dict(re.findall(r"^(\S+-\d+)\.dcm +(\w+)", printed, re.M))
    assert sum(decision == "out_of_distribution" for name, decision in rows.items() if "chest" not in name) >= 6
    assert rows["broken-000"] == "unreadable"


def test_exit_codes_are_one_table() -> None:
    page = (ROOT / "docs" / "howto" / "screening.md").read_text()
    assert "\n".join(f"| {int(code)} | {code.meaning} |" for code in ExitCode) in page
