"""Where the configurations, data cards and detectors that are part of the package lie."""

from __future__ import annotations

from pathlib import Path

from medood.errors import MedoodError

_PACKAGE = Path(__file__).resolve().parents[1]
_DETECTORS = _PACKAGE / "detectors"
#: The detector that screens where none is named.
DEFAULT = "cxr-small"


def shipped_file(name: str) -> Path:
    """The path of a file of ``configs/`` or ``datasets/``: beside the package in a checkout, inside it in a wheel.

    Raises:
        MedoodError: the installation lacks it.
    """
    for base in (_PACKAGE, _PACKAGE.parent):
        if (base / name).is_file():
            return base / name
    raise MedoodError(f"{name} is missing from this installation of medood; install it again.")


def find_detector(detector: str | Path) -> Path:
    """The folder of a detector: ``detector`` itself where it is one, else that of the shipped detector of this name."""
    folder = Path(detector)
    named = str(detector) in shipped_detectors() and not (folder / "detector.json").exists()
    return _DETECTORS / str(detector) if named else folder


def shipped_detectors() -> list[str]:
    """The names of the detectors that are part of the package."""
    return sorted(path.parent.name for path in _DETECTORS.glob("*/detector.json"))


def is_shipped(folder: Path) -> bool:
    """Whether a detector's folder is part of the package, so that nothing may be written into it."""
    return folder.resolve().is_relative_to(_DETECTORS)
