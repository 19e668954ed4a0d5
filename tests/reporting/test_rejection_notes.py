"""Rejection notes name what is to be hidden, and never what could be disease."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import highdicom as hd
import pydicom
import pytest
from pydicom.uid import KeyObjectSelectionDocumentStorage
from typer.testing import CliRunner

from medood.cli.main import app
from medood.config.schema import ReadConfig
from medood.errors import MedoodError
from medood.evidence.fault_codes import check_rejectable
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.reporting.dicom_objects import encapsulated, write_dicom
from medood.reporting.rejection_notes import write_notes
from medood.reporting.review import run_name
from medood.screening.ledger.database import Ledger, Row
from medood.screening.run import screen

VALIDATOR = Path(sys.executable).parent / "dciodvfy"


def changed(content: bytes, **values: object) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(content))
    for name, value in values.items():
        setattr(dataset, name, value)
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def run(tiny_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five flagged scans: two of one study, one of another patient in that study, one of no study, one that may be ill."""
    folder = tmp_path_factory.mktemp("notes")
    films = {name: dicom_bytes(OUTLIERS["inverted"](seed, 96), name) for seed, name in enumerate(("a", "b", "c", "d", "e"))}
    study, patient = (pydicom.dcmread(io.BytesIO(films["a"]))[name].value for name in ("StudyInstanceUID", "PatientID"))
    films["b"] = changed(films["b"], StudyInstanceUID=study, PatientID=patient)
    films["c"] = changed(films["c"], StudyInstanceUID=study)
    films["d"] = changed(films["d"], StudyInstanceUID="")
    with zipfile.ZipFile(folder / "archive.zip", "w") as opened:
        for name, content in films.items():
            opened.writestr(f"{name}.dcm", content)
    screen([folder / "archive.zip"], tiny_detector, folder / "run", fpr=0.99)
    ledger = Ledger(folder / "run")
    with ledger.writing():
        ledger._database.execute(
            "UPDATE scans SET decision = 'out_of_distribution', "
            "finding = CASE member WHEN 'e.dcm' THEN 'local_abnormality' ELSE 'inverted' END"
        )
    ledger.close()
    return folder / "run"


def rows_of(run: Path) -> dict[str, Row]:
    ledger = Ledger(run)
    try:
        return {row.member: row for row in ledger.flagged()}
    finally:
        ledger.close()


def review_of(run: Path, verdicts: dict[str, str], target: Path) -> Path:
    metadata = Ledger.read_metadata(run)
    rows = rows_of(run)
    entries = [{"key": rows[name].key, "verdict": verdict, "note": ""} for name, verdict in verdicts.items()]
    target.write_text(json.dumps({"medood_review": 1, "run": run_name(metadata), "reviewer": "R", "reviews": entries}))
    return target


def test_each_study_and_patient_gets_one_note_with_title_reason_and_objects(run: Path, tmp_path: Path) -> None:
    notes = write_notes(run, tmp_path, ["inverted"])
    assert notes.scans == 3
    assert [(row.member, reason) for row, reason in notes.left_out] == [
        ("d.dcm", "the file has no StudyInstanceUID, which a DICOM object must refer to")
    ]
    made = [pydicom.dcmread(tmp_path / name) for name in notes.files]
    assert sorted(len(note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence) for note in made) == [1, 2]
    for note in made:
        assert note.SOPClassUID == KeyObjectSelectionDocumentStorage
        assert note.ConceptNameCodeSequence[0].CodeValue == "113001"
        modifier = note.ContentSequence[0]
        assert modifier.ConceptNameCodeSequence[0].CodeValue == "113011"
        assert modifier.ConceptCodeSequence[0].CodeMeaning == "Inappropriate image processing"
    assert len({note.PatientID for note in made}) == 2
    assert len({note.StudyInstanceUID for note in made}) == 1


def test_no_abnormality_is_rejected_whoever_agrees(run: Path, tmp_path: Path) -> None:
    agreed = review_of(run, {"e.dcm": "agree"}, tmp_path / "yes.json")
    for review in (None, agreed):
        with pytest.raises(MedoodError, match="may be disease"):
            write_notes(run, tmp_path / "out", ["inverted", "local_abnormality"], review=review)


def test_with_a_review_only_what_it_agrees_about_is_named(run: Path, tmp_path: Path) -> None:
    review = review_of(run, {"a.dcm": "agree", "b.dcm": "disagree"}, tmp_path / "review.json")
    assert write_notes(run, tmp_path / "out", ["inverted"], review=review).scans == 1


