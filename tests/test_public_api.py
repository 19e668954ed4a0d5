"""The public names: lazy, typed, documented by snippets that run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import medood
from medood.phantom.archive import PhantomConfig, write_archive
from medood.progress import Progress
from tests.conftest import ROOT

#: What a fresh process prints of itself before and after it imports all of medood.
STATE = """
import importlib, json, logging, pkgutil, sys, warnings
import PIL.Image, pydicom, pydicom.pixels, torch, nibabel, tifffile, monai, timm, imagecodecs
def state():
    from pydicom.pixels import get_decoder
    levels = {name: logging.getLogger(name).level for name in ("", "pydicom", "nibabel", "nibabel.global", "tifffile")}
    plugins = {str(uid): sorted(get_decoder(uid).available_plugins) for uid in pydicom.uid.JPEGTransferSyntaxes}
    plugins["rle"] = sorted(get_decoder(pydicom.uid.RLELossless).available_plugins)
    blanket = [item for item in warnings.filters if item[1] is None and item[2] is Warning]
    return [PIL.Image.MAX_IMAGE_PIXELS, levels, plugins, blanket, torch.get_num_threads()]
before = state()
import medood
for module in pkgutil.walk_packages(medood.__path__, "medood."):
    if not module.name.endswith("__main__") and "dask" not in module.name:
        importlib.import_module(module.name)
after = state()
from medood.scans.reader import read_scans
list(read_scans(sys.argv[1]))
assert before == after, (before, after)
assert state() == before, (before, state())
print(len([name for name in sys.modules if name.startswith("medood.")]))
"""


def test_every_public_name_is_there_and_nothing_is_loaded_before_it_is_used() -> None:
    for name in medood.__all__:
        assert getattr(medood, name) is not None
    assert (ROOT / "medood" / "py.typed").is_file()
    assert sorted(dir(medood)) == sorted(medood.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = medood.nothing  # type: ignore[attr-defined]
    code = "import sys, medood; sys.exit(any(name in sys.modules for name in ('torch', 'pydicom', 'monai', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_and_reading_change_nothing_in_the_process_of_others(phantom_folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STATE, phantom_folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100


def test_a_detector_has_the_methods_of_scikit_learn(tiny_detector: Path, phantom_folder: Path) -> None:
    detector = medood.Detector.load(tiny_detector)
    scans = [result for result in medood.read_scans(phantom_folder) if isinstance(result, medood.Scan)][:6]
    images = torch.stack([detector.prepare(scan) for scan in scans])
    verdicts = detector.judge(detector.embed(images), 0.1)
    for given in (scans, images, images.numpy()):
        np.testing.assert_array_equal(detector.score_samples(given), [verdict.score for verdict in verdicts])
        np.testing.assert_array_equal(detector.p_values(given), [verdict.p_value for verdict in verdicts])
        flagged = [verdict.decision == "out_of_distribution" for verdict in verdicts]
        np.testing.assert_array_equal(detector.predict(given, 0.1), np.where(flagged, -1, 1))
    assert set(detector.predict(1 - images, 0.99)) <= {-1, 1}
    with pytest.raises(medood.MedoodError, match="calibration scans"):
        detector.predict(images, 0.001)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", [page for page in pages() if "```python" in page.read_text()], ids=lambda page: page.name)
def test_python_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All snippets of a page in one namespace, in a folder with the files that they name; clusters are left out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EXPORT").mkdir()
    settings = PhantomConfig(size=96, in_distribution=3, outliers={"inverted": 1}, broken=1)
    write_archive(settings, tmp_path / "archive.zip", Progress(quiet=True))
    namespace: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        code = compile(snippet, str(page), "exec")
        if "dask_jobqueue" not in snippet and "dask_kubernetes" not in snippet:
            exec(code, namespace)  # noqa: S102 - our own documentation
