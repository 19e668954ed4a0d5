"""What several rooms' tests share: phantoms, a tiny trained detector, and the real data where it is set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medood.config.loader import load_config
from medood.config.schema import RunConfig

ROOT = Path(__file__).parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: threads of several processes on one core wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

#: Fixtures that need something of the machine, and the marker of tests that use them.
_NEEDS = {"medood_data": "data", "chromium": "browser", "storescu": "pacs"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they use."""
    for item in items:
        for name in getattr(item, "fixturenames", ()):
            if name in _NEEDS:
                item.add_marker(_NEEDS[name])


@pytest.fixture(scope="session")
def medood_data() -> Path:
    """The folder of real images."""
    folder = os.environ.get("MEDOOD_DATA", "")
    if folder and (Path(folder) / "manifest.csv").is_file():
        return Path(folder)
    reason = f"MEDOOD_DATA ({folder or 'not set'}) names no folder with a manifest.csv; this test needs the real images"
    if os.environ.get("MEDOOD_REQUIRE_DATA"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 phantom chests as DICOM files of 96 x 96 pixels."""
    from medood.phantom.archive import PhantomConfig, write_training
    from medood.progress import Progress

    settings = PhantomConfig(size=96, training=40, in_distribution=0, outliers={}, broken=0)
    return write_training(settings, tmp_path_factory.mktemp("phantoms"), Progress(quiet=True))


def tiny_config(root: Path, out: Path, *overrides: str) -> RunConfig:
    """A run of seconds: 32 px, a ViT of two blocks."""
    return load_config(
        ROOT / "configs" / "demo.yaml",
        [
            f"data.root='{root}'",
            f"out='{out}'",
            "data.calibration_fraction=0.4",
            "preprocess.size=32",
            "views.source_size=40",
            "views.local_size=16",
            "model.arguments={patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2, global_pool: avg, class_token: false}",
            "model.hidden_dim=32",
            "model.bottleneck_dim=16",
            "model.out_dim=16",
            "train.epochs=2",
            "train.batch_size=8",
            *overrides,
        ],
    )


@pytest.fixture(scope="session")
def tiny_detector(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a detector trained for seconds on phantoms; good for plumbing, not for figures."""
    from medood.workflows.train import train

    return train(tiny_config(phantom_folder, tmp_path_factory.mktemp("tiny")))
