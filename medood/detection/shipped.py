"""Detectors that are part of the package, by name."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[1] / "detectors"
#: The detector that screens where none is named.
DEFAULT = "cxr-small"


def find_detector(detector: str | Path) -> Path:
    """A detector's folder: ``detector`` itself where it is one, else where the shipped detector of that name lies."""
    folder = Path(detector)
    named = str(detector) in shipped_detectors() and not (folder / "detector.json").exists()
    return _FOLDER / str(detector) if named else folder


def shipped_detectors() -> list[str]:
    """The names of the detectors that are part of the package."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/detector.json"))


def is_shipped(folder: Path) -> bool:
    """Whether a detector's folder is part of the package, so that nothing may be written into it."""
    return folder.resolve().is_relative_to(_FOLDER)