@pytest.fixture
def odd_run(tiny_detector: Path, tmp_path: Path) -> Path:
    """Two contents under one UID, an object of which one of three frames was read, and a UID that is a list."""
    twins = [dicom_bytes(OUTLIERS["inverted"](seed, 96), "twin") for seed in range(2)]
    frames = pydicom.dcmread(io.BytesIO(dicom_bytes(OUTLIERS["inverted"](5, 96), "frames")))
    frames.NumberOfFrames, frames.PixelData = 3, frames.PixelData * 3
    stream = io.BytesIO()
    frames.save_as(stream)
    several = changed(dicom_bytes(OUTLIERS["inverted"](7, 96), "list"), StudyInstanceUID=["1.2.3", "1.2.4"])
    contents = {"twin0": twins[0], "twin1": twins[1], "frames": stream.getvalue(), "list": several}
    uid = pydicom.dcmread(io.BytesIO(twins[0])).SOPInstanceUID
    contents["twin1"] = changed(twins[1], SOPInstanceUID=uid)
    (tmp_path / "odd").mkdir()
    for name, content in contents.items():
        (tmp_path / "odd" / f"{name}.dcm").write_bytes(content)
    read = ReadConfig(frames="first")
    screen([tmp_path / "odd"], tiny_detector, tmp_path / "run", fpr=0.99, read=read)
    ledger = Ledger(tmp_path / "run")
    with ledger.writing():
        ledger._database.execute("UPDATE scans SET decision = 'out_of_distribution', finding = 'inverted'")
    ledger.close()
    return tmp_path / "run"


def test_what_a_note_cannot_name_alone_is_left_out(odd_run: Path, tmp_path: Path) -> None:
    notes = write_notes(odd_run, tmp_path / "notes", ["inverted"])
    reasons = {Path(row.source).stem: reason for row, reason in notes.left_out}
    assert notes.scans == 0
    assert "same SOP Instance UID" in reasons["twin0"]
    assert reasons["twin1"] == reasons["twin0"]
    assert "only 1 of the object's 3 frames" in reasons["frames"]
    assert "a required attribute is unusable" in reasons["list"]


def test_a_rejection_is_taken_back_by_a_note_of_its_own(run: Path, tmp_path: Path) -> None:
    rejected, restored = (
        write_notes(run, tmp_path / str(restore), ["inverted"], restore=restore) for restore in (False, True)
    )
    assert not set(rejected.files) & set(restored.files)
    note = hd.ko.KeyObjectSelectionDocument.from_dataset(pydicom.dcmread(tmp_path / "True" / restored.files[0]))
    assert note.ConceptNameCodeSequence[0].CodeValue == "REVOKE_REJECTION"
    assert note.ConceptNameCodeSequence[0].CodingSchemeDesignator == "99DCM4CHEE"


def test_rejecting_again_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    first, again = (write_notes(run, tmp_path / name, ["inverted"]) for name in ("a", "b"))
    assert first.files == again.files
    for name in first.files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_folder_with_other_notes_is_not_written_to(run: Path, tmp_path: Path) -> None:
    write_notes(run, tmp_path, ["inverted"])
    with pytest.raises(MedoodError, match=r"holds 2 other objects, such as .*another folder with --out"):
        write_notes(run, tmp_path, ["mirrored"])


def test_what_has_changed_since_is_left_out(run: Path, tmp_path: Path) -> None:
    ledger = Ledger(run)
    row = rows_of(run)["a.dcm"]
    with ledger.writing():
        ledger._database.execute("UPDATE scans SET sha256 = 'another' WHERE member = 'a.dcm'")
    try:
        reasons = {left.member: reason for left, reason in write_notes(run, tmp_path / "out", ["inverted"]).left_out}
        assert reasons["a.dcm"] == "the file has changed since it was screened"
    finally:
        with ledger.writing():
            ledger._database.execute("UPDATE scans SET sha256 = ? WHERE member = 'a.dcm'", (row.sha256,))
        ledger.close()


def test_the_command_says_what_it_wrote_and_what_not(run: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["dicom", str(run), "--out", str(tmp_path), "--reject", "inverted"])
    assert told.exit_code == 0
    assert "2 notes that reject 3 scans" in told.stderr
    assert "no note for 1 of the flagged scans" in " ".join(told.stderr.split())
    unknown = CliRunner().invoke(app, ["dicom", str(run), "--reject", "ugly"])
    assert "--reject is 'ugly'; expected one of rotated_90_cw" in str(unknown.exception)
    with pytest.raises(MedoodError, match="may be disease"):
        check_rejectable(["global_abnormality"])


def test_the_validator_finds_no_error_in_any_object(run: Path, tmp_path: Path) -> None:
    write_notes(run, tmp_path / "rejected", ["inverted"])
    write_notes(run, tmp_path / "restored", ["inverted"], restore=True)
    write_dicom(run, tmp_path / "dicom")
    encapsulated(b"%PDF-1.4", Ledger.read_metadata(run)).save_as(tmp_path / "report.dcm", enforce_file_format=True)
    paths = sorted(tmp_path.rglob("*.dcm"))
    assert len(paths) > 8
    for path in paths:
        ended = subprocess.run([VALIDATOR, path], capture_output=True, text=True, check=False)
        errors = [line for line in (ended.stdout + ended.stderr).splitlines() if line.startswith("Error")]
        assert not errors, (path.name, pydicom.dcmread(path, stop_before_pixels=True).SOPClassUID.name, errors)


def test_a_folder_without_dicom_objects_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(b"no object")
    result = CliRunner().invoke(app, ["push", str(tmp_path), "--to", "dicomweb+http://127.0.0.1:9/dicom-web"])
    assert "holds no DICOM object" in str(result.exception)
