"""What a run found, as DICOM objects for the PACS: a Structured Report, the overlay, the raw map, and the audit report.

The objects of a scan belong to its own study and patient and so carry what the scan's header says of the patient. Their UIDs
follow from the scan, the detector and the kind of object: made twice they are the same objects.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from highdicom import sr
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian, generate_uid

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.evidence.evidence_maps import DRAWN
from medood.evidence.score_map import FULL_STRENGTH, score_maps
from medood.progress import Progress
from medood.reporting.dicom_header import missing_identity, orientation, refer_to, usable_header
from medood.reporting.original_scans import Original, header, originals
from medood.reporting.renderings import blend, on_picture
from medood.reporting.report_data import detector_of
from medood.scans.scan import RefusedError, Scan
from medood.screening.ledger import Ledger, Row

_SCHEME = "99MEDOOD"
_SCORE = sr.CodedConcept("score", _SCHEME, "Out-of-distribution score")
_P_VALUE = sr.CodedConcept("C44185", "NCIt", "P-Value")
_LIMIT = sr.CodedConcept("limit", _SCHEME, "Largest p-value that is flagged")
_DECISION = sr.CodedConcept("decision", _SCHEME, "Decision")
_DECISIONS = {
    "out_of_distribution": sr.CodedConcept("out", _SCHEME, "Out of distribution"),
    "in_distribution": sr.CodedConcept("in", _SCHEME, "In distribution"),
}
#: Parts of the body, as DICOM names them, that have no side.
_UNPAIRED = {"CHEST", "HEAD", "SKULL", "BRAIN", "NECK", "SPINE", "CSPINE", "TSPINE", "LSPINE", "ABDOMEN", "PELVIS", "HEART"}
#: Series of the new objects, far above those of a scanner.
_SERIES = {"sr": 9701, "overlay": 9702, "map": 9703, "report": 9704}


@dataclass(frozen=True)
class Written:
    """What became of a flagged scan: the files written for it, or why there is none."""

    row: Row
    files: tuple[str, ...]
    reason: str = ""


def write_dicom(
    run: Path, out: Path, detector: str | Path | None = None, *, progress: Progress | None = None
) -> list[Written]:
    """Write the DICOM objects of every flagged scan of a run into a folder, and the audit report where there is one.

    Args:
        run: the folder that ``screen`` wrote.
        out: where the objects go; those of the same run are written over.
        detector: the detector's folder, where it is no longer the one noted in the ledger.
        progress: where to draw; none is quiet.

    Raises:
        MedoodError: there is no finished run, the detector is another one, or the folder cannot be written.
    """
    progress = progress or Progress(quiet=True)
    facts, loaded = detector_of(run, detector)
    ledger = Ledger(run)
    try:
        rows = list(ledger.rows("decision = 'out_of_distribution'", "score DESC, id"))
    finally:
        ledger.close()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with progress.bar(len(rows), "DICOM objects") as bar:
            read = ReadConfig(**facts.get("read", {}) | {"select": ""})
            found: dict[int, Written] = {}
            for row, original in originals(rows, Path(facts.get("working_directory", ".")), read):
                found[id(row)] = _objects_of(row, original, loaded, facts, read, out)
                bar(1, "")
            written = [found[id(row)] for row in rows]
        if (run / "report.pdf").is_file():
            _save(encapsulated((run / "report.pdf").read_bytes(), facts), out / "report.dcm")
    except OSError as error:
        raise MedoodError(f"{out} cannot be written: {error.strerror or error}.") from error
    return written


def _objects_of(
    row: Row, original: Original | str, detector: Detector, facts: dict[str, Any], read: ReadConfig, out: Path
) -> Written:
    if not isinstance(original, Original):
        return Written(row, (), original)
    try:
        source = header(original.source, read)
        missing = missing_identity(source)
        if missing:
            return Written(row, (), f"the file has no {' and no '.join(missing)}, which a DICOM object must refer to")
        files = []
        with warnings.catch_warnings(action="ignore"):  # of the scan's own header
            for kind, made in objects(source, row, original.scan, detector, facts):
                target = out / f"{made.SOPInstanceUID}.dcm"
                _save(made, target)
                files.append(f"{kind}: {target.name}")
        return Written(row, tuple(files))
    except OSError:
        raise
    except RefusedError as refused:
        return Written(row, (), refused.reason)
    except pydicom.errors.InvalidDicomError:
        return Written(row, (), "the file is no DICOM object, and has no study to belong to")
    except Exception:  # a header may be wrong in any way, and no file may stop the rest
        return Written(row, (), "the header does not allow a DICOM object: an attribute that it needs cannot be used")


def objects(
    source: Dataset, row: Row, scan: Scan, detector: Detector, facts: dict[str, Any]
) -> Iterator[tuple[str, Dataset]]:
    """The objects of one scan: ``sr`` (TID 1500) and, where a map can show why it was flagged, ``overlay`` (Secondary
    Capture) and ``map`` (Parametric Map of the score's map), the latter where the scan has a frame of reference.

    Args:
        source: the scan's DICOM object.
        row: its row in the ledger.
        scan: as read.
        detector: the one that scored it.
        facts: of the run.
    """
    instance, sop_class = str(source.SOPInstanceUID), str(source.SOPClassUID)
    source = usable_header(source)
    heat = score_maps(detector, detector.prepare(scan)[None]).maps[0]
    pixels = scan.pixels[0]
    uid = _uids(row, detector)
    finished = datetime.fromisoformat(facts["finished"])

    def settled(made: Dataset) -> Dataset:
        refer_to(made, instance, sop_class)
        return _settled(made, finished, uid)

    yield "sr", settled(structured_report(source, row, detector, facts, uid))
    shown = on_picture(heat / np.float32(FULL_STRENGTH), pixels.shape, detector.preprocess.fit)
    if shown.max() < DRAWN:
        return  # no map can show why: an overlay would be an unaltered copy
    yield "overlay", settled(overlay(source, np.asarray(blend(pixels, shown)), detector, uid))
    if "FrameOfReferenceUID" in source and "ImagePositionPatient" in source and (source.get("NumberOfFrames") or 1) == 1:
        raw = on_picture(heat, pixels.shape, detector.preprocess.fit)
        yield "map", settled(parametric_map(source, raw, detector, uid))


def structured_report(
    source: Dataset, row: Row, detector: Detector, facts: dict[str, Any], uid: Callable[[str], str]
) -> Dataset:
    """Score, p-value, limit and decision as measurements (TID 1500), with the device and the algorithm that made them."""
    device = sr.ObserverContext(
        codes.DCM.Device,
        sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=["medood", detector.sha256]),
            name="medood",
            manufacturer_name="medood",
            model_name=(facts["detector"].get("name") or "detector")[:64],
            serial_number=detector.sha256[:16],
        ),
    )
    frames = [row.frame + 1] if (source.get("NumberOfFrames") or 1) > 1 else None
    limit = facts.get("limit") or 0.0
    group = sr.MeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(uid("tracking"), "medood"),
        algorithm_id=sr.AlgorithmIdentification(
            "medood",
            facts["medood"],
            [f"detector {detector.sha256}", f"calibration {facts['calibration']['name']}", f"score {detector.score_name}"],
        ),
        measurements=[
            sr.Measurement(_SCORE, float(row.score or 0.0), codes.UCUM.NoUnits),
            sr.Measurement(_P_VALUE, float(row.p_value or 0.0), codes.UCUM.NoUnits),
            sr.Measurement(_LIMIT, float(limit), codes.UCUM.NoUnits),
        ],
        qualitative_evaluations=[sr.QualitativeEvaluation(_DECISION, _DECISIONS[row.decision])],
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(source, frames)],
    )
    report = sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=device),
        codes.SCT.ImagingProcedure,
        [group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    return hd.sr.EnhancedSR(
        [source],
        report[0],
        uid("sr series"),
        _SERIES["sr"],
        uid("sr"),
        1,
        manufacturer="medood",
        is_complete=True,
        series_description="medood: out-of-distribution report",
    )


def overlay(source: Dataset, colours: Any, detector: Detector, uid: Callable[[str], str]) -> Dataset:
    """A Secondary Capture of the scan under the map of its score; ``colours`` is uint8 ``[H, W, 3]``."""
    made = hd.sc.SCImage.from_ref_dataset(
        source,
        np.ascontiguousarray(colours),
        "RGB",
        8,
        "PATIENT",
        uid("overlay series"),
        _SERIES["overlay"],
        uid("overlay"),
        1,
        "medood",
        patient_orientation=orientation(source) or ("L", "F"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description="medood: map of the out-of-distribution score",
    )
    if not orientation(source):
        made["PatientOrientation"].value = None  # not stated, and not made up
    made.DerivationDescription = f"Map of the score over the picture; full strength is {FULL_STRENGTH:g}"
    made.BurnedInAnnotation = source.get("BurnedInAnnotation") or "NO"
    return _placed(made, source)


def parametric_map(source: Dataset, raw: Any, detector: Detector, uid: Callable[[str], str]) -> Dataset:
    """The raw map as floats in the scan's own frame of reference; ``raw`` is float32 ``[H, W]``."""
    mapping = hd.pm.RealWorldValueMapping(
        "Score map",
        "What a place adds to the out-of-distribution score",
        codes.UCUM.NoUnits,
        (0.0, max(float(raw.max()), 1e-6)),
        slope=1.0,
        intercept=0.0,
    )
    made = hd.pm.ParametricMap(
        [source],
        np.ascontiguousarray(raw, dtype=np.float32)[None],
        uid("map series"),
        _SERIES["map"],
        uid("map"),
        1,
        "medood",
        "medood",
        version("medood"),
        detector.sha256[:16],
        False,
        [mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(FULL_STRENGTH / 2, FULL_STRENGTH, voi_lut_function="LINEAR_EXACT")],
        series_description="medood: map of the out-of-distribution score, unscaled",
    )
    return _placed(made, source)


def encapsulated(pdf: bytes, facts: dict[str, Any]) -> Dataset:
    """The audit report as an Encapsulated PDF, in a study of its own: it speaks of many patients, and of none by name."""
    finished = datetime.fromisoformat(facts["finished"])
    key = [facts["detector"]["sha256"], facts["started"], facts["finished"]]
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = EncapsulatedPDFStorage
    made.SOPInstanceUID = generate_uid(entropy_srcs=["report", *key])
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.StudyInstanceUID = generate_uid(entropy_srcs=["report study", *key])
    made.SeriesInstanceUID = generate_uid(entropy_srcs=["report series", *key])
    made.SpecificCharacterSet = "ISO_IR 192"
    made.PatientName, made.PatientID = "MEDOOD^AUDIT", "MEDOOD-AUDIT"
    made.PatientBirthDate = made.PatientSex = ""
    made.StudyDate, made.StudyTime = finished.strftime("%Y%m%d"), finished.strftime("%H%M%S")
    made.ContentDate, made.ContentTime = made.StudyDate, made.StudyTime
    made.AcquisitionDateTime = ""
    made.AccessionNumber = made.ReferringPhysicianName = ""
    made.StudyID, made.SeriesNumber, made.InstanceNumber = "1", _SERIES["report"], 1
    made.Modality, made.ConversionType = "DOC", "WSD"
    made.Manufacturer = made.ManufacturerModelName = "medood"
    made.SoftwareVersions = facts["medood"]
    made.DeviceSerialNumber = facts["detector"]["sha256"][:16]
    made.BurnedInAnnotation, made.RecognizableVisualFeatures = "NO", "NO"
    made.DocumentTitle = "medood audit report"
    made.ConceptNameCodeSequence = []
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocumentLength = len(pdf)
    made.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return made


def _uids(row: Row, detector: Detector) -> Callable[[str], str]:
    return lambda kind: str(generate_uid(entropy_srcs=["medood", kind, row.sha256, str(row.frame), detector.sha256]))


def _settled(made: Dataset, finished: datetime, uid: Callable[[str], str]) -> Dataset:
    """With the time at which the run ended instead of now, and no random UID, so that a run gives the same bytes."""
    day, time = finished.strftime("%Y%m%d"), finished.strftime("%H%M%S")
    for element in made.iterall():
        if element.keyword in ("ContentDate", "InstanceCreationDate", "DateOfSecondaryCapture"):
            element.value = day
        elif element.keyword in ("ContentTime", "InstanceCreationTime", "TimeOfSecondaryCapture"):
            element.value = time
        elif element.keyword == "ContributionDateTime":
            element.value = day + time
        elif element.keyword == "DimensionOrganizationUID":
            element.value = uid("dimensions")
    return made


def _placed(made: Dataset, source: Dataset) -> Dataset:
    """With the body part and the side that the header states. The side of a paired part may be left open, not out."""
    part = source.get("BodyPartExamined") or ""
    made.BodyPartExamined = part
    if source.get("Laterality") or str(part).upper() not in _UNPAIRED:
        made.Laterality = source.get("Laterality") or ""
    return made


def _save(made: Dataset, target: Path) -> None:
    partial = target.with_name(f".{target.name}.part")
    made.save_as(partial, enforce_file_format=True)
    partial.replace(target)
