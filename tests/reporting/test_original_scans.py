from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
from PIL import Image

from medood.config.schema import ReadConfig
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.progress import Progress
from medood.reporting.original_scans import OriginalScan, header, patient_and_study, read_original_scans
from medood.reporting.pdf import typesettable
from medood.reporting.report_data import validate_record
from medood.reporting.training_thumbnails import training_thumbnails
from medood.scans.scan import sha256_of
from medood.scans.sources.source import Source
from medood.screening.ledger.database import Row, escape_name


def row_of(path: Path) -> Row:
    return Row(escape_name(str(path)), "", 0, sha256_of(path.read_bytes()), "scored", "", 1.0, 0.01, "out_of_distribution")


def test_a_name_that_is_no_utf8_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / b"bad\xff\xfe.dcm".decode("utf-8", "surrogateescape")
    path.write_bytes(dicom_bytes(frontal_chest(1, 64).image, "1"))
    ((row, found),) = read_original_scans([row_of(path)], Path(), ReadConfig())
    assert "ff" in row.source
    assert row.source.isascii()
    assert isinstance(found, OriginalScan)


def test_identifiers_of_odd_headers(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(frontal_chest(1, 64).image, "one")))
    path = tmp_path / "a.dcm"
    bare = pydicom.Dataset()
    bare.update(dataset)
    bare.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert path.read_bytes()[128:132] != b"DICM"
    assert patient_and_study(Source(path), ReadConfig())["Patient ID"] == dataset.PatientID
    whole = dicom_bytes(frontal_chest(1, 64).image, "one")
    place = whole.index(b"\x10\x00\x20\x00LO")
    path.write_bytes(whole[: place + 4] + b"FD" + whole[place + 6 :])
    assert patient_and_study(Source(path), ReadConfig()) == {} or "Patient name" in patient_and_study(
        Source(path), ReadConfig()
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    assert patient_and_study(Source(path), ReadConfig()) == {}
    with pytest.raises(pydicom.errors.InvalidDicomError):
        header(Source(path), ReadConfig())


def test_a_file_of_several_frames_has_no_thumbnail(tmp_path: Path) -> None:
    pages = [Image.new("L", (32, 32), shade) for shade in (40, 200)]
    pages[0].save(tmp_path / "two.tiff", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "one.png")
    digests = {name: sha256_of((tmp_path / name).read_bytes()) for name in ("two.tiff", "one.png")}
    found = training_thumbnails(tmp_path, set(digests.values()), tmp_path, Progress(quiet=True))
    assert found == {digests["one.png"]: ("one.png", f"known-{digests['one.png'][:12]}.jpg")}


def test_line_breaks_and_odd_spaces_are_kept_and_control_characters_are_not() -> None:
    assert validate_record(["a\nb\tc\u00a0d\u202fe\x1b\u202e", "x" * 3900]) == [
        "a\nb\tc\u00a0d\u202fe\ufffd\ufffd",
        "x" * 3900,
    ]
    assert typesettable("a\nb\u00a0c\u202fd\te") == "a\nb c d e"
