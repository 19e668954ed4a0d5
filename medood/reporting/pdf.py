"""The record as a PDF, typeset by Typst, offline."""

from __future__ import annotations

import shutil
import tempfile
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import typst

from medood.detection.detector import Detector
from medood.detection.reference import TRAINING
from medood.errors import MedoodError
from medood.progress import Progress
from medood.reporting.record import make_record, write_record
from medood.screening.ledger import Ledger


def report(
    run: str | Path,
    detector: str | Path | None = None,
    *,
    top: int = 20,
    pictures: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Write ``report.pdf`` and ``record.json`` into a run's folder.

    Args:
        run: the folder that ``screen`` wrote.
        detector: the detector's folder, where it is no longer the one noted in the ledger.
        top: number of the most out-of-distribution scans shown with evidence.
        pictures: show the scans and their Grad-CAM; without, a report can be passed on where the scans may not.
        progress: where to draw; none is quiet.

    Returns:
        the path of the PDF.

    Raises:
        MedoodError: there is no finished run, the detector is another one, or the folder cannot be written.
    """
    run = Path(run)
    progress = progress or Progress(quiet=True)
    facts = Ledger.facts_of(run)
    if detector is None:
        detector = facts.get("detector", {}).get("folder") or ""
        if not detector or not Path(detector).is_dir():
            raise MedoodError(f"The detector of {run} is no longer at {detector or 'any known place'}. Give --detector.")
    loaded = Detector.load(detector, facts.get("calibration", {}).get("name", TRAINING))
    with tempfile.TemporaryDirectory(prefix="medood-") as scratch:
        work = Path(scratch)
        record = make_record(run, loaded, work, top=top, pictures=pictures, progress=progress)
        pdf = typeset(record, work)
        try:
            write_record(record, run / "record.json")
            partial = run / "report.part"
            shutil.copyfile(pdf, partial)
            partial.replace(run / "report.pdf")
        except OSError as error:
            raise MedoodError(f"The report cannot be written into {run}: {error}.") from error
    return run / "report.pdf"


def typeset(record: dict[str, Any], work: Path) -> Path:
    """Compile the template over ``record`` in ``work``, where the pictures lie already."""
    template = work / "report.typ"
    template.write_text((files("medood.reporting") / "templates" / "report.typ").read_text(encoding="utf-8"))
    write_record(record, work / "record.json")
    target = work / "report.pdf"
    finished = datetime.fromisoformat(record["run"]["finished"])
    try:
        typst.compile(template, output=target, root=work, ignore_system_fonts=True, timestamp=finished)
    except typst.TypstError as error:
        raise MedoodError(f"The report could not be typeset: {error}. Please report this with record.json.") from error
    return target
