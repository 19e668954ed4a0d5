"""What a detector's folder holds, by name, and whether one may be written there; nothing here needs torch."""

from __future__ import annotations

from pathlib import Path

from medood.errors import MedoodError

DESCRIPTION = "detector.json"
PARTS = ("network.safetensors", "bank.safetensors")
CALIBRATIONS = "calibrations"
#: The calibration that training makes.
TRAINING = "training"


def calibration_names(folder: Path) -> list[str]:
    """The calibrations of a detector, by name; that of its training first."""
    names = {path.stem for path in (folder / CALIBRATIONS).glob("*.json")}
    return sorted(names, key=lambda name: (name != TRAINING, name))


def check_free(folder: Path, *, resume: bool) -> None:
    """Refuse to train over a detector.

    Args:
        folder: where the detector would be written.
        resume: the training there is to be finished.

    Raises:
        MedoodError: there is a detector and it is not resumed, or it has calibrations that a resumed one would not fit.
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
