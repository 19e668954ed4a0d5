"""A local acceptance test: own normal scans, faults planted in them, and own known outliers, as a page to sign."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from medood.detection.conformal import Decision
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.evaluation.acquisition_faults import planted_scores
from medood.evidence.burned_in_text import is_available
from medood.output_folder import atomic_write
from medood.progress import Progress
from medood.reporting.i18n.language import Language
from medood.reporting.original_scans import OriginalScan, read_original_scans
from medood.reporting.pdf import compile_template
from medood.reporting.renderings import draw_thumbnails
from medood.reporting.report_data import detector_of, name_of, validate_record
from medood.scans.library_settings import library_settings
from medood.screening.finished_run import finished_run
from medood.screening.ledger.database import Ledger, Row
from medood.screening.ledger.run_metadata import RunMetadata
from medood.screening.monitor.audit_facts import check_least
from medood.screening.monitor.run_comparison import check_alike
from medood.workflows.calibration_check import MAX_PLANTED, tail_test

SCHEMA_VERSION = 1
#: Share of faults and outliers that has to be found if nobody states another.
LEAST = 0.9
#: Largest number of scans shown of each kind.
SHOWN = 12


@dataclass(frozen=True)
class Requirement:
    """One line of the test.

    Attributes:
        what: ``normals``, ``outliers`` or the name of a fault.
        count: number of files, of each of which the first scan counts.
        flagged: how many of them are flagged.
        interval: Wilson's 95 % interval of their share.
        limit: share that may be flagged of normals, and must be of anything else; none where nothing is required.
    """

    what: str
    count: int
    flagged: int
    interval: tuple[float, float]
    limit: float | None

    @property
    def is_met(self) -> bool:
        """Of normals: their number does not contradict the rate. Of anything else: the share is reached."""
        if self.limit is None:
            return True
        return self.interval[0] <= self.limit if self.what == "normals" else self.flagged >= self.limit * self.count


@library_settings()
def accept(
    normals: str | Path,
    outliers: str | Path,
    detector: str | Path | None = None,
    *,
    least: float = LEAST,
    images: bool = True,
    language: str = "en",
    progress: Progress | None = None,
) -> Path:
    """Write ``acceptance.pdf`` and ``acceptance.json`` into the folder of the run of normal scans; return the PDF.

    Args:
        normals: a run of scans of the site that belong, and of which the detector knows none.
        outliers: a run of scans that do not belong, with the same detector, calibration and rate.
        detector: the detector's folder, if it is no longer the one recorded in the ledger.
        least: share of each fault and of the outliers that has to be found, in (0, 1]; to be set before the test.
        images: show the normal scans that were flagged and the outliers that were not.
        language: one of ``medood.reporting.i18n.language.LANGUAGES``.
        progress: the progress display; None is quiet.

    Raises:
        MedoodError: a run is missing, unfinished or empty, the runs cannot be compared, share scans, or the normal
            scans are known to the detector; or the folder cannot be written.
    """
    progress, normals, outliers = progress or Progress(quiet=True), Path(normals), Path(outliers)
    words = Language(language)
    metadata, loaded = detector_of(normals, detector)
    check_least(least)
    check_alike([(metadata, normals), (finished_run(outliers), outliers)])
    own, foreign = _first_scans(normals), _first_scans(outliers)
    _check_unknown(own, foreign, normals, loaded)
    rate = float(metadata.fpr or 0.0)
    try:
        with tempfile.TemporaryDirectory(prefix="medood-") as scratch:
            work = Path(scratch)
            requirements = [_requirement("normals", _flags(own), rate)]
            requirements += _planted(own, metadata, loaded, least, progress)
            requirements.append(_requirement("outliers", _flags(foreign), least))
            alarms = [row for row in own if row.decision == Decision.OUT_OF_DISTRIBUTION][:SHOWN]
            missed = [row for row in reversed(foreign) if row.decision == Decision.IN_DISTRIBUTION][:SHOWN]
            other = finished_run(outliers)
            tail = tail_test(np.array([row.score for row in own], dtype=np.float64), loaded.calibration.scores)
            record = validate_record(
                {
                    "schema_version": SCHEMA_VERSION,
                    "language": words.code,
                    "run": _without_places(metadata),
                    "sources": {"normals": metadata.sources, "outliers": other.sources},
                    "finished": max(str(metadata.finished), str(other.finished)),
                    "least": least,
                    "requirements": [{**asdict(line), "is_met": line.is_met} for line in requirements],
                    "passed": all(line.is_met for line in requirements),
                    "tail": {"count": tail.count, "expected": tail.expected} if tail.heavy else None,
                    "images": images,
                    "text": images and is_available(),
                    "alarms": _shown(alarms, "alarm", metadata, loaded, work, images),
                    "missed": _shown(missed, "missed", other, loaded, work, images),
                }
            )
            (work / "acceptance.json").write_text(
                json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            paths = [compile_template("acceptance", record, record["finished"], work, {}), work / "acceptance.json"]
            with contextlib.ExitStack() as stack:  # all are copied before any is replaced
                for path in paths:
                    shutil.copyfile(path, stack.enter_context(atomic_write(normals / path.name)))
    except OSError as error:
        raise MedoodError(f"The test cannot be written into {normals}: {error.strerror or error}.") from error
    return normals / "acceptance.pdf"


def _first_scans(run: Path) -> list[Row]:
    """The first scored scan of each file, highest score first: the rate is one of scans, and those of a file are alike.

    Raises:
        MedoodError: there is none.
    """
    ledger = Ledger(run)
    try:
        firsts: dict[tuple[str, str], Row] = {}
        for row in ledger.scored():
            known = firsts.get((row.source, row.member))
            if known is None or row.frame < known.frame:
                firsts[row.source, row.member] = row
    finally:
        ledger.close()
    if not firsts:
        raise MedoodError(f"{run} has no scan with a score; an acceptance test needs normal scans and outliers.")
    return sorted(firsts.values(), key=lambda row: (-(row.score or 0.0), row.key))


def _check_unknown(own: Sequence[Row], foreign: Sequence[Row], normals: Path, detector: Detector) -> None:
    """Refuse normal scans that the detector knows or that are also given as outliers."""
    digests = {row.sha256 for row in own}
    known = {bytes(key).hex() for keys in (detector.calibration.keys, detector.learned.keys) for key in keys.numpy()}
    if count := len(digests & known):
        raise MedoodError(
            f"{count} files of {normals} are calibration or training scans of the detector, which it hardly ever flags. "
            "Screen normal scans that it does not know."
        )
    if count := len(digests & {row.sha256 for row in foreign}):
        raise MedoodError(f"{count} files are in both runs (same SHA-256). A scan either belongs or does not.")


def _flags(rows: Sequence[Row]) -> list[bool]:
    return [row.decision == Decision.OUT_OF_DISTRIBUTION for row in rows]


def _requirement(what: str, flagged: Sequence[bool], limit: float | None) -> Requirement:
    interval = binomtest(sum(flagged), len(flagged)).proportion_ci(method="wilson")
    return Requirement(what, len(flagged), sum(flagged), (float(interval.low), float(interval.high)), limit)


def _planted(
    rows: Sequence[Row], metadata: RunMetadata, detector: Detector, least: float, progress: Progress
) -> list[Requirement]:
    """A line for each fault, planted in at most ``MAX_PLANTED`` normal scans, those with the smallest SHA-256.

    Opacities are a finding, and no fault of a scan: how many are found is stated, and nothing is required.
    """
    chosen = sorted(rows, key=lambda row: row.key)[:MAX_PLANTED]
    read = replace(metadata.read, select="")
    images, strata = [], []
    with progress.bar(len(chosen), "reading") as bar:
        for row, original in read_original_scans(chosen, Path(metadata.working_directory), read):
            if isinstance(original, OriginalScan):
                images.append(detector.prepare(original.scan))
                strata.append(str(row.metadata.get("stratum") or ""))
            bar(1, "")
    if not images:
        raise MedoodError(
            "No normal scan is left where it was screened, so that no fault can be planted. Screen them again."
        )
    lines = []
    for name, scores in planted_scores(detector, torch.stack(images), progress):
        found = np.asarray(detector.calibration.p_values(scores, strata)) <= metadata.limit
        lines.append(_requirement(name, found.tolist(), None if name == "opacity" else least))
    return lines


def _without_places(metadata: RunMetadata) -> dict[str, Any]:
    """The run's metadata without folders of the machine that it ran on."""
    stored = {name: value for name, value in metadata.to_dict().items() if name != "working_directory"}
    return stored | {"detector": {name: value for name, value in stored["detector"].items() if name != "folder"}}


def _shown(
    rows: Sequence[Row], kind: str, metadata: RunMetadata, detector: Detector, work: Path, images: bool
) -> list[dict[str, Any]]:
    """Name, score and thumbnail of each row; a scan that is no longer there has no thumbnail."""
    files = {}
    read = replace(metadata.read, select="")
    for number, (row, small) in enumerate(
        draw_thumbnails(rows if images else [], detector, Path(metadata.working_directory), read)
    ):
        if not isinstance(small, str):
            files[row.key] = f"{kind}-{number:02d}.jpg"
            (work / files[row.key]).write_bytes(small[0])
    return [{"name": name_of(row), "score": row.score, "thumbnail": files.get(row.key, "")} for row in rows]
