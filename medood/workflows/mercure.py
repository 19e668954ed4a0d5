"""Screen what the DICOM router mercure hands a processing module: objects in one folder, results in another.

The contract is mercure's (https://mercure-imaging.org/docs/modules.html): settings are ``process.settings`` in ``task.json``
beside the objects; DICOM files that are left in the output folder are sent on, and ``result.json`` is stored with the task.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medood.config.resources import DEFAULT
from medood.config.schema import ReadConfig
from medood.detection.detector_folder import TRAINING
from medood.errors import MedoodError
from medood.output_folder import atomic_write
from medood.screening.run_options import RunOptions, check_run

if TYPE_CHECKING:
    from medood.progress import Progress
    from medood.screening.ledger.database import Row

_TASK, _RESULT = "task.json", "result.json"
#: Largest task file that is read, in bytes.
_LARGEST_TASK = 2**20
#: Objects are read in a process of their own, so that a decoder that crashes ends no task; each run has a new folder.
_OPTIONS = RunOptions(workers=1, resume=True)


@dataclass(frozen=True)
class TaskSettings:
    """Settings of the module, from ``process.settings`` of the task.

    Attributes:
        detector: the detector's folder in the container, or the name of a shipped one.
        calibration: name of the calibration to decide with.
        fpr: share of in-distribution scans that may be flagged.
        objects: write DICOM objects of flagged scans, which mercure sends on.
        notify: request a notification if a scan is flagged or cannot be read.
    """

    detector: str = DEFAULT
    calibration: str = TRAINING
    fpr: float = 0.05
    objects: bool = True
    notify: bool = True


def read_settings(incoming: Path) -> TaskSettings:
    """Settings of the task in ``incoming``; the defaults if there is no ``task.json`` or nothing is set.

    Raises:
        MedoodError: the task cannot be read, or a setting is unknown or of another type.
    """
    path = incoming / _TASK
    if not path.is_file():
        return TaskSettings()
    try:
        with path.open("rb") as stream:
            task = json.loads(stream.read(_LARGEST_TASK))
        process = task.get("process") or {}
        steps = process if isinstance(process, list) else [process]
        given = (steps[0].get("settings") or {}) if steps else {}
        settings = dict(given)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise MedoodError(f"{path} cannot be read as a task of mercure ({type(error).__name__}).") from error
    fields = TaskSettings.__dataclass_fields__
    for name, value in settings.items():
        if name not in fields:
            raise MedoodError(f"{path}: {name[:60]!r} is no setting of this module; expected {', '.join(fields)}.")
        wanted = type(fields[name].default)
        if wanted is float and type(value) is int:
            settings[name] = float(value)
        elif type(value) is not wanted:
            raise MedoodError(
                f"{path}: the setting {name} must be of type {wanted.__name__}, as {fields[name].default!r} is."
            )
    return TaskSettings(**settings)


def check_task(incoming: Path, outgoing: Path) -> tuple[TaskSettings, list[Path]]:
    """The settings and the objects of a task, after every check that needs no network.

    Raises:
        MedoodError: a folder is missing, a setting is wrong, or there is no object.
    """
    for name, folder in (("input", incoming), ("output", outgoing)):
        if not folder.is_dir():
            raise MedoodError(f"The {name} folder {folder} does not exist.")
    settings = read_settings(incoming)
    files = sorted(path for path in incoming.rglob("*") if path.is_file() and path.suffix not in (".json", ".tags"))
    if not files:
        raise MedoodError(f"There is no DICOM file in {incoming}.")
    check_run(
        files,
        outgoing,
        detector=settings.detector,
        fpr=settings.fpr,
        calibration=settings.calibration,
        read=ReadConfig(),
        options=_OPTIONS,
    )
    return settings, files


def screen_task(settings: TaskSettings, files: list[Path], outgoing: Path, progress: Progress) -> dict[str, Any]:
    """Screen the objects of a task, and write ``result.json`` and the DICOM objects of flagged scans.

    Args:
        settings: see :func:`check_task`.
        files: likewise.
        outgoing: mercure's output folder.
        progress: the progress display.

    Returns:
        what ``result.json`` holds.
    """
    from medood.reporting.dicom_objects import write_dicom
    from medood.screening.ledger.database import Ledger
    from medood.screening.run import screen

    with tempfile.TemporaryDirectory(prefix="medood-") as work:
        run = Path(work) / "run"
        screen(
            files,
            settings.detector,
            run,
            fpr=settings.fpr,
            calibration=settings.calibration,
            options=_OPTIONS,
            progress=progress,
        )
        ledger = Ledger(run)
        try:
            rows, metadata = list(ledger.rows()), ledger.metadata()
        finally:
            ledger.close()
        if settings.objects:
            objects = Path(work) / "objects"
            write_dicom(run, objects, progress=progress)
            for path in sorted(objects.glob("*.dcm")):
                _hand_over(path, outgoing)
    result = {
        "medood": version("medood"),
        "detector": {"name": metadata.detector.name, "sha256": metadata.detector.sha256},
        "calibration": settings.calibration,
        "fpr": settings.fpr,
        "scans": [_line(row) for row in rows],
    }
    flagged, unread = (sum(chosen(row) for row in rows) for chosen in (_is_flagged, _is_unread))
    text = f"medood: {flagged} of {len(rows)} objects flagged as out of distribution, {unread} could not be scored"
    findings = sorted({row.finding for row in rows if row.finding})
    requested = settings.notify and bool(flagged or unread)
    text = f"{text} ({', '.join(findings)})" if findings else text
    result["__mercure_notification"] = {"text": text, "requested": requested}
    with atomic_write(outgoing / _RESULT) as target:
        target.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _hand_over(path: Path, outgoing: Path) -> None:
    """Copy an object into mercure's output folder under mercure's name, ``SERIES#OBJECT.dcm``."""
    import pydicom

    series = pydicom.dcmread(path, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True).SeriesInstanceUID
    with atomic_write(outgoing / f"{series}#{path.name}") as target:
        target.write_bytes(path.read_bytes())


def _is_flagged(row: Row) -> bool:
    return row.decision == "out_of_distribution"


def _is_unread(row: Row) -> bool:
    return row.status not in ("scored", "not_selected")


def _line(row: Row) -> dict[str, Any]:
    line = {"file": Path(row.source).name, "frame": row.frame, "status": row.status, "decision": row.decision}
    return line | {"finding": row.finding, "score": row.score, "p_value": row.p_value, "reason": str(row.reason)}
