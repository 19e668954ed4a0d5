"""No value of a header stands in a sentence, a log or a warning of any command."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.dataelem import DataElement

from medood.scans.dicom.reader import KEPT_ATTRIBUTES
from tests.scans.films import film, saved, write

#: Every attribute that medood reads, each with a value that is wrong there and found again wherever it is shown.
PLANTED: dict[str, str] = {
    "SpecificCharacterSet": "ISO_IR 47114711",
    "ImageType": "PLANTED47114711",
    "SOPClassUID": "1.2.826.47114711.1",
    "SOPInstanceUID": "1.2.826.47114711.2",
    "StudyDate": "1950/04/711",
    "AcquisitionDate": "47114711.01.01",
    "AcquisitionDateTime": "47114711-01-01",
    "StudyTime": "PLANTED47114711",
    "AccessionNumber": "PLANTED47114711",
    "Modality": "PLANTED47114711",
    "Manufacturer": "PLANTED47114711",
    "ManufacturerModelName": "PLANTED47114711",
    "ReferringPhysicianName": "PLANTED47114711\\SECOND47114711",
    "PatientName": "PLANTED47114711\\SECOND47114711",
    "PatientID": "PLANTED47114711",
    "PatientBirthDate": "1950/04/711",
    "PatientSex": "PLANTED47114711",
    "BodyPartExamined": "PLANTED47114711",
    "ViewPosition": "PLANTED47114711",
    "PatientOrientation": "PLANTED47114711",
    "Laterality": "PLANTED47114711",
    "StudyInstanceUID": "1.2.826.47114711.3.x",
    "SeriesInstanceUID": "1.2.826.47114711.4.x",
    "FrameOfReferenceUID": "1.2.826.47114711.5",
    "StudyID": "PLANTED47114711",
    "NumberOfFrames": "PLANTED47114711",
    "PhotometricInterpretation": "PLANTED47114711",
    "Rows": "PLANTED47114711",
    "Columns": "PLANTED47114711",
    "BitsAllocated": "PLANTED47114711",
    "BitsStored": "PLANTED47114711",
    "HighBit": "PLANTED47114711",
    "PixelRepresentation": "PLANTED47114711",
    "SamplesPerPixel": "PLANTED47114711",
    "PlanarConfiguration": "PLANTED47114711",
    "PixelAspectRatio": "PLANTED47114711",
    "PixelSpacing": "PLANTED47114711",
    "ImagerPixelSpacing": "PLANTED47114711",
    "NominalScannedPixelSpacing": "PLANTED47114711",
    "PixelPaddingValue": "PLANTED47114711",
    "PixelPaddingRangeLimit": "PLANTED47114711",
    "WindowCenter": "PLANTED47114711",
    "WindowWidth": "PLANTED47114711",
    "VOILUTFunction": "PLANTED47114711",
    "RescaleSlope": "PLANTED47114711",
    "RescaleIntercept": "PLANTED47114711",
    "PresentationLUTShape": "PLANTED47114711",
    "ModalityLUTSequence": "PLANTED47114711",
    "VOILUTSequence": "PLANTED47114711",
    "BurnedInAnnotation": "PLANTED47114711",
}


def planted(keyword: str, value: str, number: int) -> bytes:
    """A radiograph of its own with the value in one attribute, whatever its VR should be."""
    data = pydicom.dcmread(io.BytesIO(write(film() // (1 + number % 5) + number % 11, 12)))
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", "1.2.4"
    data.InstanceNumber = number
    with pydicom.config.disable_value_validation():
        data[keyword] = DataElement(keyword, "LO", value, validation_mode=pydicom.config.IGNORE)
        return saved(data)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    for number, (keyword, value) in enumerate(PLANTED.items()):
        (folder / f"{keyword}.dcm").write_bytes(planted(keyword, value, number))
    data = pydicom.dcmread(io.BytesIO(write(film(), 12)))
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.826.47114711.9")
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data, implicit_vr=False, little_endian=True, force_encoding=True)
    (folder / "TransferSyntaxUID.dcm").write_bytes(stream.getvalue())
    (folder / "no_pixels.dcm").write_bytes(without_pixels())
    return folder


def without_pixels() -> bytes:
    data = pydicom.dcmread(io.BytesIO(planted("SOPClassUID", "1.2.826.47114711.8", 3)))
    del data.PixelData
    return saved(data)


def said(*arguments: str) -> str:
    """All that a command prints."""
    command = [sys.executable, "-c", "from medood.cli.main import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_screening_reports_and_objects_show_no_header_value(archive: Path, tiny_detector: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    text = said(
        "screen", str(archive), "--detector", str(tiny_detector), "--out", str(run), "--fpr", "0.95", "--workers", "1"
    )
    text += said("dicom", str(run), "--out", str(tmp_path / "objects"))
    text += said("report", str(run), "--top", "2")
    text += said("show", str(run))
    text += (run / "verdicts.csv").read_text()
    rows = (run / "verdicts.csv").read_text().splitlines()
    assert len(rows) == len(PLANTED) + 3
    assert "47114711" not in text
    assert "Error" not in text
    assert "Warning" not in text


def test_inspect_shows_technical_attributes_alone(archive: Path, tmp_path: Path) -> None:
    for path in archive.iterdir():
        if path.stem not in KEPT_ATTRIBUTES:
            shutil.copy(path, tmp_path)
    assert "47114711" not in said("inspect", str(tmp_path))
