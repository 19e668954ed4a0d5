from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes

ROOT = Path(__file__).parent.parent.parent


def medood(*arguments: object, check: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does and hold its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", "from medood.cli.main import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == check, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_help_names_every_command() -> None:
    text = medood("--help").stdout
    for command in (
        "train",
        "screen",
        "report",
        "benchmark",
        "demo",
        "inspect",
        "doctor",
        "speed",
        "calibrate",
        "negatives",
        "sensitivity",
    ):
        assert command in text


def test_the_version_is_told() -> None:
    assert medood("--version").stdout.startswith("medood 0.")


def test_the_demo_starts_before_torch_is_there() -> None:
    """The first phantom is drawn within seconds: nothing heavy is imported on the way to it."""
    code = "import sys, medood.workflows.demo; sys.exit(any(name in sys.modules for name in ('torch', 'monai', 'timm')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_of_train_lists_every_key_with_its_default() -> None:
    text = medood("train", "--help").stdout
    for line in ("train.batch_size=0", "model.bottleneck_dim=256", "data.root="):
        assert line in text


def test_a_typo_ends_in_a_sentence(tmp_path: Path) -> None:
    told = medood("train", ROOT / "configs" / "demo.yaml", "train.epoch=3", check=2).stderr
    assert "Did you mean 'train.epochs'" in told
    assert "data.root is not set" in medood("train", ROOT / "configs" / "demo.yaml", check=2).stderr
    missing = medood("train", ROOT / "configs" / "demo.yaml", f"data.root={tmp_path / 'nowhere'}", check=2).stderr
    assert "does not exist" in missing


def test_paths_that_cannot_be_written_are_told(tiny_detector: Path, phantom_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    demo = ROOT / "configs" / "demo.yaml"
    for arguments in [
        ("train", demo, f"data.root={phantom_folder}", f"out={tmp_path / 'file'}"),
        ("screen", phantom_folder, "--detector", tiny_detector, "--out", tmp_path / "file", "--fpr", "0.1"),
    ]:
        assert str(tmp_path / "file") in medood(*arguments, check=2).stderr


def test_screen_and_report(tiny_detector: Path, tmp_path: Path) -> None:
    scan, run = tmp_path / "scan.dcm", tmp_path / "run"
    scan.write_bytes(dicom_bytes(frontal_chest(3, 96).image, "scan"))
    (tmp_path / "empty.dcm").write_bytes(b"")
    told = medood(
        "screen", tmp_path / "empty.dcm", "--detector", tiny_detector, "--out", tmp_path / "none", "--fpr", "0.1", check=4
    ).stderr
    assert "1 row: 0 out of distribution, 0 in distribution, 1 without a score (1 unreadable; verdicts.csv says why)" in told
    done = medood("screen", scan, "--detector", tiny_detector, "--out", run, "--fpr", "0.1", "--quiet")
    assert done.stdout.strip() == str(run / "verdicts.csv")
    assert done.stderr == ""
    again = ("screen", scan, "--detector", tiny_detector, "--out", run, "--fpr", "0.1")
    done = medood("report", run, "--quiet")
    assert done.stdout.split() == [str(run / "report.pdf"), str(run / "report.html")]
    assert "already holds a run" in medood(*again, check=2).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("screen", "nowhere", "--detector", "nothing", "--out", "run"),
        ("report", "nowhere"),
        ("benchmark", "nowhere", "--data", "none.csv", "--out", "out"),
        ("train", "none.yaml"),
    ],
)
def test_what_is_not_there_is_told(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert medood(*arguments, check=2).stderr.startswith("medood: ")
    assert list(tmp_path.iterdir()) == []


def test_negatives_are_shown_and_training_is_timed(tmp_path: Path) -> None:
    written = medood(
        "negatives", ROOT / "configs" / "demo.yaml", "--out", tmp_path / "sheet.png", "--rows", 2
    ).stdout.strip()
    assert Path(written).stat().st_size > 10_000
    text = medood(
        *("speed", "train", ROOT / "configs" / "demo.yaml", "train.batch_size=8"),
        *("--steps", 1, "--repeats", 1, "--out", tmp_path / "speed.csv"),
    ).stdout
    assert "the plain way" in text
    assert "ratio," in (tmp_path / "speed.csv").read_text()


def test_torchrun_trains_one_detector_with_two_processes(phantom_folder: Path, tmp_path: Path) -> None:
    given = [str(ROOT / "configs" / "demo.yaml"), f"data.root={phantom_folder}", f"out={tmp_path}", "train.epochs=1"]
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "medood", "train"]
    done = subprocess.run(
        [sys.executable, *command, *given, "train.batch_size=8"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "detector.json").is_file()
    assert len((tmp_path / "training.csv").read_text().splitlines()) == 1 + 34 // 8
    assert not list((tmp_path / "cache").glob("*.part"))
