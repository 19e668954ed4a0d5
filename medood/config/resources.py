"""Locate the configurations, data cards and detectors that ship with the package."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from medood.errors import MedoodError

_PACKAGE = Path(__file__).resolve().parents[1]
_DETECTORS = _PACKAGE / "detectors"
#: Suffixes of the files that decide what medood does.
_SOFTWARE = (".py", ".json", ".typ", ".html", ".js", ".css")
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


@lru_cache(maxsize=1)
def software_sha256() -> str:
    """SHA-256 over the names and contents of the package's modules and templates, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in _PACKAGE.rglob("*") if path.suffix in _SOFTWARE):
        name = path.relative_to(_PACKAGE).as_posix()
        if not name.startswith("detectors/"):
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def is_shipped(folder: Path) -> bool:
    """Return whether a detector's folder is part of the package and must not be written to."""
    return folder.resolve().is_relative_to(_DETECTORS)
