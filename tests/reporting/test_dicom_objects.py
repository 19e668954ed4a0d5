from __future__ import annotations

import io
import zipfile
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComputedRadiographyImageStorage,
    EncapsulatedPDFStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
)
from typer.testing import CliRunner

from medood.cli.main import app
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.evidence.fault_codes import FINDINGS
from medood.evidence.score_map import ScoreMaps, score_maps
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.reporting.dicom_objects import strongest_place, write_dicom
from medood.reporting.pdf import report
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from medood.screening.ledger.database import Ledger
from medood.screening.run import screen


@pytest.fixture(scope="module")
def run(tiny_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT slice, a radiograph, a header with nothing in it and a PNG, all flagged."""
    folder = tmp_path_factory.mktemp("objects")
    with zipfile.ZipFile(folder / "archive.zip", "w") as opened:
        opened.writestr("ct.dcm", dicom_bytes(OUTLIERS["ct_like"](1, 96), "ct", modality="CT"))
        opened.writestr("film.dcm", dicom_bytes(OUTLIERS["hand_like"](1, 96), "film", modality="CR", body_part="HAND"))
        bare = pydicom.dcmread(io.BytesIO(dicom_bytes(OUTLIERS["inverted"](1, 96), "bare")))
        for name in ("PatientID", "PatientName", "PatientSex", "StudyDate", "AccessionNumber", "PatientOrientation"):
            del bare[name]
        bare.PatientSex = "X"
        stream = io.BytesIO()
        bare.save_as(stream)
        opened.writestr("bare.dcm", stream.getvalue())
        del bare.StudyInstanceUID
        stream = io.BytesIO()
        bare.save_as(stream)
        opened.writestr("no-study.dcm", stream.getvalue())
        image = io.BytesIO()
        Image.fromarray(np.uint8(OUTLIERS["upside_down"](1, 96) * 255)).save(image, "PNG")
        opened.writestr("picture.png", image.getvalue())
    screen([folder / "archive.zip"], tiny_detector, folder / "run", fpr=0.99)
    report(folder / "run", top=1)
    return folder / "run"


def test_every_flagged_scan_becomes_objects_of_its_study_or_a_sentence(run: Path, tmp_path: Path) -> None:
    written = {item.row.member: item for item in write_dicom(run, tmp_path)}
    assert len(written) == 5
    assert "no StudyInstanceUID" in written["no-study.dcm"].reason
    assert "no DICOM object" in written["picture.png"].reason
    kinds = {name: [text.split(":")[0] for text in item.files] for name, item in written.items()}
    assert kinds["ct.dcm"] == ["sr", "overlay", "map"]
    assert kinds["film.dcm"] == kinds["bare.dcm"] == ["sr", "overlay"]
    study = pydicom.dcmread(io.BytesIO(dicom_bytes(OUTLIERS["ct_like"](1, 96), "ct", modality="CT"))).StudyInstanceUID
    for text in written["ct.dcm"].files:
        made = pydicom.dcmread(tmp_path / text.split(": ")[1])
        assert study == made.StudyInstanceUID
        assert made.PatientID == "PHANTOM-ct"
        assert made.SeriesNumber > 9000


def test_the_command_tells_each_reason_once(run: Path, tmp_path: Path) -> None:
    told = " ".join(CliRunner().invoke(app, ["dicom", str(run), "--out", str(tmp_path)]).stderr.split())
    assert told.count("no DICOM object for 1 of the flagged scans, such as ") == 2
    assert "7 objects for 3 of 5 flagged scans" in told


def test_the_structured_report_says_what_the_ledger_holds(run: Path, tmp_path: Path) -> None:
    item = next(item for item in write_dicom(run, tmp_path) if item.row.member == "film.dcm")
    made = hd.sr.srread(tmp_path / item.files[0].split(": ")[1])
    assert made.SOPClassUID == Comprehensive3DSRStorage
    group = made.content.get_image_measurement_groups()[0]
    values = {some.name.meaning: some.value for some in group.get_measurements()}
    ledger = Ledger(run)
    metadata = ledger.metadata()
    ledger.close()
    assert values["Out-of-distribution score"] == pytest.approx(item.row.score)
    assert values["P-Value"] == pytest.approx(item.row.p_value)
    assert values["Largest p-value that is flagged"] == metadata.limit
    evaluations = {some.name.meaning: some.value for some in group.get_qualitative_evaluations()}
    assert evaluations["Decision"].meaning == "Out of distribution"
    assert group.finding_type == FINDINGS[item.row.finding]
    assert group.source_images[0].referenced_sop_class_uid == ComputedRadiographyImageStorage
    assert metadata.detector.sha256 in made.to_json()
    (outline,) = (
        made.content.get_planar_roi_measurement_groups()
    )  # of the same finding, so that viewers show its numbers there
    assert outline.tracking_uid == group.tracking_uid
    assert outline.finding_type == group.finding_type
    assert outline.roi.graphic_type == hd.sr.GraphicTypeValues.POLYLINE
    corners = outline.roi.value / np.array([96, 96])
    assert (corners[0] == corners[-1]).all()
    assert ((corners >= 0) & (corners <= 1)).all()
    if item.row.finding != "local_abnormality":
        assert np.ptp(corners, axis=0) == pytest.approx([0.96, 0.96])


def test_the_strongest_place_is_the_one_around_the_maximum() -> None:
    score_map = np.zeros((40, 80), dtype=np.float32)
    score_map[5:10, 60:70], score_map[7, 65] = 0.6, 1.0
    score_map[20:30, 10:20] = 0.9  # as high as counts, but another place
    score_map[9, 71] = 0.49
    assert strongest_place(score_map) == (60 / 80, 5 / 40, 70 / 80, 10 / 40)


def test_overlay_and_map_hold_the_evidence(run: Path, tiny_detector: Path, tmp_path: Path) -> None:
    item = next(item for item in write_dicom(run, tmp_path) if item.row.member == "ct.dcm")
    _, overlay, raw = (pydicom.dcmread(tmp_path / text.split(": ")[1]) for text in item.files)
    assert overlay.SOPClassUID == SecondaryCaptureImageStorage
    assert overlay.pixel_array.shape == (96, 96, 3)
    assert list(overlay.PatientOrientation) == ["L", "P"]
    assert raw.SOPClassUID == ParametricMapStorage
    detector = Detector.load(tiny_detector)
    scan = next(s for s in read_scans(run.parent / "archive.zip") if s.identity.member == "ct.dcm")
    assert isinstance(scan, Scan)
    heat = score_maps(detector, detector.prepare(scan)[None]).maps[0]
    stored = np.frombuffer(raw.FloatPixelData, "<f4").reshape(96, 96)
    assert float(stored.max()) == pytest.approx(float(heat.max()), rel=0.1)
    assert np.isfinite(stored).all()


def test_an_orientation_that_is_not_stated_is_not_made_up(run: Path, tmp_path: Path) -> None:
    item = next(item for item in write_dicom(run, tmp_path) if item.row.member == "bare.dcm")
    overlay = pydicom.dcmread(tmp_path / item.files[1].split(": ")[1])
    assert not overlay.PatientOrientation
    assert not overlay.PatientID
    assert not overlay.PatientSex


def test_the_same_run_gives_the_same_objects(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dicom(run, tmp_path / name)
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert [path.name for path in first] == [path.name for path in second]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_report_is_encapsulated_in_a_study_of_no_patient(run: Path, tmp_path: Path) -> None:
    write_dicom(run, tmp_path)
    made = pydicom.dcmread(tmp_path / "report.dcm")
    assert made.SOPClassUID == EncapsulatedPDFStorage
    assert made.EncapsulatedDocument[: made.EncapsulatedDocumentLength] == (run / "report.pdf").read_bytes()
    assert "PHANTOM" not in str(made.PatientID)


def test_a_wrong_detector_and_a_file_in_the_way_are_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match="was scored by the detector"):
        write_dicom(run, tmp_path, "cxr-small")
    (tmp_path / "file").write_text("")
    with pytest.raises(MedoodError, match="cannot be written"):
        write_dicom(run, tmp_path / "file")


def test_where_no_map_can_show_why_no_copy_is_called_an_overlay(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faint(detector: Detector, images: torch.Tensor) -> ScoreMaps:
        side = images.shape[-1]
        return ScoreMaps(np.full((len(images), side, side), 5.9, np.float32), np.ones(len(images)))

    monkeypatch.setattr("medood.reporting.dicom_objects.score_maps", faint)
    written = [item for item in write_dicom(run, tmp_path) if item.files]
    assert written
    assert all([text.split(": ")[0] for text in item.files] == ["sr"] for item in written)
