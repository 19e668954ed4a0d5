"""Check that a run is finished and find its detector; does not import torch, so that a mistake is reported at once."""

from __future__ import annotations

from pathlib import Path

from medood.config.resources import find_detector
from medood.errors import MedoodError
from medood.screening.ledger.database import Ledger
from medood.screening.ledger.run_metadata import RunMetadata


def finished_run(run: Path) -> RunMetadata:
    """The metadata of a finished run.

    Raises:
        MedoodError: the run is missing or unfinished.
    """
    metadata = Ledger.read_metadata(run)
    if not metadata.finished:
        raise MedoodError(f"{run} was not finished. Finish it with the same medood screen command and --resume.")
    return metadata


def detector_folder(run: Path, metadata: RunMetadata, folder: str | Path | None = None) -> Path:
    """The folder of the detector that scored a run.

    Args:
        run: the run's folder.
        metadata: its metadata.
        folder: the detector's folder, if it is no longer the one recorded in the ledger.

    Raises:
        MedoodError: there is no detector.
    """
    folder = folder or metadata.detector.folder or ""
    if not folder or not (find_detector(folder) / "detector.json").is_file():
        raise MedoodError(f"The detector of {run} is no longer at {folder or 'any known place'}. Give --detector.")
    return find_detector(folder)
