"""Rejection notes (IHE IOCM): Key Object Selections that ask an archive to hide scans which do not belong.

A rejection note is titled (113001, DCM, "Rejected for Quality Reasons") and says why by a code of CID 7011 where there is
one. IOCM has no note that takes a rejection back; the one written here is understood by dcm4chee.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom as hd
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from medood.errors import MedoodError
from medood.evidence.fault_codes import QUALITY, check_rejectable
from medood.output_folder import atomic_write
from medood.progress import Progress
from medood.reporting.dicom_header import IDENTITY, device_observer, missing_identity, refer_to, set_times, usable_header
from medood.reporting.original_scans import read_headers
from medood.reporting.review import Review, read_review, run_name
from medood.screening.finished_run import finished_run
from medood.screening.ledger.database import Ledger, Row
from medood.screening.ledger.run_metadata import RunMetadata

_REJECTED = codes.DCM.RejectedForQualityReasons
_RESTORED = sr.CodedConcept("REVOKE_REJECTION", "99DCM4CHEE", "Restore rejected Instances")
_SERIES = {"reject": 9705, "restore": 9706}
#: Reasons why a scan is named by no note.
_SAME_UID = "another file with other contents has the same SOP Instance UID, by which an archive cannot tell them apart"
_UNUSABLE = "no DICOM object can be made from the header: a required attribute is unusable"


@dataclass(frozen=True)
class Notes:
    """The rejection notes of a run.

    Attributes:
        files: names of the notes, one for each study and patient.
        scans: number of scans that they name.
        left_out: scans that no note names, with the reason.
    """

    files: list[str]
    scans: int
    left_out: list[tuple[Row, str]]


def write_notes(
    run: Path,
    out: Path,
    findings: Sequence[str],
    *,
    review: Path | None = None,
    restore: bool = False,
    progress: Progress | None = None,
) -> Notes:
    """Write rejection notes for the flagged scans of a run that have one of the findings.

    An object is rejected as a whole, and so only if every one of its frames is to be rejected.

    Args:
        run: the folder that ``screen`` wrote.
        out: the output folder; it may hold the same notes already, but no other objects, so that none is sent by mistake.
        findings: the findings to reject, see :mod:`medood.evidence.fault_codes`.
        review: a person's review; only scans that the reviewer agreed about are then named.
        restore: write notes that take the rejection of these scans back.
        progress: the progress display; None is quiet.

    Raises:
        MedoodError: the run is missing or unfinished, the review belongs to another run, a finding is unknown or
            may be disease, or the folder holds other objects or cannot be written.
    """
    check_rejectable(findings)
    progress = progress or Progress(quiet=True)
    metadata = finished_run(run)
    ledger = Ledger(run)
    try:
        verdicts = read_review(review, metadata, set(ledger.keys(scored_only=True))) if review else None
        flagged = [row for row in ledger.flagged() if row.finding in findings and _agreed(row, verdicts)]
    finally:
        ledger.close()
    kind = "restore" if restore else "reject"
    studies: dict[tuple[str, str], list[tuple[list[Row], Dataset]]] = defaultdict(list)
    left_out: list[tuple[Row, str]] = []
    with progress.bar(len(flagged), "headers") as bar:
        for rows, source in read_headers(flagged, Path(metadata.working_directory), replace(metadata.read, select="")):
            bar(len(rows), "")
            reason = source if isinstance(source, str) else _reason_against(rows, source)
            if reason or isinstance(source, str):
                left_out += [(row, reason) for row in rows]
                continue
            studies[str(source.StudyInstanceUID), str(source.get("PatientID") or "")].append((rows, source))
    notes, scans = {}, 0
    for objects in studies.values():
        twice = [uid for uid, count in Counter(str(source.SOPInstanceUID) for _, source in objects).items() if count > 1]
        left_out += [(row, _SAME_UID) for rows, source in objects for row in rows if source.SOPInstanceUID in twice]
        unique = [(rows, source) for rows, source in objects if source.SOPInstanceUID not in twice]
        try:
            if unique:
                note = _note(unique, metadata, kind)
                notes[f"{note.SOPInstanceUID}.dcm"] = note
                scans += sum(len(rows) for rows, _ in unique)
        except Exception:  # a header may be malformed in any way; one study must not stop the rest
            left_out += [(row, _UNUSABLE) for rows, _ in unique for row in rows]
    others = sorted({path.name for path in out.glob("*.dcm")} - set(notes))
    if others:
        raise MedoodError(
            f"{out} holds {len(others)} other objects, such as {others[0]}, which would be sent too. Remove them, or give "
            "another folder with --out."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, note in notes.items():
            with atomic_write(out / name) as partial:
                note.save_as(partial, enforce_file_format=True)
    except OSError as error:
        raise MedoodError(f"{out} cannot be written: {error.strerror or error}.") from error
    return Notes(list(notes), scans, left_out)


def _agreed(row: Row, review: Review | None) -> bool:
    return review is None or review.verdicts.get(row.key) == "agree"


def _reason_against(rows: list[Row], source: Dataset) -> str:
    missing = missing_identity(source)
    if missing:
        return f"the file has no {' and no '.join(missing)}, which a DICOM object must refer to"
    if any(isinstance(source.get(name), MultiValue) for name in (*IDENTITY, "PatientID")):
        return _UNUSABLE
    frames = int(source.get("NumberOfFrames") or 1)
    if len(rows) < frames:
        return f"only {len(rows)} of the object's {frames} frames are to be rejected, and an object is rejected whole"
    return ""


def _note(objects: list[tuple[list[Row], Dataset]], metadata: RunMetadata, kind: str) -> Dataset:
    """One note for objects of one study and patient."""
    objects = sorted(objects, key=lambda pair: str(pair[1].SOPInstanceUID))
    identities = [(str(source.SOPInstanceUID), str(source.SOPClassUID)) for _, source in objects]
    key = [kind, run_name(metadata), *(instance for instance, _ in identities)]

    def uid(name: str) -> str:
        return str(generate_uid(entropy_srcs=["medood", name, *key]))

    with warnings.catch_warnings(action="ignore"):  # warnings about the scans' own headers
        sources = [usable_header(source) for _, source in objects]
        named = sorted({row.finding for rows, _ in objects for row in rows})
        content = hd.ko.KeyObjectSelection(
            _RESTORED if kind == "restore" else _REJECTED,
            sources,
            observer_device_context=device_observer(metadata),
            description=f"medood {metadata.medood}: {', '.join(named)}",
        )
        if kind == "reject":
            _add_reasons(content[0], named)
        note = hd.ko.KeyObjectSelectionDocument(
            sources, content, uid("series"), _SERIES[kind], uid("note"), 1, manufacturer="medood"
        )
    for instance, sop_class in identities:
        refer_to(note, instance, sop_class)
    note.SeriesDescription = "medood: rejected scans" if kind == "reject" else "medood: restored scans"
    return set_times(note, datetime.fromisoformat(metadata.finished or metadata.started), uid)


def _add_reasons(container: Any, findings: Sequence[str]) -> None:
    """Add the reasons of CID 7011 as Document Title Modifiers (TID 2010, row 2), after the language if there is one."""
    reasons = {concept.value: concept for name in findings if (concept := QUALITY.get(name)) is not None}
    modifier = codes.DCM.DocumentTitleModifier
    items = [
        sr.CodeContentItem(modifier, concept, sr.RelationshipTypeValues.HAS_CONCEPT_MOD) for concept in reasons.values()
    ]
    for item in reversed(items):
        container.ContentSequence.insert(0, item)
