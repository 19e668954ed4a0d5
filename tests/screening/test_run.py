from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pypdf import PdfReader

from medood.config.schema import ReadConfig
from medood.detection.conformal import p_values
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.progress import Progress
from medood.reporting.pdf import report
from medood.reporting.report_data import ReportOptions, make_record
from medood.screening.ledger.database import VERDICT_COLUMNS, Ledger, Row
from medood.screening.ledger.run_metadata import RunMetadata
from medood.screening.run import screen
from tests.scans.films import film, write


def verdicts(run: Path) -> list[dict[str, str]]:
    with (run / "verdicts.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((frontal_chest(seed, 64).image * 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with good files, bad files, and a zip with both."""
    root = tmp_path / "mixed"
    (root / "deep").mkdir(parents=True)
    (root / "a.png").write_bytes(png(500))
    (root / "deep" / "b.dcm").write_bytes(dicom_bytes(frontal_chest(501, 64).image, "b"))
    (root / "text.dcm").write_text("no scan")
    (root / "cut.png").write_bytes(png(502)[:300])
    (root / "empty.dcm").write_bytes(b"")
    with zipfile.ZipFile(root / "z.zip", "w") as archive:
        archive.writestr("../out.png", png(503))
        archive.writestr("in.png", png(504))
    return root


def test_every_file_is_a_row_and_bad_ones_say_why(tiny_detector: Path, mixed: Path, tmp_path: Path) -> None:
    found = screen([mixed], tiny_detector, tmp_path / "run", fpr=0.1)
    rows = verdicts(tmp_path / "run")
    assert tuple(rows[0]) == VERDICT_COLUMNS
    statuses = {(Path(row["source"]).name, row["member"]): row["status"] for row in rows}
    assert statuses == {
        ("a.png", ""): "scored",
        ("b.dcm", ""): "scored",
        ("text.dcm", ""): "not_an_image",
        ("cut.png", ""): "unreadable",
        ("empty.dcm", ""): "unreadable",
        ("z.zip", "../out.png"): "unsafe_path",
        ("z.zip", "in.png"): "scored",
    }
    assert found.scanned == 7
    assert found.refused == 4
    assert found.flagged + found.accepted == 3
    for row in rows:
        scored = row["status"] == "scored"
        assert bool(row["score"]) == bool(row["p_value"]) == scored
        assert row["decision"] in (("in_distribution", "out_of_distribution") if scored else ("",))
        assert scored or row["reason"]
    assert not (tmp_path / "out.png").exists()


def test_scores_do_not_depend_on_the_company(tiny_detector: Path, mixed: Path, tmp_path: Path) -> None:
    screen([mixed], tiny_detector, tmp_path / "all", fpr=0.1)
    screen([mixed / "a.png"], tiny_detector, tmp_path / "one", fpr=0.1)
    (one,) = verdicts(tmp_path / "one")
    (same,) = [row for row in verdicts(tmp_path / "all") if row["source"].endswith("a.png")]
    assert float(one["score"]) == pytest.approx(float(same["score"]), rel=1e-4)
    assert one["p_value"] == same["p_value"]


def test_p_values_in_the_csv_follow_from_the_scores(tiny_detector: Path, mixed: Path, tmp_path: Path) -> None:
    screen([mixed], tiny_detector, tmp_path / "run", fpr=0.1)
    calibration = Detector.load(tiny_detector).calibration.scores
    for row in verdicts(tmp_path / "run"):
        if row["status"] == "scored":
            expected = p_values(np.array([float(row["score"])]), calibration)[0]
            assert float(row["p_value"]) == pytest.approx(expected)
            assert (row["decision"] == "out_of_distribution") == (expected <= 0.1)


def test_rows_come_in_the_order_of_the_files(tiny_detector: Path, tmp_path: Path) -> None:
    root = tmp_path / "many"
    root.mkdir()
    for i in range(40):
        (root / f"{i:02d}.png").write_bytes(png(i) if i % 3 else b"no")
    screen([root], tiny_detector, tmp_path / "run", fpr=0.1)
    assert [Path(row["source"]).stem for row in verdicts(tmp_path / "run")] == [f"{i:02d}" for i in range(40)]


def test_two_runs_give_the_same_csv(tiny_detector: Path, mixed: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        screen([mixed], tiny_detector, tmp_path / name, fpr=0.1)
    assert (tmp_path / "one" / "verdicts.csv").read_bytes() == (tmp_path / "two" / "verdicts.csv").read_bytes()


def test_mistakes_are_told(tiny_detector: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedoodError, match="does not exist"):
        screen([tmp_path / "nowhere"], tiny_detector, tmp_path / "run", fpr=0.1)
    with pytest.raises(MedoodError, match="no file"):
        screen([tmp_path / "empty"], tiny_detector, tmp_path / "run", fpr=0.1)
    with pytest.raises(MedoodError, match="no rate below"):
        screen([tiny_detector], tiny_detector, tmp_path / "run", fpr=0.001)
    with pytest.raises(MedoodError, match="not a detector"):
        screen([tmp_path], tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_is_not_written_over(tiny_detector: Path, mixed: Path, tmp_path: Path) -> None:
    screen([mixed / "a.png"], tiny_detector, tmp_path / "run", fpr=0.1)
    with pytest.raises(MedoodError, match="already holds a run"):
        screen([mixed / "a.png"], tiny_detector, tmp_path / "run", fpr=0.1)


def test_the_ledger_keeps_rows_and_facts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, create=True)
    rows = [
        Row("a\nb", "m,\"'é", 2, "f" * 64, "scored", "", 1.5, 0.25, "in_distribution", {"x": [1, None]}, 0.1, 0.2),
        Row("bad\udcff", "", 0, "", "unreadable", "why"),
    ]
    ledger.add(rows[:1])
    ledger.set_metadata(fpr=0.05)
    assert list(ledger.rows()) == rows[:1]
    assert ledger.metadata() == RunMetadata(fpr=0.05)
    ledger.close()
    again = Ledger(tmp_path)
    again.write_csv(tmp_path / "v.csv")
    assert again.counts() == {("scored", "in_distribution"): 1}
    with (tmp_path / "v.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["source"] == "a\\nb", "control characters are spelled out"
    assert row["member"] == "m,\"'é"


def test_names_that_are_not_utf8_and_pictures_of_one_pixel(tiny_detector: Path, tmp_path: Path) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    (root / "bad-\udcff.png").write_bytes(png(7))
    Image.new("L", (1, 1), 9).save(root / "one.png")
    Image.new("L", (3000, 1), 9).save(root / "line.png")
    (root / "nothing.png").symlink_to(root / "gone")
    found = screen([root], tiny_detector, tmp_path / "run", fpr=0.1)
    rows = {Path(row["source"]).name: row["status"] for row in verdicts(tmp_path / "run")}
    assert rows["bad-\\udcff.png"] == "scored"
    assert rows["nothing.png"] == "unsafe_path"
    assert found.scanned == 4


def test_a_disk_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, create=True)
    ledger._database.execute("PRAGMA query_only=1")
    with pytest.raises(MedoodError, match="cannot be written"):
        ledger.add([Row("a", "", 0, "", "unreadable", "why")])


def test_a_folder_without_a_ledger_is_told(tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match="is not a run"):
        Ledger(tmp_path)


def test_what_the_selection_leaves_out_is_counted_and_copies_are_said(tiny_detector: Path, tmp_path: Path) -> None:
    root = tmp_path / "some"
    root.mkdir()
    chest = dicom_bytes(frontal_chest(700, 64).image, "a")
    (root / "a.dcm").write_bytes(chest)
    (root / "b.dcm").write_bytes(chest)
    (root / "c.dcm").write_bytes(dicom_bytes(frontal_chest(701, 64).image, "c", modality="CT"))
    (root / "d.png").write_bytes(png(702))
    read = ReadConfig(select="Modality in (CR, DX)")
    found = screen([root], tiny_detector, tmp_path / "run", fpr=0.5, read=read)
    rows = verdicts(tmp_path / "run")
    assert [row["status"] for row in rows] == ["scored", "duplicate", "not_selected", "not_selected"]
    assert rows[1]["reason"] == f"the same bytes as {root / 'a.dcm'}"
    assert (found.scanned, found.refused, found.left_out) == (4, 1, 2)
    record = make_record(
        tmp_path / "run", Detector.load(tiny_detector), tmp_path, ReportOptions(top=0), Progress(quiet=True)
    )
    assert record["summary"]["left_out"] == 2
    assert record["run"]["read"]["select"] == "Modality in (CR, DX)"
    assert [row["status"] for row in record["refused"]] == ["duplicate"]
    text = " ".join(page.extract_text() for page in PdfReader(report(tmp_path / "run", tiny_detector, top=0)).pages)
    assert "Modality in (CR, DX): 2 other objects left out" in " ".join(text.split())


def test_tar_archives_are_screened_and_shown_again(tiny_detector: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for i in range(3):
            content = dicom_bytes(frontal_chest(710 + i, 64).image, str(i))
            info = tarfile.TarInfo(f"{i}.dcm")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    screen([tmp_path / "a.tar.gz"], tiny_detector, tmp_path / "run", fpr=0.9)
    (tmp_path / "pictures").mkdir()
    record = make_record(
        tmp_path / "run", Detector.load(tiny_detector), tmp_path / "pictures", ReportOptions(top=5), Progress(quiet=True)
    )
    assert [row["member"] for row in verdicts(tmp_path / "run")] == ["0.dcm", "1.dcm", "2.dcm"]
    assert all(page["missing"] == "" for page in record["pages"])


def test_no_patient_attribute_reaches_a_row_or_a_log(
    tiny_detector: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whole and damaged files of a patient whose name and number are known, and every place where they must not turn up."""
    root = tmp_path / "some"
    root.mkdir()
    content = write(film(), PatientBirthDate="19501231", PatientAge="Secret", WindowCenter=2048, WindowWidth=4096)
    rng = np.random.default_rng(0)
    for i in range(60):
        damaged = bytearray(content)
        for place in rng.integers(128, 900, i % 6):
            damaged[place] ^= int(rng.integers(1, 256))
        (root / f"{i}.dcm").write_bytes(bytes(damaged))
    caplog.clear()  # what writing the files logged
    with caplog.at_level("DEBUG"):
        screen([root], tiny_detector, tmp_path / "run", fpr=0.5)
        report(tmp_path / "run", tiny_detector, top=3)
    told = caplog.text + "".join(capfd.readouterr())
    for path in (tmp_path / "run").iterdir():
        told += path.read_bytes().decode("latin-1")
    for secret in ("Secret", "^Name", "SECRET-ID", "19501231"):
        assert secret not in told
