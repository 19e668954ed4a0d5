"""A file that a DICOMDIR or a manifest lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ListedFile:
    """A listed file.

    Attributes:
        path: where it lies.
        patient: a hash that tells patients apart, empty where none is stated.
        sha256: the digest stated for it, empty where none is.
    """

    path: Path
    patient: str = ""
    sha256: str = ""
