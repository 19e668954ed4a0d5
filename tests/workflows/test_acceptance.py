"""The local acceptance test: its shares against slow counts, what it requires, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pypdf import PdfReader
from scipy.stats import norm

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from medood.screening.run import screen
from medood.workflows.acceptance import Requirement, accept
from tests.cli.test_commands import medood

RATE = 0.06


def pictures(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(np.uint8(np.clip(image, 0, 1) * 255)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def runs(tiny_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of chests that the detector does not know, and one of noise."""
    folder, rng = tmp_path_factory.mktemp("acceptance"), np.random.default_rng(0)
    normals = pictures(folder / "normals", [frontal_chest(number, 96).image for number in range(900, 924)])
    outliers = pictures(folder / "outliers", [rng.random((96, 96)) for _ in range(6)])
    for name, archive in (("own", normals), ("foreign", outliers)):
        screen([archive], tiny_detector, folder / name, fpr=RATE)
    return folder / "own", folder / "foreign"


def wilson(count: int, total: int) -> tuple[float, float]:
    """Wilson's interval by its formula."""
    z, share = norm.ppf(0.975), count / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return middle - half, middle + half


def flagged_of(run: Path) -> list[bool]:
    with (run / "verdicts.csv").open() as stream:
        return [row["decision"] == "out_of_distribution" for row in csv.DictReader(stream)]


def test_every_share_is_that_of_a_slow_count(runs: tuple[Path, Path], tiny_detector: Path) -> None:
    pdf = accept(*runs, least=0.5)
    record = json.loads(pdf.with_suffix(".json").read_text())
    lines = {line["what"]: line for line in record["requirements"]}
    for what, run in (("normals", runs[0]), ("outliers", runs[1])):
        flags = flagged_of(run)
        assert (lines[what]["count"], lines[what]["flagged"]) == (len(flags), sum(flags))
        assert np.allclose(lines[what]["interval"], wilson(sum(flags), len(flags)))
    detector, turned = Detector.load(tiny_detector), 0
    for path in sorted((runs[0].parent / "normals").iterdir()):
        (scan,) = (item for item in read_scans(path, ReadConfig()) if isinstance(item, Scan))
        image = torch.rot90(detector.prepare(scan), 1, (-2, -1))
        p_value = detector.calibration.p_values(detector.raw_scores(detector.embed(image[None])), [""])
        turned += bool(p_value[0] <= RATE)
    assert (lines["rot90"]["count"], lines["rot90"]["flagged"]) == (24, turned)
    assert lines["opacity"]["limit"] is None
    assert record["passed"] == all(line["is_met"] for line in record["requirements"])


def test_the_page_states_the_result_in_both_languages_and_attaches_it(runs: tuple[Path, Path]) -> None:
    for language, words in (
        ("en", ("Local acceptance test", "Signature")),
        ("de", ("Lokale Abnahmeprüfung", "Unterschrift")),
    ):
        pdf = accept(*runs, least=1.0, language=language)
        first = pdf.read_bytes()
        text = PdfReader(pdf).pages[0].extract_text()  # what is signed stands on the page that is signed
        assert all(word in text for word in words)
        assert list(PdfReader(pdf).attachments) == ["acceptance.json"]
        assert accept(*runs, least=1.0, language=language).read_bytes() == first


@pytest.mark.parametrize(
    ("what", "count", "flagged", "limit", "is_met"),
    [
        ("normals", 100, 5, 0.05, True),
        ("normals", 100, 9, 0.05, True),  # 4.8 % is still inside the interval
        ("normals", 100, 11, 0.05, False),
        ("outliers", 10, 9, 0.9, True),
        ("outliers", 10, 8, 0.9, False),
        ("opacity", 10, 0, None, True),
    ],
)
def test_what_meets_a_requirement(what: str, count: int, flagged: int, limit: float | None, is_met: bool) -> None:
    assert Requirement(what, count, flagged, wilson(flagged, count), limit).is_met == is_met


def test_what_is_no_acceptance_test_is_refused(
    runs: tuple[Path, Path], tiny_detector: Path, phantom_folder: Path, tmp_path: Path
) -> None:
    own, foreign = runs
    with pytest.raises(MedoodError, match="was given twice"):
        accept(own, own)
    screen([foreign.parent / "outliers"], tiny_detector, tmp_path / "rate", fpr=0.2)
    with pytest.raises(MedoodError, match="another --fpr"):
        accept(own, tmp_path / "rate")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_text("no image")
    screen([tmp_path / "none"], tiny_detector, tmp_path / "empty", fpr=RATE)
    with pytest.raises(MedoodError, match="has no scan with a score"):
        accept(own, tmp_path / "empty")
    screen([phantom_folder], tiny_detector, tmp_path / "known", fpr=RATE)
    with pytest.raises(MedoodError, match="are calibration or training scans"):
        accept(tmp_path / "known", foreign)
    screen([own.parent / "normals"], tiny_detector, tmp_path / "same", fpr=RATE)
    with pytest.raises(MedoodError, match="24 files are in both runs"):
        accept(own, tmp_path / "same")
    with pytest.raises(MedoodError, match="--least is 90"):
        accept(own, foreign, least=90)


def test_of_a_file_with_frames_the_first_counts(runs: tuple[Path, Path], tiny_detector: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    (tmp_path / "normals").mkdir()
    for number in range(3):
        chests = [Image.fromarray(np.uint8(frontal_chest(number + 950, 96).image * 255))]
        chests += [Image.fromarray(rng.integers(0, 256, (96, 96), dtype=np.uint8)) for _ in range(3)]
        chests[0].save(tmp_path / "normals" / f"{number}.tif", save_all=True, append_images=chests[1:])
    screen([tmp_path / "normals"], tiny_detector, tmp_path / "own", fpr=RATE)
    record = json.loads(accept(tmp_path / "own", runs[1]).with_suffix(".json").read_text())
    assert {line["count"] for line in record["requirements"] if line["what"] != "outliers"} == {3}
    with (tmp_path / "own" / "verdicts.csv").open() as stream:
        first = [row["decision"] == "out_of_distribution" for row in csv.DictReader(stream) if row["frame"] == "0"]
    assert record["requirements"][0]["flagged"] == sum(first)


def test_the_page_names_no_folder_and_shows_no_scan_if_it_must_not(runs: tuple[Path, Path], tiny_detector: Path) -> None:
    pdf = accept(*runs, images=False)
    assert str(tiny_detector) not in pdf.with_suffix(".json").read_text()
    assert sum(len(page.images) for page in PdfReader(pdf).pages) == 0
    pdf = accept(*runs)
    assert "burnt into the images" in " ".join(" ".join(page.extract_text() for page in PdfReader(pdf).pages).split())


def test_mistakes_of_the_command_are_said_at_once(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for arguments, words in (
        (("--acceptance", str(tmp_path / "nowhere")), "nowhere"),
        (("--acceptance", str(runs[1]), "--least", "90"), "expected a share above 0 and at most 1"),
        (("--keep-until", "soon"), "expected a day such as 2031-12-31"),
        (("--acceptance", str(runs[1]), "--keep-until", "2031-12-31"), "Leave them out"),
    ):
        result = medood("report", runs[0], *arguments, check=2)
        assert words in result.stderr
