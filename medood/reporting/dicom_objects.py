"""Write a run's results as DICOM objects for the PACS: Structured Report, overlay, raw map, and audit report.

The objects of a scan belong to its study and so carry the patient attributes of its header. Their UIDs are derived from the
scan, the detector and the kind of object, so that writing them twice gives the same objects.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pydicom
from highdicom import sr
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian, generate_uid
from scipy.ndimage import label

from medood.config.schema import ReadConfig
from medood.detection.conformal import Decision
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.evidence.evidence_maps import DRAWN
from medood.evidence.fault_codes import FINDINGS, QUALITY, SCHEME, FaultName
from medood.evidence.score_map import full_strength, score_maps
from medood.output_folder import atomic_write
from medood.progress import Progress
from medood.reporting.dicom_header import device_observer, missing_identity, orientation, refer_to, set_times, usable_header
from medood.reporting.original_scans import OriginalScan, header, read_original_scans
from medood.reporting.renderings import blend, on_picture
from medood.reporting.report_data import detector_of
from medood.scans.library_settings import library_settings
from medood.scans.scan import RefusedError, Scan
from medood.screening.ledger.database import Ledger, Row
from medood.screening.ledger.run_metadata import RunMetadata

_SCORE = sr.CodedConcept("score", SCHEME, "Out-of-distribution score")
_P_VALUE = sr.CodedConcept("C44185", "NCIt", "P-Value")
_LIMIT = sr.CodedConcept("limit", SCHEME, "Largest p-value that is flagged")
_DECISION = sr.CodedConcept("decision", SCHEME, "Decision")
_DECISIONS = {
    Decision.OUT_OF_DISTRIBUTION: sr.CodedConcept("out", SCHEME, "Out of distribution"),
    Decision.IN_DISTRIBUTION: sr.CodedConcept("in", SCHEME, "In distribution"),
}
#: Body parts (DICOM terms) without a side.
_UNPAIRED = {"CHEST", "HEAD", "SKULL", "BRAIN", "NECK", "SPINE", "CSPINE", "TSPINE", "LSPINE", "ABDOMEN", "PELVIS", "HEART"}
#: Outline of an image as a whole, in shares of its width and height: a little inside, where viewers show it.
_WHOLE = (0.02, 0.02, 0.98, 0.98)
#: Series numbers of the new objects, far above those of a scanner.
_SERIES = {"sr": 9701, "overlay": 9702, "map": 9703, "report": 9704}


@dataclass(frozen=True)
class WrittenObjects:
    """The files written for a flagged scan, or the reason why there are none."""

    row: Row
    files: tuple[str, ...]
    reason: str = ""


@library_settings()
def write_dicom(
    run: Path, out: Path, detector: str | Path | None = None, *, progress: Progress | None = None
) -> list[WrittenObjects]:
    """Write DICOM objects for every flagged scan of a run into a folder, and the audit report if there is one.

    Args:
        run: the folder that ``screen`` wrote.
        out: the output folder; objects of the same run are overwritten.
        detector: the detector's folder, if it is no longer the one recorded in the ledger.
        progress: the progress display; None is quiet.

    Raises:
        MedoodError: the run is missing or unfinished, the detector is not the run's, or the folder cannot be written.
    """
    progress = progress or Progress(quiet=True)
    metadata, loaded = detector_of(run, detector)
    ledger = Ledger(run)
    try:
        rows = list(ledger.flagged())
    finally:
        ledger.close()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with progress.bar(len(rows), "DICOM objects") as bar:
            read = replace(metadata.read, select="")
            results: dict[int, WrittenObjects] = {}
            for row, original in read_original_scans(rows, Path(metadata.working_directory), read):
                results[id(row)] = _objects_of(row, original, loaded, metadata, read, out)
                bar(1, "")
            written = [results[id(row)] for row in rows]
        if (run / "report.pdf").is_file():
            _save(encapsulated((run / "report.pdf").read_bytes(), metadata), out / "report.dcm")
    except OSError as error:
        raise MedoodError(f"{out} cannot be written: {error.strerror or error}.") from error
    return written


def _objects_of(
    row: Row, original: OriginalScan | str, detector: Detector, metadata: RunMetadata, read: ReadConfig, out: Path
) -> WrittenObjects:
    if not isinstance(original, OriginalScan):
        return WrittenObjects(row, (), original)
    try:
        source = header(original.source, read)
        missing = missing_identity(source)
        if missing:
            return WrittenObjects(row, (), f"the file has no {' and no '.join(missing)}, which a DICOM object must refer to")
        files = []
        with warnings.catch_warnings(action="ignore"):  # warnings about the scan's own header
            for kind, dataset in objects(source, row, original.scan, detector, metadata):
                target = out / f"{dataset.SOPInstanceUID}.dcm"
                _save(dataset, target)
                files.append(f"{kind}: {target.name}")
        return WrittenObjects(row, tuple(files))
    except OSError:
        raise
    except RefusedError as refused:
        return WrittenObjects(row, (), refused.reason)
    except pydicom.errors.InvalidDicomError:
        return WrittenObjects(row, (), "the file is no DICOM object and so belongs to no study")
    except Exception:  # a header may be malformed in any way; one file must not stop the rest
        return WrittenObjects(row, (), "no DICOM object can be made from the header: a required attribute is unusable")


def objects(
    source: Dataset, row: Row, scan: Scan, detector: Detector, metadata: RunMetadata
) -> Iterator[tuple[str, Dataset]]:
    """The DICOM objects of one scan: ``sr`` and, where they apply, ``overlay`` and ``map``.

    ``sr`` is a Structured Report (TID 1500), which outlines the place of a local finding that its map can show, or else
    nearly all of the image. ``overlay`` (Secondary Capture) is made where a map can show why the scan was flagged, ``map``
    (Parametric Map of the score map) where the scan also has a frame of reference.

    Args:
        source: the scan's DICOM object.
        row: its row in the ledger.
        scan: the scan as read.
        detector: the detector that scored it.
        metadata: the run's metadata.
    """
    instance, sop_class = str(source.SOPInstanceUID), str(source.SOPClassUID)
    source = usable_header(source)
    heat = score_maps(detector, detector.prepare(scan)[None]).maps[0]
    pixels = scan.pixels[0]
    uid = _uids(row, detector)
    finished = datetime.fromisoformat(metadata.finished or metadata.started)

    def complete(dataset: Dataset) -> Dataset:
        refer_to(dataset, instance, sop_class)
        return set_times(dataset, finished, uid)

    score_map = on_picture(heat / np.float32(full_strength(detector)), pixels.shape, detector.preprocess.fit)
    is_local = row.finding == FaultName.LOCAL_ABNORMALITY and score_map.max() >= DRAWN
    place = strongest_place(score_map) if is_local else _WHOLE
    yield "sr", complete(structured_report(source, row, detector, metadata, uid, place))
    if score_map.max() < DRAWN:
        return  # no map can show why: an overlay would be an unaltered copy
    overlaid = overlay(source, np.asarray(blend(pixels, score_map)), detector, uid)
    if annotation := "YES" if row.metadata.get("text") else source.get("BurnedInAnnotation"):
        overlaid.BurnedInAnnotation = annotation
    yield "overlay", complete(overlaid)
    if "FrameOfReferenceUID" in source and "ImagePositionPatient" in source and (source.get("NumberOfFrames") or 1) == 1:
        raw = on_picture(heat, pixels.shape, detector.preprocess.fit)
        yield "map", complete(parametric_map(source, raw, detector, uid))


def strongest_place(score_map: npt.NDArray[np.float32]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom, as shares of the image's width and height, of the place around the maximum of a map
    ``[H, W]`` in which it stays above half of that."""
    numbers, _ = label(score_map >= score_map.max() / 2)
    rows, columns = np.nonzero(numbers == numbers.flat[score_map.argmax()])
    height, width = score_map.shape
    return columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height


