"""Cleaning lists every planted issue, and the rest of a data set."""

from __future__ import annotations

import csv
import posixpath
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from medood.cli.main import app
from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.outliers import OUTLIERS
from medood.reporting.pages.cleaning import KINDS, Issue
from medood.screening.ledger.database import Row
from medood.screening.run import screen
from medood.workflows.clean import Cleaning, clean
from medood.workflows.data_set import Groups


def save(image: np.ndarray, target: Path, **options: object) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(image * 255)).save(target, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten chests in two splits, one of them three times, one upside down, and two files that cannot be read."""
    root = tmp_path_factory.mktemp("clean") / "data"
    for i in range(10):
        save(frontal_chest(i, 96).image, root / ("train" if i < 7 else "test") / f"{i}.png")
    shutil.copy(root / "train" / "0.png", root / "test" / "again.png")
    save(frontal_chest(1, 96).image, root / "test" / "smaller.jpg", quality=90)
    save(OUTLIERS["hand_like"](3, 96), root / "test" / "hand.png")
    (root / "train" / "empty.png").write_bytes(b"")
    (root / "train" / "=cmd.png").write_bytes(b"no image")
    return root


def table(folder: Path) -> Path:
    target = folder.parent / "table.csv"
    with target.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["Path", "Patient", "split"])
        for path in sorted(folder.rglob("*.*")):
            patient = "p1" if path.name in ("1.png", "smaller.jpg") else path.stem
            writer.writerow([path.relative_to(folder), patient, path.parent.name])
    return target


@pytest.fixture(scope="module")
def cleaning(folder: Path, tiny_detector: Path) -> Cleaning:
    return clean([folder], folder.parent / "out", tiny_detector, fpr=0.1, table=table(folder))


def test_each_planted_issue_is_listed_once_and_the_rest_is_clean(cleaning: Cleaning, folder: Path) -> None:
    by_kind: dict[str, list[Issue]] = {kind: [issue for issue in cleaning.issues if issue.issue == kind] for kind in KINDS}
    assert {Path(issue.file).name for issue in by_kind["unreadable"]} == {"empty.png", "=cmd.png"}
    (twin,) = by_kind["exact_duplicate"]
    assert {Path(twin.file).name, Path(twin.other).name} == {"again.png", "0.png"}
    assert twin.detail == "patients and splits"
    names = {(Path(issue.file).name, Path(issue.other).name) for issue in by_kind["near_duplicate"]}
    assert names == {("1.png", "smaller.jpg")} or names == {("smaller.jpg", "1.png")}
    assert {issue.detail for issue in by_kind["near_duplicate"]} == {"splits"}  # one patient
    flagged = {Path(issue.file).name for kind in ("fault", "outlier") for issue in by_kind[kind]}
    listed = {(issue.file, issue.member, issue.frame) for issue in cleaning.issues}
    assert listed | set(cleaning.clean) == {(str(path), "", 0) for path in folder.rglob("*.*")}
    assert not listed & set(cleaning.clean)
    assert all(Path(file).name not in flagged for file, _, _ in cleaning.clean)


def test_the_tables_hold_the_same_and_no_formula(cleaning: Cleaning, folder: Path) -> None:
    out = folder.parent / "out"
    with (out / "issues.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(cleaning.issues)
    assert [row["issue"] for row in rows] == [issue.issue for issue in cleaning.issues]
    with (out / "clean.csv").open(newline="") as stream:
        assert [row["file"] for row in csv.DictReader(stream)] == [file for file, _, _ in cleaning.clean]
    assert all(Path(file).is_absolute() for file, _, _ in cleaning.clean)


def test_the_page_shows_every_issue_and_loads_nothing(cleaning: Cleaning, folder: Path) -> None:
    page = (folder.parent / "out" / "clean.html").read_text()
    for issue in cleaning.issues:
        assert Path(issue.file).name in page
    assert "Near duplicates: 1" in page
    assert "<script" not in page
    assert "http" not in page.split("</head>")[1]


def test_the_command_goes_on_after_an_interruption_and_is_refused_when_done(
    cleaning: Cleaning, folder: Path, tiny_detector: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder.parent / "out" / "run", out / "run")  # interrupted while scans were compared
    arguments = ["clean", str(folder), "--out", str(out), "--detector", str(tiny_detector), "--fpr", "0.1"]
    result = CliRunner().invoke(app, [*arguments, "--workers", "0", "--table", str(table(folder))])
    assert result.exit_code == 0, result.output
    assert "is already finished" in result.stderr
    assert f"{len(cleaning.clean)}  without an issue" in result.stderr
    assert (out / "issues.csv").read_text() == (folder.parent / "out" / "issues.csv").read_text()
    again = CliRunner().invoke(app, arguments)
    assert "holds the issues of a data set already" in str(again.exception)


def test_a_scan_that_has_gone_since_is_not_called_clean(folder: Path, tiny_detector: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(folder / "train", data)
    screen([data], tiny_detector, out / "run", fpr=0.1)
    (data / "2.png").unlink()
    again = clean([data], out, tiny_detector, fpr=0.1)
    assert all(Path(file).name != "2.png" for file, _, _ in again.clean)
    assert "no longer where it was screened" in next(i.detail for i in again.issues if Path(i.file).name == "2.png")


def test_frames_of_one_file_are_no_duplicates(tiny_detector: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    frames = [Image.fromarray(np.uint8(frontal_chest(1, 96).image * 255))] * 3
    frames[0].save(tmp_path / "data" / "frames.tif", save_all=True, append_images=frames[1:])
    cleaning = clean([tmp_path / "data"], tmp_path / "out", tiny_detector, fpr=0.1)
    assert not [issue for issue in cleaning.issues if issue.issue == "near_duplicate"]


def test_tables_are_matched_by_the_end_of_either_path(folder: Path) -> None:
    row = Row(f"{folder}/train/1.png", "", 0, "", "scored", "")
    for name in (f"{folder}/train/1.png", "train/1.png", "./train/1.png", f"/elsewhere{folder}/train/1.png"):
        groups = Groups({posixpath.normpath(name): ("p", "train")})
        assert groups.of(row) == ("p", "train"), name
    assert Groups({"rain/1.png": ("p", "train"), "test/1.png": ("q", "test")}).of(row) is None


def test_the_output_must_not_lie_in_the_data_set(folder: Path, tiny_detector: Path) -> None:
    with pytest.raises(MedoodError, match="lies in"):
        clean([folder], folder / "out", tiny_detector, fpr=0.1)


def test_a_table_of_other_files_is_refused(folder: Path, tiny_detector: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("file,split\nelsewhere.png,train\n")
    with pytest.raises(MedoodError, match=r"knows none of the \d+ scans"):
        clean([folder], tmp_path / "out", tiny_detector, fpr=0.1, table=tmp_path / "other.csv")


def test_a_table_without_groups_is_refused(folder: Path, tiny_detector: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("file,note\na.png,1\n")
    with pytest.raises(MedoodError, match=r"bad.csv cannot be used: it has the columns file, note; expected any of"):
        clean([folder], tmp_path / "out", tiny_detector, fpr=0.1, table=tmp_path / "bad.csv")


def test_scans_with_text_are_listed_if_asked_for_and_their_text_is_not(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        save(frontal_chest(i, 600).image, tmp_path / "data" / f"{i}.png")
    image = Image.open(tmp_path / "data" / "1.png")
    ImageDraw.Draw(image).text((30, 30), "DOE^JANE 4471129", fill=255, font=ImageFont.load_default(30))
    image.save(tmp_path / "data" / "1.png")
    cleaning = clean([tmp_path / "data"], tmp_path / "out", tiny_detector, fpr=0.1, text=True)
    (issue,) = (issue for issue in cleaning.issues if issue.issue == "burned_in_text")
    assert (Path(issue.file).name, issue.detail) == ("1.png", "1")
    assert issue.file not in {file for file, _, _ in cleaning.clean}
    page = (tmp_path / "out" / "clean.html").read_text()
    assert "Text in the image: 1" in page
    assert "DOE" not in page + (tmp_path / "out" / "issues.csv").read_text()
    monkeypatch.setattr("medood.evidence.burned_in_text.is_available", lambda: False)
    with pytest.raises(MedoodError, match="extra text"):
        clean([tmp_path / "data"], tmp_path / "other", tiny_detector, fpr=0.1, text=True)
