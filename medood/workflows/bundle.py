"""Write a detector as a MONAI bundle, which MONAI loads: metadata, an inference configuration, and the detector."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose, Transform
from torch import Tensor, nn

from medood.config.resources import find_detector
from medood.detection.detector import Detector
from medood.detection.detector_folder import CALIBRATIONS, CARD, DESCRIPTION, PARTS
from medood.errors import MedoodError
from medood.output_folder import check_empty, new_folder
from medood.scans.transforms import to_levels

#: Of MONAI's metadata files.
_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_INFERENCE: dict[str, Any] = {
    "imports": ["$import torch", "$import medood", "$from pathlib import Path"],
    "bundle_root": ".",
    "dataset_dir": "$@bundle_root + '/data'",
    "output_dir": "$@bundle_root + '/eval'",
    "fpr": 0.05,
    "calibration": "training",
    "device": "$torch.device('cpu')",
    "detector_dir": "$@bundle_root + '/models/detector'",
    "detector": {"_target_": "medood.Detector.load", "folder": "@detector_dir", "calibration": "@calibration"},
    "network_def": {"_target_": "medood.workflows.bundle.ScoreNetwork", "detector": "@detector"},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "medood.LoadScand", "keys": "image"},
            {"_target_": "Lambdad", "keys": "image", "func": "$medood.workflows.bundle.Prepare(@detector)"},
        ],
    },
    "dataset": {
        "_target_": "Dataset",
        "data": "$[{'image': str(path)} for path in sorted(Path(@dataset_dir).rglob('*')) if path.is_file()]",
        "transform": "@preprocessing",
    },
    "inferer": {"_target_": "SimpleInferer"},
    "run": ["$medood.screen([@dataset_dir], @detector_dir, @output_dir, fpr=@fpr, calibration=@calibration)"],
}


class ScoreNetwork(nn.Module):
    """A detector as a network: prepared images ``[N, 1, S, S]`` to out-of-distribution scores ``[N, 1]``."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self._detector = detector

    def forward(self, images: Tensor) -> Tensor:
        """Scores on the CPU, float32; higher is more out-of-distribution."""
        return torch.from_numpy(self._detector.score_samples(torch.as_tensor(images))).float()[:, None]


class Prepare(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Prepare an image of ``medood.LoadScand`` as a detector does: float32 ``[1, S, S]`` in [0, 1]."""

    def __init__(self, detector: Detector) -> None:
        self._chain = Compose(detector.chain.transforms[1:])  # the first step is that of LoadScand

    def __call__(self, image: Tensor) -> Tensor:
        """The detector's input."""
        return to_levels(torch.as_tensor(self._chain(image))).float() / 255.0


def write_bundle(detector: str | Path, out: Path) -> Path:
    """Write a MONAI bundle of a detector into a new folder.

    Args:
        detector: the detector's folder, or the name of a shipped one.
        out: the bundle's folder; it must not exist or be empty.

    Returns:
        the bundle's folder.

    Raises:
        MedoodError: the detector is missing or unfinished, or the folder is not empty.
    """
    folder = find_detector(detector)
    loaded = Detector.load(folder)
    if loaded.preprocess.channels != 1:
        raise MedoodError("The detector reads colour; a MONAI bundle is written for grey detectors only.")
    check_empty(out)
    with new_folder(out) as keep:
        for name, content in (("metadata", _metadata(loaded)), ("inference", _INFERENCE)):
            target = out / "configs" / f"{name}.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(content, indent=4) + "\n")
        copy = out / "models" / "detector"
        shutil.copytree(folder / CALIBRATIONS, copy / CALIBRATIONS)
        for name in (DESCRIPTION, *PARTS):
            shutil.copyfile(folder / name, copy / name)
        (out / "docs").mkdir()
        card = folder / CARD
        (out / "docs" / CARD).write_text(card.read_text() if card.is_file() else "# A detector of medood\n")
        keep()
    return out


def _metadata(detector: Detector) -> dict[str, Any]:
    size = detector.preprocess.size
    image = {"type": "image", "format": "magnitude", "modality": "DX", "num_channels": 1, "spatial_shape": [size, size]}
    numbers = {"dtype": "float32", "is_patch_data": False}
    return {
        "schema": _SCHEMA,
        "version": version("medood"),
        "changelog": {version("medood"): "written by medood bundle"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"medood": version("medood")},
        "name": "medood out-of-distribution detector",
        "task": "tell which scans do not belong",
        "description": f"Out-of-distribution score {detector.score_name} of a medood detector; higher is farther out.",
        "authors": "the detector's owner",
        "copyright": "the detector's owner",
        "intended_use": "Research; no medical device. In distribution is not healthy, out of distribution no diagnosis.",
        "detector_sha256": detector.sha256,
        "network_data_format": {
            "inputs": {"image": image | numbers | {"value_range": [0, 1], "channel_def": {"0": "grey, bone white"}}},
            "outputs": {
                "pred": {"type": "regression", "format": "score", "num_channels": 1, "spatial_shape": [1]}
                | numbers
                | {"value_range": [], "channel_def": {"0": "out-of-distribution score"}}
            },
        },
    }