def structured_report(
    source: Dataset,
    row: Row,
    detector: Detector,
    metadata: RunMetadata,
    uid: Callable[[str], str],
    place: tuple[float, float, float, float],
) -> Dataset:
    """Structured Report (TID 1500) of score, p-value, limit, decision and finding, with the device and algorithm that made
    them: an image-level TID 1501 group, and a TID 1410 group of the same tracking identifier with an outline, without which
    viewers draw nothing.

    Args:
        source: the scan's DICOM object.
        row: its row in the ledger.
        detector: the detector that scored it.
        metadata: the run's metadata.
        uid: makes the UIDs.
        place: left, top, right and bottom of the finding, as shares of width and height; all of the image if it has none.
    """
    frames = [row.frame + 1] if (source.get("NumberOfFrames") or 1) > 1 else None
    limit = metadata.limit or 0.0
    evaluations = [sr.QualitativeEvaluation(_DECISION, _DECISIONS[Decision(row.decision)])]
    if row.finding in QUALITY:
        evaluations.append(sr.QualitativeEvaluation(codes.DCM.QualityFinding, QUALITY[row.finding]))
    tracking = sr.TrackingIdentifier(uid("tracking"), "medood")
    algorithm = sr.AlgorithmIdentification(
        "medood",
        metadata.medood,
        [f"detector {detector.sha256}", f"calibration {metadata.calibration.name}", f"score {detector.score_name}"],
    )
    values = ((_SCORE, row.score or 0.0), (_P_VALUE, row.p_value or 0.0), (_LIMIT, limit))
    measurements = [sr.Measurement(name, float(value), codes.UCUM.NoUnits) for name, value in values]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking,
        algorithm_id=algorithm,
        measurements=measurements,
        qualitative_evaluations=evaluations,
        finding_type=FINDINGS.get(row.finding),
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(source, frames)],
    )
    left, top, right, bottom = place
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
    outline = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking,
        sr.ImageRegion(
            sr.GraphicTypeValues.POLYLINE,
            corners * (int(source.Columns), int(source.Rows)),
            sr.SourceImageForRegion.from_source_image(source, frames),
        ),
        finding_type=FINDINGS.get(row.finding),
        algorithm_id=algorithm,
    )
    report = sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=device_observer(metadata)),
        codes.SCT.ImagingProcedure,
        [group, outline],
        title=codes.DCM.ImagingMeasurementReport,
    )
    return hd.sr.Comprehensive3DSR(
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
    """Secondary Capture of the scan overlaid with its score map; ``colours`` is uint8 ``[H, W, 3]``."""
    dataset = hd.sc.SCImage.from_ref_dataset(
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
        dataset["PatientOrientation"].value = None  # not stated, so not invented
    dataset.DerivationDescription = f"Map of the score over the image; full strength is {full_strength(detector):g}"
    return _copy_orientation(dataset, source)


def parametric_map(source: Dataset, raw: Any, detector: Detector, uid: Callable[[str], str]) -> Dataset:
    """Parametric Map of the raw score map in the scan's frame of reference; ``raw`` is float32 ``[H, W]``."""
    full = full_strength(detector)
    mapping = hd.pm.RealWorldValueMapping(
        "Score map",
        "Contribution to the out-of-distribution score",
        codes.UCUM.NoUnits,
        (0.0, max(float(raw.max()), 1e-6)),
        slope=1.0,
        intercept=0.0,
    )
    dataset = hd.pm.ParametricMap(
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
        voi_lut_transformations=[hd.VOILUTTransformation(full / 2, full, voi_lut_function="LINEAR_EXACT")],
        series_description="medood: map of the out-of-distribution score, unscaled",
    )
    return _copy_orientation(dataset, source)


def encapsulated(pdf: bytes, metadata: RunMetadata) -> Dataset:
    """The audit report as an Encapsulated PDF in a study of its own, since it covers many patients and names none."""
    finished = datetime.fromisoformat(metadata.finished or metadata.started)
    key = [metadata.detector.sha256, metadata.started, metadata.finished or ""]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = EncapsulatedPDFStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["report", *key])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["report study", *key])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["report series", *key])
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID = "MEDOOD^AUDIT", "MEDOOD-AUDIT"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate, dataset.StudyTime = finished.strftime("%Y%m%d"), finished.strftime("%H%M%S")
    dataset.ContentDate, dataset.ContentTime = dataset.StudyDate, dataset.StudyTime
    dataset.AcquisitionDateTime = ""
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", _SERIES["report"], 1
    dataset.Modality, dataset.ConversionType = "DOC", "WSD"
    dataset.Manufacturer = dataset.ManufacturerModelName = "medood"
    dataset.SoftwareVersions = metadata.medood
    dataset.DeviceSerialNumber = metadata.detector.sha256[:16]
    dataset.BurnedInAnnotation, dataset.RecognizableVisualFeatures = "NO", "NO"
    dataset.DocumentTitle = "medood audit report"
    dataset.ConceptNameCodeSequence = []
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(pdf)
    dataset.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return dataset


def _uids(row: Row, detector: Detector) -> Callable[[str], str]:
    return lambda kind: str(generate_uid(entropy_srcs=["medood", kind, row.sha256, str(row.frame), detector.sha256]))


def _copy_orientation(dataset: Dataset, source: Dataset) -> Dataset:
    """Copy body part and laterality from the header. For a paired part, Laterality may be empty but not absent."""
    part = source.get("BodyPartExamined") or ""
    dataset.BodyPartExamined = part
    if source.get("Laterality") or str(part).upper() not in _UNPAIRED:
        dataset.Laterality = source.get("Laterality") or ""
    return dataset


def _save(dataset: Dataset, target: Path) -> None:
    with atomic_write(target) as partial:
        dataset.save_as(partial, enforce_file_format=True)
