"""medood tells which scans of an archive do not belong.

>>> import medood
>>> medood.train(config)                                     # a detector folder
>>> medood.screen(["archive.zip"], "runs/detector", "runs/screening")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medood.detection.detector import Detector
    from medood.scans.monai_loader import LoadScand
    from medood.scans.reader import read_scans
    from medood.scans.scan import Refusal, Scan
    from medood.screening.run import screen
    from medood.workflows.train import train

__all__ = ["Detector", "LoadScand", "Refusal", "Scan", "read_scans", "screen", "train"]

_HOMES = {
    "Detector": "medood.detection.detector",
    "LoadScand": "medood.scans.monai_loader",
    "Refusal": "medood.scans.scan",
    "Scan": "medood.scans.scan",
    "read_scans": "medood.scans.reader",
    "screen": "medood.screening.run",
    "train": "medood.workflows.train",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line starts fast."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'medood' has no attribute {name!r}")
