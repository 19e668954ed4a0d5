"""File names in a detector's folder, and a check against overwriting a detector; does not import torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from medood.config.resources import shipped_detectors
from medood.config.schema import CHEST
from medood.errors import MedoodError

DESCRIPTION = "detector.json"
PARTS = ("network.safetensors", "bank.safetensors")
CALIBRATIONS = "calibrations"
#: What a person has to know of the detector: intended use, limits, known failures.
CARD = "README.md"
#: Name of the calibration made by training.
TRAINING = "training"


@dataclass(frozen=True)
class DetectorMetadata:
    """The record of a detector's training, as ``detector.json`` states it.

    Attributes:
        data: numbers of scans and digests of the data.
        training: last training figures, steps, device and precision.
        score_choice: AUROC on shifted development scans by score and shift.
        config: the configuration, with paths left out.
    """

    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    score_choice: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The detector's name, as configured."""
        return str(self.config.get("name", ""))

    @property
    def is_chest(self) -> bool:
        """Whether the detector is one for frontal chest radiographs, as every detector without a stated domain is."""
        return bool(self.config.get("data", {}).get("domain", CHEST) == CHEST)

    @property
    def mirrored_belong(self) -> bool:
        """Whether a mirrored scan is in distribution."""
        return bool(self.config.get("views", {}).get("mirror", 0.0) > 0)

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> DetectorMetadata:
        """Metadata from ``detector.json``; other names in it are ignored."""
        return cls(**{item.name: description[item.name] for item in fields(cls) if item.name in description})


def calibration_names(folder: Path) -> list[str]:
    """Sorted names of a detector's calibrations, ``training`` first."""
    names = {path.stem for path in (folder / CALIBRATIONS).glob("*.json")}
    return sorted(names, key=lambda name: (name != TRAINING, name))


def check_detector(folder: Path) -> None:
    """Check that a folder holds a detector; its files are not read.

    Raises:
        MedoodError: it holds none, or not all of its files.
    """
    if not (folder / DESCRIPTION).is_file():
        names = shipped_detectors()
        raise MedoodError(
            f"{folder} is not a detector: it holds no detector.json. Give the folder that train wrote"
            f"{', or one of the shipped detectors: ' + ', '.join(names) if names else ''}."
        )
    for name in PARTS:
        if not (folder / name).is_file():
            raise MedoodError(f"{folder / name} is missing. Copy the whole detector folder.")


def check_calibration(folder: Path, name: str) -> None:
    """Check that a detector's folder holds the calibration of that name; its files are not read.

    Raises:
        MedoodError: it holds none, or the name is no plain file name.
    """
    check_name(name)
    path = folder / CALIBRATIONS / f"{name}.json"
    if not path.is_file() or not path.with_suffix(".safetensors").is_file():
        existing = ", ".join(sorted(item.stem for item in path.parent.glob("*.json"))) or "none"
        raise MedoodError(f"The detector has no calibration {name!r}; it has: {existing}. Make one with medood calibrate.")


def check_name(name: str) -> None:
    """Reject a calibration's name that is not a plain file name.

    Raises:
        MedoodError: the name is not 1 to 64 letters, digits, ``_`` and ``-``.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise MedoodError(f"The name of a calibration is {name!r}; expected up to 64 letters, digits, _ and -.")


def check_free(folder: Path, *, resume: bool) -> None:
    """Refuse to overwrite a detector by training.

    Args:
        folder: where the detector would be written.
        resume: whether to finish the training in this folder.

    Raises:
        MedoodError: the folder holds a detector and ``resume`` is false, or ``resume`` would invalidate its calibrations.
    """
    if not (folder / DESCRIPTION).exists():
        return
    if not resume:
        raise MedoodError(
            f"{folder} already holds a detector. Give another folder with out=, or finish the training there with --resume."
        )
    others = [name for name in calibration_names(folder) if name != TRAINING]
    if others:
        raise MedoodError(
            f"{folder} holds a detector with calibrations of its own ({', '.join(others)}); --resume would write another "
            "detector, which they do not fit. Give another folder with out=."
        )
