"""The wheel, installed where the checkout is not to be seen, does the main job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_wheel_runs_the_demo_from_an_empty_folder(tmp_path: Path) -> None:
    """The environment sees the locked packages, but not the checkout's editable installation."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("medood-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "medood/py.typed",
        "medood/configs/cxr.yaml",
        "medood/datasets/phantom.yaml",
        "medood/detectors/cxr-small/detector.json",
    ):
        assert name in names
    assert not [name for name in names if name.startswith(("tests/", "reports/", "docs/"))]
    venv.create(tmp_path / "fresh", with_pip=False)
    packages = tmp_path / "fresh" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (packages / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth files are not followed
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    empty = tmp_path / "empty"
    empty.mkdir()
    python = [str(tmp_path / "fresh" / "bin" / "python"), "-I"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MEDOOD"))}
    where = subprocess.run(
        [*python, "-c", "import medood; print(medood.__file__)"], cwd=empty, check=True, capture_output=True, text=True
    )
    assert Path(where.stdout.strip()).is_relative_to(packages)
    done = subprocess.run(
        [*python, "-m", "medood", "demo", "--quiet"], cwd=empty, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (empty / "runs" / "demo" / "screening" / "report.pdf").is_file()


def test_the_container_installs_locked_versions_and_torch_apart() -> None:
    locked, container = (
        dict(
            line.split(" ")[0].split("==")
            for line in (ROOT / name).read_text().splitlines()
            if re.match(r"[a-z0-9-]+==", line)
        )
        for name in ("requirements.lock", "requirements-container.lock")
    )
    assert container.items() <= locked.items()
    assert "pynetdicom" in container
    assert not [name for name in container if name.startswith(("nvidia", "cuda", "torch", "triton", "pytest"))]
    needed = f'"torch=={locked["torch"]} torchvision=={locked["torchvision"]}"'
    assert needed in (ROOT / "Containerfile").read_text()
