"""DICOMDIR file-sets and CSV manifests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

from medood.scans.reader import read_scans
from medood.scans.scan import Refusal, Scan, Status
from tests.scans.films import film, write


def found(path: Path) -> list[str]:
    return [str(r.status) if isinstance(r, Refusal) else "scan" for r in read_scans(path)]


def test_a_file_set_made_by_pydicom(tmp_path: Path) -> None:
    import io

    files = FileSet()
    for i in range(3):
        data = pydicom.dcmread(io.BytesIO(write(film() // (i + 1))))
        data.StudyDate, data.StudyTime, data.StudyID = "20200101", "120000", "1"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.SeriesNumber, data.InstanceNumber = "1.2.3", "1.2.4", 1, i
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(i)])
        files.add(data)
    files.write(tmp_path / "disc")
    results = list(read_scans(tmp_path / "disc" / "DICOMDIR"))
    assert [isinstance(r, Scan) for r in results] == [True] * 3
    # as a folder, the directory itself is a row too
    assert sorted(found(tmp_path / "disc")) == ["not_an_image", "scan", "scan", "scan"]


def directory(path: Path, *names: list[str] | str) -> Path:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    data.file_meta.MediaStorageSOPInstanceUID, data.file_meta.TransferSyntaxUID = "1.2.3.4", ExplicitVRLittleEndian
    data.DirectoryRecordSequence = []
    for name in names:
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", name
        data.DirectoryRecordSequence.append(record)
    data.save_as(path, enforce_file_format=True)
    return path


def test_names_that_lead_out_of_a_file_set_and_files_that_are_gone(tmp_path: Path) -> None:
    (tmp_path / "disc").mkdir()
    (tmp_path / "secret").write_bytes(write(film()))
    (tmp_path / "disc" / "img").mkdir()
    (tmp_path / "disc" / "img" / "a1").write_bytes(write(film() // 2))
    path = directory(tmp_path / "disc" / "DICOMDIR", ["..", "SECRET"], ["IMG", "A1"], "GONE")
    assert found(path) == ["unsafe_path", "scan", "unreadable"]
    assert found(directory(tmp_path / "disc" / "EMPTY")) == ["not_an_image"]


def test_a_damaged_directory_is_a_row(tmp_path: Path) -> None:
    path = directory(tmp_path / "DICOMDIR", "A")
    path.write_bytes(path.read_bytes()[:-30])
    assert set(found(path)) <= {"unreadable", "not_an_image"}


def test_a_manifest_gives_patients_and_holds_digests(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.dcm").write_bytes(write(film() // (i + 1)))
    digest = hashlib.sha256((tmp_path / "0.dcm").read_bytes()).hexdigest()
    lines = [
        "file,patient_id,sha256",
        f"0.dcm,ann,{digest.upper()}",
        f"1.dcm,bob,{digest}",
        "2.dcm,ann,",
        "gone.dcm,,",
        ",,",
    ]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    first, second, third, gone, nameless = read_scans(tmp_path / "list.csv")
    assert isinstance(first, Scan)
    assert isinstance(second, Refusal)
    assert "SHA-256 differs" in second.reason
    assert isinstance(third, Scan)
    assert first.patient == third.patient != ""
    assert "ann" not in first.patient
    assert isinstance(gone, Refusal)
    assert "does not exist" in gone.reason
    assert isinstance(nameless, Refusal)
    assert "line 6" in nameless.reason


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "", "\ufefffile\n"])
def test_manifests_that_list_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    results = list(read_scans(tmp_path / "list.csv"))
    assert all(isinstance(r, Refusal) and r.status == Status.NOT_AN_IMAGE for r in results)


def test_a_csv_in_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file\n/etc/passwd\n")
    assert found(tmp_path) == ["not_an_image"]


def test_the_real_manifest_is_a_source(medood_data: Path, tmp_path: Path) -> None:
    lines = (medood_data / "manifest.csv").read_text().splitlines()
    header = lines[0].split(",")
    column = header.index("file")
    rows = [line.split(",") for line in lines[1::1500]]
    for row in rows:
        row[column] = str(medood_data / row[column])
    (tmp_path / "some.csv").write_text("\n".join([lines[0], *(",".join(row) for row in rows)]))
    assert found(tmp_path / "some.csv") == ["scan"] * len(rows)


def test_names_that_no_file_system_takes_cost_their_own_row(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(write(film()))
    (tmp_path / "loop").symlink_to("loop")
    assert found(directory(tmp_path / "DICOMDIR", "X" * 300, "LOOP", "A")) == ["unreadable", "unreadable", "scan"]
    (tmp_path / "list.csv").write_text("file\n" + "x" * 300 + "\na\n")
    assert found(tmp_path / "list.csv") == ["unreadable", "scan"]


@pytest.mark.parametrize("bad", ["x" * 140_000, '"never closed'])
def test_a_manifest_that_cannot_be_parsed_to_its_end_says_where(tmp_path: Path, bad: str) -> None:
    (tmp_path / "a").write_bytes(write(film()))
    (tmp_path / "list.csv").write_text(f"file\na\n{bad}\na\n")
    *_, last = read_scans(tmp_path / "list.csv")
    assert isinstance(last, Refusal)
    assert "beyond line 2" in last.reason


def test_a_manifest_holds_the_digest_of_an_archive_too(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.dcm", write(film()))
    (tmp_path / "list.csv").write_text(f"file,patient_id,sha256\na.zip,ann,{'0' * 64}\n")
    assert found(tmp_path / "list.csv") == ["unreadable"]
    (tmp_path / "list.csv").write_text("file,patient_id\na.zip,ann\n")
    (scan,) = read_scans(tmp_path / "list.csv")
    assert isinstance(scan, Scan)
    assert scan.patient


def test_a_film_that_names_the_class_of_directories_is_a_film(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(write(film(), StudyDescription="1.2.840.10008.1.3.10"))
    assert found(tmp_path / "a.dcm") == ["scan"]
