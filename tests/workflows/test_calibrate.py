"""A detector calibrated anew: strata, refusals, and runs decided with it."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread

from medood.cli.screen import calibration_advice
from medood.config import resources
from medood.detection.calibration import Calibration
from medood.detection.conformal import p_values
from medood.detection.detector import Detector
from medood.detection.distribution_tests import Shift
from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.progress import Progress
from medood.reporting.sentences import run_sentences
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from medood.screening.ledger.database import Ledger
from medood.screening.ledger.run_metadata import ArchiveFindings
from medood.screening.run import screen
from medood.workflows.calibrate import calibrate
from medood.workflows.calibration_check import tail_test
from tests.cli.test_commands import medood

HASHES = torch.zeros(0, 32, dtype=torch.uint8)


@pytest.fixture
def detector(tiny_detector: Path, tmp_path: Path) -> Path:
    parts = shutil.ignore_patterns("cache", "checkpoints", "tensorboard")
    return Path(shutil.copytree(tiny_detector, tmp_path / "detector", ignore=parts))


def films(folder: Path, counts: dict[str, int], first: int = 700, date: str = "") -> Path:
    """Phantom chests as DICOM, by manufacturer."""
    folder.mkdir()
    for maker, count in counts.items():
        for number in range(count):
            name = f"{maker or 'none'}-{number:02d}"
            path = folder / f"{name}.dcm"
            path.write_bytes(dicom_bytes(frontal_chest(first + number, 64).image, name + str(first)))
            dataset = dcmread(path)
            dataset.Manufacturer = maker
            if date:
                dataset.StudyDate = f"{date[:4]}{number % 12 + 1:02d}15"
            dataset.save_as(path)
    return folder


def scored(run: Path) -> list[dict[str, str]]:
    with (run / "verdicts.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["status"] == "scored"]


def test_a_calibration_by_stratum_judges_each_scan_within_its_own(detector: Path, tmp_path: Path) -> None:
    before = (detector / "detector.json").read_bytes()
    made = calibrate(detector, films(tmp_path / "here", {"Acme": 20, "Beta": 24}), "here", by=["Manufacturer"])
    assert made.counts() == {"Beta": 24, "Acme": 20}
    assert (detector / "detector.json").read_bytes() == before
    assert len(Detector.load(detector).calibration.scores) == 16, "the old calibration stays the default"

    source = films(tmp_path / "new", {"Acme": 3, "Beta": 3, "Gamma": 2}, first=800)
    screen([source], detector, tmp_path / "run", fpr=0.1, calibration="here")
    ledger = Ledger(tmp_path / "run")
    rows, metadata = list(ledger.scored()), ledger.metadata()
    ledger.close()
    assert asdict(metadata.calibration) == made.to_dict()
    assert metadata.threshold is None
    assert len(rows) == 8
    for row in rows:
        score = np.array([row.score])
        own = [p_values(score, made.scores_of(name))[0] for name in ("Acme", "Beta")]
        maker = Path(row.source).name.split("-")[0]
        assert row.metadata["stratum"] == maker
        assert row.p_value == {"Acme": own[0], "Beta": own[1], "Gamma": max(own)}[maker]
        assert ("no calibration scans in its stratum (Gamma)" in row.reason) == (maker == "Gamma")


def test_strata_with_too_few_scans_are_refused_with_their_names(detector: Path, tmp_path: Path) -> None:
    source = films(tmp_path / "here", {"Acme": 20, "Beta": 3, "": 2})
    with pytest.raises(MedoodError, match=r"0\.05, which needs 19: Beta: 3; not stated: 2"):
        calibrate(detector, source, "here", by=["Manufacturer"])
    assert calibrate(detector, source, "all").counts() == {"": 25}
    assert not (detector / "calibrations" / "here.json").exists()


def test_what_a_calibration_refuses(detector: Path, phantom_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match=r"of the 40 scans in .*, 24 were used to train the detector \(same SHA-256\)"):
        calibrate(detector, phantom_folder, "same")
    with pytest.raises(MedoodError, match="already has a calibration 'training'"):
        calibrate(detector, phantom_folder, "training")
    with pytest.raises(MedoodError, match="expected up to 64 letters"):
        calibrate(detector, phantom_folder, "../out")
    with pytest.raises(MedoodError, match="--by names 'PatientName'"):
        calibrate(detector, phantom_folder, "x", by=["PatientName"])
    with pytest.raises(MedoodError, match="does not exist"):
        calibrate(detector, tmp_path / "nowhere", "x")
    with pytest.raises(MedoodError, match=r"no scan in .* has these attributes"):
        calibrate(detector, films(tmp_path / "unnamed", {"": 20}), "x", by=["Manufacturer"])
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no scan")
    with pytest.raises(MedoodError, match=r"no scan was found in .* not_an_image"):
        calibrate(detector, tmp_path / "texts", "x")
    with pytest.raises(MedoodError, match="no calibration 'other'; it has: training"):
        screen([phantom_folder], detector, tmp_path / "run", calibration="other")


@pytest.mark.parametrize("part", ["here.json", "here.safetensors"])
def test_a_changed_calibration_is_refused(detector: Path, tmp_path: Path, part: str) -> None:
    calibrate(detector, films(tmp_path / "here", {"Acme": 20}), "here")
    path = detector / "calibrations" / part
    content = bytearray(path.read_bytes())
    place = content.rindex(b".") + 2 if part.endswith("json") else len(content) - 3
    content[place] = ord("1") if content[place] != ord("1") else ord("2")
    path.write_bytes(bytes(content))
    with pytest.raises(MedoodError, match="changed after"):
        Detector.load(detector, "here")


def test_a_calibration_of_another_detector_is_refused(detector: Path, tmp_path: Path) -> None:
    made = Calibration("theirs", np.arange(5.0), torch.zeros(5, 32), HASHES, "")
    made.save(detector / "calibrations", "0" * 64)
    with pytest.raises(MedoodError, match="made for another detector"):
        Detector.load(detector, "theirs")


def test_a_score_that_is_not_finite_survives_saving(detector: Path) -> None:
    sha256 = Detector.load(detector).sha256
    made = Calibration("odd", np.array([1.0, np.inf]), torch.zeros(2, 32), torch.zeros((2, 32), dtype=torch.uint8), "").save(
        detector / "calibrations", sha256
    )
    loaded = Detector.load(detector, "odd").calibration
    assert loaded.sha256 == made.sha256
    np.testing.assert_array_equal(loaded.scores, [1.0, np.inf])


def test_the_command_and_the_report_name_the_calibration(detector: Path, tmp_path: Path) -> None:
    source = films(tmp_path / "here", {"Acme": 20, "Beta": 20}, date="2025")
    told = medood("calibrate", detector, "--data", source, "--name", "here", "--by", "Manufacturer")
    assert "Acme: 20 scans; at --fpr 0.05 the true rate lies between 0.26% and 13.91%" in told.stderr + told.stdout
    new = films(tmp_path / "new", {"Acme": 24}, first=800, date="2026")
    run = tmp_path / "run"
    told = medood("screen", new, "--detector", detector, "--out", run, "--calibration", "here")
    assert "calibration 'here' of 40 scans" in told.stderr + told.stdout
    assert "the archive as a whole" in told.stderr + told.stdout
    medood("report", run, "--top", "1")
    record = json.loads((run / "record.json").read_text())
    assert record["run"]["calibration"]["strata"] == {"Acme": 20, "Beta": 20}
    assert record["run"]["whole"]["drift"]["scans"] == 24
    assert "2026" not in json.dumps(record["flagged"] + record["pages"]).replace(str(new), "")
    both = medood("screen", new, "--detector", detector, "--out", tmp_path / "b", "--fpr", "0.1", "--fdr", "0.1", check=2)
    assert "--fpr and --fdr were both given" in both.stderr


def test_a_false_discovery_rate_decides_over_the_archive(detector: Path, tmp_path: Path) -> None:
    source = films(tmp_path / "new", {"Acme": 12}, first=900)
    for number in range(8):
        image = np.random.default_rng(number).random((64, 64)).astype(np.float32)
        (source / f"noise-{number}.dcm").write_bytes(dicom_bytes(image, f"noise-{number}"))
    screen([source], detector, tmp_path / "run", fdr=0.3)
    rows = scored(tmp_path / "run")
    p = np.array([float(row["p_value"]) for row in rows])
    ordered = np.sort(p)
    passing = np.nonzero(ordered <= np.arange(1, len(p) + 1) * 0.3 / len(p) + 1e-12)[0]
    limit = ordered[passing[-1]] if len(passing) else 0.0
    metadata = Ledger.read_metadata(tmp_path / "run")
    assert metadata.limit == limit
    assert metadata.fpr is None
    for row in rows:
        flagged = float(row["p_value"]) <= limit
        assert row["decision"] == ("out_of_distribution" if flagged else "in_distribution")
        assert ("false-discovery rate of 0.3 over 20 scans" in row["reason"]) == flagged
    told = medood("screen", source, "--detector", detector, "--out", tmp_path / "strict", "--fdr", "0.01")
    assert "with 16 calibration scans nothing can be flagged among 20 scans" in told.stdout + told.stderr
    assert "calibration 'training' of 16 scans" in told.stdout + told.stderr
    assert {row["decision"] for row in scored(tmp_path / "strict")} == {"in_distribution"}
    medood("report", tmp_path / "strict")


def test_scans_that_were_learned_from_are_refused_under_another_compression_too(detector: Path, tmp_path: Path) -> None:
    known = {bytes(row).hex() for row in Detector.load(detector).learned.keys.numpy()}
    (tmp_path / "again").mkdir()
    phantoms = Path(tmp_path / "phantoms")
    phantoms.mkdir()
    for seed in range(3):
        (phantoms / f"{seed}.dcm").write_bytes(dicom_bytes(frontal_chest(seed, 96).image, f"train-{seed:05d}"))
    for scan in read_scans(phantoms):
        assert isinstance(scan, Scan)
        grey = Image.fromarray(np.rint(scan.pixels[0] * 255).astype(np.uint8))
        if scan.identity.sha256 in known:
            grey.save(tmp_path / "again" / f"{Path(scan.identity.source).stem}.png")
    count = len(list((tmp_path / "again").iterdir()))
    assert count
    with pytest.raises(MedoodError, match=f"{count} are near-duplicates of such scans"):
        calibrate(detector, tmp_path / "again", "again")


def test_a_false_discovery_rate_keeps_the_note_on_strata_that_were_not_calibrated(detector: Path, tmp_path: Path) -> None:
    calibrate(detector, films(tmp_path / "here", {"Acme": 20, "Beta": 25}), "here", by=["Manufacturer"])
    source = films(tmp_path / "new", {"Acme": 2, "Gamma": 3}, first=800)
    said = medood(
        "screen", source, "--detector", detector, "--out", tmp_path / "run", "--fdr", "0.1", "--calibration", "here"
    ).stderr
    assert "with 25 calibration scans in the largest stratum, at least 2 of 5 scans" in said
    noted = [
        row["source"] for row in scored(tmp_path / "run") if "no calibration scans in its stratum (Gamma)" in row["reason"]
    ]
    assert len(noted) == 3
    assert "3 scans belong to a stratum (Manufacturer) that was not calibrated" in said
    assert all("Gamma" in source for source in noted)


def test_a_shipped_detector_is_calibrated_as_a_copy(detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(detector, tmp_path / "package" / "some-name")
    monkeypatch.setattr(resources, "_DETECTORS", tmp_path / "package")
    before = sorted(path.read_bytes() for path in (tmp_path / "package").rglob("*.*"))
    data = films(tmp_path / "data", {"A": 25})
    with pytest.raises(MedoodError, match="Add --to FOLDER"):
        calibrate("some-name", data, "own")
    with pytest.raises(MedoodError, match="already exists"):
        calibrate("some-name", data, "own", to=tmp_path)
    calibrate("some-name", data, "own", to=tmp_path / "mine")
    assert sorted(path.read_bytes() for path in (tmp_path / "package").rglob("*.*")) == before
    assert Detector.load(tmp_path / "mine", "own").sha256 == Detector.load("some-name").sha256
    assert len(Detector.load(tmp_path / "mine", "own").calibration.scores) == 25
    assert len(Detector.load(tmp_path / "mine").calibration.scores) == 16
    assert not (tmp_path / "mine" / "cache").exists()
    card = tmp_path / "package" / "some-name" / "README.md"
    assert (tmp_path / "mine" / "README.md").read_bytes() == card.read_bytes()
    with pytest.raises(MedoodError, match="shipped detectors: some-name"):
        Detector.load("another-name")


def test_calibrate_says_how_many_lie_far_out_and_shows_them(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = films(tmp_path / "here", {"Acme": 22})
    for number in range(3):
        (source / f"stranger{number}.dcm").write_bytes(dicom_bytes(OUTLIERS["hand_like"](number, 64), f"s{number}"))
    made = calibrate(detector, source, "here", sheet=tmp_path / "look" / "sheet.png", progress=Progress())
    own = Detector.load(detector).calibration.scores
    far = int((made.scores > own.max()).sum())
    assert far >= 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{far} of 25 scans lie farther out than 94.1% of the detector's own calibration scans" in said
    assert "confirm that all belong" in said
    assert "Faults planted in these scans that are found at 0.05, before -> after calibration: rot90" in said
    assert "Fewer than 100 patients" in said, "each synthetic file has a patient of its own"
    page = (tmp_path / "look" / "sheet.md").read_text()
    assert page.count("/here/") >= 10
    assert "| opacity |" in page
    with (tmp_path / "look" / "sheet.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 25
    assert [float(row["score"]) for row in rows] == sorted((float(row["score"]) for row in rows), reverse=True)
    assert {row["source"] for row in rows} == {str(path) for path in source.iterdir()}
    for row in rows:
        assert float(row["p_value"]) == pytest.approx(p_values(np.array([float(row["score"])]), own)[0], abs=1e-4)
    sheet = Image.open(tmp_path / "look" / "sheet.png")
    assert sheet.mode == "L"
    assert sheet.width > 8 * 160
    assert np.asarray(sheet).std() > 20
    assert not list(detector.rglob("*.png")), "the detector's folder holds no image"


def test_screening_calibration_or_training_scans_is_told(
    detector: Path, phantom_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = films(tmp_path / "here", {"Acme": 20})
    made = calibrate(detector, source, "here")
    assert made.keys.shape == (20, 32)
    again = Detector.load(detector, "here").calibration
    assert torch.equal(again.keys, made.keys)
    mixed = films(tmp_path / "mixed", {"Beta": 5}, first=900)
    for path in sorted(source.iterdir())[:4]:
        shutil.copy(path, mixed / f"renamed-{path.name}")
    screen([mixed], detector, tmp_path / "run", fpr=0.1, calibration="here", progress=Progress())
    assert "calibrations of this detector: training, here (used)" in " ".join(capsys.readouterr().err.split())
    metadata = Ledger.read_metadata(tmp_path / "run")
    assert metadata.seen_before == {"calibration": 4, "training": 0}
    said = run_sentences(metadata)
    assert any(sentence.startswith("calibration scans among the screened files (same SHA-256): 4;") for sentence in said)
    screen([phantom_folder], detector, tmp_path / "learned", fpr=0.1)
    metadata = Ledger.read_metadata(tmp_path / "learned")
    assert metadata.seen_before == {"calibration": 16, "training": 24}
    assert any(
        "training scans of the detector among the screened files (same SHA-256): 24" in sentence
        for sentence in run_sentences(metadata)
    )


def test_a_calibration_of_an_earlier_version_has_no_keys_and_still_decides(detector: Path, tmp_path: Path) -> None:
    before = Detector.load(detector)
    older = replace(before.calibration, keys=torch.zeros((0, 32), dtype=torch.uint8))
    older.save(detector / "calibrations", before.sha256)
    again = Detector.load(detector)
    assert len(again.calibration.keys) == 0
    np.testing.assert_array_equal(again.calibration.scores, before.calibration.scores)
    screen([films(tmp_path / "new", {"Acme": 2}, first=950)], detector, tmp_path / "run", fpr=0.1)
    assert Ledger.read_metadata(tmp_path / "run").seen_before["calibration"] == 0


def test_a_sheet_that_cannot_be_written_is_told_before_anything_is_scored(detector: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    for sheet in ("file/x.png", "folder.png", "all.csv"):
        with pytest.raises(MedoodError, match="--sheet"):
            calibrate(detector, tmp_path / "nowhere", "here", sheet=tmp_path / sheet)
    assert not (detector / "calibrations" / "here.json").exists()


def test_the_detector_may_be_the_folder_one_is_in(detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = films(tmp_path / "here", {"Acme": 20})
    monkeypatch.chdir(detector)
    medood("calibrate", ".", "--data", source, "--name", "here")
    assert (tmp_path / "detector-here.png").is_file()


def test_the_command_puts_the_sheet_beside_the_detector(detector: Path, tmp_path: Path) -> None:
    source = films(tmp_path / "here", {"Acme": 20})
    done = medood("calibrate", detector, "--data", source, "--name", "here", "--to", tmp_path / "copy")
    assert (tmp_path / "copy-here.png").is_file()
    assert (tmp_path / "copy-here.csv").is_file()
    assert str(tmp_path / "copy-here.png") in done.stderr
    assert not list((tmp_path / "copy").rglob("*.png"))


def test_scans_are_left_out_by_their_digests_and_refused_files_are_named(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = films(tmp_path / "here", {"Acme": 22})
    (source / "cut.dcm").write_bytes((source / "Acme-00.dcm").read_bytes()[:900])
    everything = calibrate(detector, source, "all", sheet=tmp_path / "all.png", progress=Progress())
    assert "cut.dcm: the file is cut" in " ".join(capsys.readouterr().err.split())
    assert "cut.dcm: the file is cut" in (tmp_path / "all.md").read_text()
    with (tmp_path / "all.csv").open(newline="") as stream:
        highest = [row["sha256"] for row in csv.DictReader(stream)][:2]
    (tmp_path / "lines.txt").write_text("\n".join(highest))
    (tmp_path / "table.csv").write_text("rank,sha256\n" + "".join(f"{i},{digest}\n" for i, digest in enumerate(highest)))
    for number, name in enumerate(("lines.txt", "table.csv")):
        fewer = calibrate(detector, source, f"fewer{number}", exclude=tmp_path / name)
        assert len(fewer.scores) == len(everything.scores) - 2
        assert fewer.left_out is not None
        assert fewer.left_out["excluded"] == 2
        assert sorted(fewer.scores) == sorted(everything.scores)[:-2]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds None"), ("abc", "column"), ("a" * 63 + "z", "64 hexadecimal"), ("g" * 64, "64 hexadecimal")],
)
def test_mistakes_in_a_list_of_scans_to_leave_out(detector: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(MedoodError, match=message):
        calibrate(detector, tmp_path, "x", exclude=tmp_path / "list")
    with pytest.raises(MedoodError, match="cannot be read"):
        calibrate(detector, tmp_path, "x", exclude=tmp_path / "none")


def test_the_tail_test_finds_outliers_and_is_quiet_without() -> None:
    rng = np.random.default_rng(0)
    own = rng.gamma(4.0, 1.0, 851)
    alarms = [tail_test(10 + 3 * rng.gamma(4.0, 1.0, 100), own).heavy for _ in range(400)]
    assert np.mean(alarms) < 0.03, "a site whose scores are shifted and wider, without outliers"
    found = [tail_test(np.r_[rng.gamma(4.0, 1.0, 95), rng.gamma(4.0, 1.0, 5) + 12], own).heavy for _ in range(100)]
    assert np.mean(found) > 0.95, "5 of 100"
    assert not tail_test(np.ones(3), own).heavy
    assert not tail_test(np.ones(100), own).heavy


def test_an_archive_unlike_the_calibration_names_the_command_to_run(detector: Path, tmp_path: Path) -> None:
    screen([films(tmp_path / "new", {"Acme": 3})], detector, tmp_path / "run", fpr=0.1)
    metadata = Ledger.read_metadata(tmp_path / "run")
    for p_value, detector_folder, expected in (
        (0.001, str(detector), f"medood calibrate {detector} --data SCANS_THAT_BELONG --name NAME"),
        (0.001, "cxr-small", "--name NAME --to NEW_FOLDER"),
        (0.5, str(detector), ""),
    ):
        archive = ArchiveFindings(Shift(0.1, p_value, 100, 100))
        told = calibration_advice(
            replace(metadata, archive=archive, detector=replace(metadata.detector, folder=detector_folder))
        )
        assert told.endswith(expected)
        assert bool(told) == bool(expected)
