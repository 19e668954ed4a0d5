"""Locate the configurations, data cards and detectors that ship with the package."""

from __future__ import annotations

from pathlib import Path

from medood.errors import MedoodError

_PACKAGE = Path(__file__).resolve().parents[1]
_DETECTORS = _PACKAGE / "detectors"
#: The detector used if none is named.
DEFAULT = "cxr-small"


def shipped_file(name: str) -> Path:
    """Return the path of a file in ``configs/`` or ``datasets/``: next to the package in a checkout, inside it in a wheel.

    Raises:
        MedoodError: the file is missing from the installation.
    """
    for base in (_PACKAGE, _PACKAGE.parent):
        if (base / name).is_file():
            return base / name
    raise MedoodError(f"{name} is missing from this installation of medood; reinstall medood.")


def find_detector(detector: str | Path) -> Path:
    """Return a detector's folder: ``detector`` itself if it is one, else the shipped detector of that name."""
    folder = Path(detector)
    is_name = str(detector) in shipped_detectors() and not (folder / "detector.json").exists()
    return _DETECTORS / str(detector) if is_name else folder


def shipped_detectors() -> list[str]:
    """Return the names of the detectors that ship with the package."""
    return sorted(path.parent.name for path in _DETECTORS.glob("*/detector.json"))


def is_shipped(folder: Path) -> bool:
    """Return whether a detector's folder is part of the package and must not be written to."""
    return folder.resolve().is_relative_to(_DETECTORS)
