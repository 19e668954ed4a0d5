"""A mistake that can be known without the network is reported before torch and its kind are imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest

HEAVY = ("torch", "monai", "timm", "matplotlib", "sklearn", "scipy.stats", "highdicom", "typst")
RUN = Path("fixtures") / "run"
DETECTOR = Path(__file__).parents[1] / "fixtures" / "0.1.0" / "detector"
_CODE = f"""
import atexit, json, sys
from medood.cli.main import main
atexit.register(lambda: print(json.dumps([name for name in {HEAVY!r} if name in sys.modules])))
sys.argv = ["medood", *json.loads(sys.argv[1])]
main()
"""


def start(*arguments: object, folder: Path) -> tuple[int, str, list[str]]:
    """Exit code, error output and heavy imports of a command that is run in a folder."""
    command = [sys.executable, "-c", _CODE, json.dumps([str(argument) for argument in arguments])]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stderr, json.loads(ended.stdout.splitlines()[-1])


MISTAKES = {
    "screen: no such source": (["screen", "nothing", "--out", "run"], "nothing does not exist"),
    "screen: an empty folder": (["screen", "empty", "--out", "run"], "There is no file in empty"),
    "screen: unknown detector": (["screen", ".", "--out", "run", "--detector", "none"], "none is not a detector"),
    "screen: unknown calibration": (["screen", ".", "--out", "run", "--calibration", "none"], "no calibration 'none'"),
    "screen: a rate above 1": (["screen", ".", "--out", "run", "--fpr", "5"], "--fpr is 5"),
    "screen: a false-discovery rate of 0": (["screen", ".", "--out", "run", "--fdr", "0"], "--fdr is 0"),
    "screen: a wrong part": (["screen", ".", "--out", "run", "--shard", "3/2"], "--shard is '3/2'"),
    "screen: unknown engine": (["screen", ".", "--out", "run", "--engine", "spark"], "--engine is 'spark'"),
    "screen: a selection that is none": (["screen", ".", "--out", "run", "--select", "("], "selection '('"),
    "screen: an existing run": (["screen", ".", "--out", RUN], "already holds a run"),
    "screen: no folder for the log": (["screen", ".", "--out", "run", "--log", "a/b"], "there is no folder a"),
    "report: no run": (["report", "nothing"], "nothing is not a run"),
    "report: a moved detector": (["report", RUN, "--detector", "none"], "no longer at none"),
    "report: unknown language": (["report", RUN, "--detector", DETECTOR, "--language", "xx"], "--language is 'xx'"),
    "dicom: no run": (["dicom", "nothing"], "nothing is not a run"),
    "split: no run": (["split", "nothing", "--out", "apart"], "nothing is not a run"),
    "merge: no run": (["merge", "nothing", "other", "--out", "run"], "nothing is not a run"),
    "clean: no such source": (["clean", "nothing", "--out", "c"], "nothing does not exist"),
    "clean: into the data set": (["clean", ".", "--out", "c"], "--out c lies in ."),
    "monitor: no run": (["monitor", "nothing", "--out", "m"], "nothing is not a run"),
    "monitor: no sensible number": (["monitor", RUN, "--out", "m", "--every", "nan"], "--every is nan"),
    "dicom: an unknown finding": (["dicom", RUN, "--reject", "ugly"], "--reject is 'ugly'"),
    "dicom: an abnormality": (["dicom", RUN, "--reject", "local_abnormality"], "may be disease"),
    "speed: no archive": (["speed", "screen", "nothing"], "nothing does not exist"),
    "speed: unknown detector": (["speed", "score", "none"], "none is not a detector"),
    "speed: an unknown way to decode": (["speed", "screen", ".", "--decode", "half"], "read.decode is 'half'"),
    "export: no run": (["export", "nothing", "verdicts.parquet"], "nothing is not a run"),
    "show: no run": (["show", "nothing"], "nothing is not a run"),
    "calibrate: unknown detector": (["calibrate", "none", "--data", ".", "--name", "x"], "none is not a detector"),
    "calibrate: a shipped detector": (["calibrate", "cxr-small", "--data", ".", "--name", "x"], "Add --to FOLDER"),
    "calibrate: no scans": (["calibrate", DETECTOR, "--data", "nothing", "--name", "x"], "nothing does not exist"),
    "calibrate: a name with a slash": (["calibrate", DETECTOR, "--data", ".", "--name", "a/b"], "expected up to 64 letters"),
    "train: no data": (["train", "configs/cxr.yaml"], "data.root is not set"),
    "train: missing data": (["train", "configs/cxr.yaml", "data.root=nothing"], "nothing does not exist"),
    "train: an existing detector": (["train", "configs/cxr.yaml", "data.root=.", f"out={DETECTOR}"], "already holds"),
    "train: unknown key": (["train", "configs/cxr.yaml", "data.rot=."], "data.rot"),
    "benchmark: unknown detector": (["benchmark", "none", "--data", "list.csv", "--out", "b"], "none is not a detector"),
    "check-maps: unknown detector": (["check-maps", ".", "--detector", "none"], "none is not a detector"),
    "listen: unknown detector": (["listen", "--out", "run", "--port", "0", "--detector", "none"], "none is not a detector"),
    "inspect: no such file": (["inspect", "nothing"], "nothing does not exist"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_before_anything_heavy_is_imported(
    arguments: list[object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(b"no image, but a file")
    (tmp_path / "list.csv").write_text(
        "file,group,dataset,split\na.png,in_distribution,a,test\na.png,in_distribution,a,train\n"
    )
    copytree(DETECTOR.parent, tmp_path / "fixtures")  # opening a ledger of an old version migrates it
    (tmp_path / "configs").symlink_to(Path(__file__).parents[2] / "configs")
    code, errors, heavy = start(*arguments, folder=tmp_path)
    assert code == 2, errors
    assert message in " ".join(errors.split()), errors
    assert not heavy
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["screen", "--help"], ["show", RUN], ["runs", RUN.parent], ["diff", RUN, RUN]]
)
def test_commands_that_need_no_network_import_nothing_heavy(arguments: list[object], tmp_path: Path) -> None:
    copytree(DETECTOR.parent, tmp_path / "fixtures")
    code, errors, heavy = start(*arguments, folder=tmp_path)
    assert code == 0, errors
    assert not heavy


def test_help_imports_no_array_library(tmp_path: Path) -> None:
    code = "import sys, medood.cli.main; sys.exit(any(name in sys.modules for name in ('numpy', 'pydicom', 'PIL', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
