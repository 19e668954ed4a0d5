"""A MONAI bundle of a detector, loaded back by MONAI."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import create_workflow
from monai.bundle.config_parser import ConfigParser
from typer.testing import CliRunner

from medood.cli.main import app
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from medood.screening.ledger.database import Ledger
from medood.workflows.bundle import write_bundle


@pytest.fixture
def bundle(tiny_detector: Path, tmp_path: Path) -> Path:
    done = CliRunner().invoke(app, ["bundle", str(tiny_detector), "--out", str(tmp_path / "bundle")])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "bundle")
    (tmp_path / "bundle" / "data").mkdir()
    for seed in range(3):
        content = dicom_bytes(frontal_chest(seed, 80).image, f"scan{seed}")
        (tmp_path / "bundle" / "data" / f"{seed}.dcm").write_bytes(content)
    return tmp_path / "bundle"


def test_monai_loads_it_and_scores_as_medood_does(bundle: Path, tiny_detector: Path) -> None:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.read_meta(bundle / "configs" / "metadata.json")
    parser["bundle_root"] = str(bundle)
    dataset, network, inferer = (parser.get_parsed_content(name) for name in ("dataset", "network_def", "inferer"))
    images = torch.stack([torch.as_tensor(item["image"]) for item in dataset])
    found = inferer(inputs=images, network=network)
    detector = Detector.load(tiny_detector)
    scans = [scan for path in sorted((bundle / "data").iterdir()) for scan in read_scans(path) if isinstance(scan, Scan)]
    np.testing.assert_array_equal(images.numpy(), torch.stack([detector.prepare(scan) for scan in scans]).numpy())
    np.testing.assert_allclose(found[:, 0].numpy(), detector.score_samples(scans), rtol=1e-6)
    shape = parser["_meta_"]["network_data_format"]["inputs"]["image"]["spatial_shape"]
    assert shape == list(images.shape[-2:])


def test_monai_runs_it(bundle: Path) -> None:
    files = [str(bundle / "configs" / f"{name}.json") for name in ("inference", "metadata")]
    workflow = create_workflow("ConfigWorkflow", config_file=files[0], meta_file=files[1], bundle_root=str(bundle), fpr=0.5)
    workflow.run()
    workflow.finalize()
    ledger = Ledger(bundle / "eval")
    try:
        assert ledger.count() == 3
    finally:
        ledger.close()


def test_it_says_what_monai_requires(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    for name in ("version", "monai_version", "pytorch_version", "numpy_version", "network_data_format", "intended_use"):
        assert metadata[name]
    assert sorted(path.name for path in (bundle / "models" / "detector").iterdir()) == [
        "bank.safetensors",
        "calibrations",
        "detector.json",
        "network.safetensors",
    ]


def test_a_folder_in_use_is_left_alone(tiny_detector: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")
    with pytest.raises(MedoodError, match="not an empty folder"):
        write_bundle(tiny_detector, tmp_path)
    assert (tmp_path / "mine").read_text() == "text"
