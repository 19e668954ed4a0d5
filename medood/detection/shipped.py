"""Detectors that are part of the package, by name."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[1] / "detectors"
#: The detector that screens where none is named.
DEFAULT = "cxr-small"


def find_detector(detector: str | Path) -> Path:
    """A detector's folder: ``detector`` itself, or where the shipped detector of that name lies.

    A folder that is there is taken before a name.
    """
    return (
        _FOLDER / str(detector) if not Path(detector).exists() and str(detector) in shipped_detectors() else Path(detector)
    )


def shipped_detectors() -> list[str]:
    """The names of the detectors that are part of the package."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/detector.json"))


def is_shipped(folder: Path) -> bool:
    """Whether a detector's folder is part of the package, so that nothing may be written into it."""
    return folder.resolve().is_relative_to(_FOLDER)
