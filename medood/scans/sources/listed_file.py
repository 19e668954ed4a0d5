"""A file that a DICOMDIR or a manifest lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ListedFile:
    """A listed file.

    Attributes:
        path: its path.
        patient: a hash that distinguishes patients; empty if none is stated.
        sha256: the stated digest; empty if none is stated.
    """

    path: Path
    patient: str = ""
    sha256: str = ""
