"""A run taken apart into what was accepted and what was flagged."""

from __future__ import annotations

import csv
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medood.cli.main import app
from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.reporting.split import split
from medood.screening.ledger.database import Ledger
from medood.screening.run import screen


@pytest.fixture(scope="module")
def run(tiny_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    (folder / "in" / "ward").mkdir(parents=True)
    for number in range(6):
        (folder / "in" / "ward" / f"{number}.dcm").write_bytes(dicom_bytes(frontal_chest(number, 96).image, str(number)))
    (folder / "in" / "text.dcm").write_bytes(b"no")
    frames = [Image.fromarray((OUTLIERS["ct_like"](n, 96) * 255).astype(np.uint8)) for n in range(3)]
    frames[0].save(folder / "in" / "frames.tiff", save_all=True, append_images=frames[1:])
    with zipfile.ZipFile(folder / "in" / "a.zip", "w") as opened:
        opened.writestr("deep/x.dcm", dicom_bytes(OUTLIERS["hand_like"](1, 96), "x"))
        opened.writestr("=cmd.dcm", dicom_bytes(OUTLIERS["inverted"](2, 96), "y"))
    screen([folder / "in"], tiny_detector, folder / "run", fpr=0.5)
    return folder / "run"


def listed(folder: Path) -> dict[str, list[dict[str, str]]]:
    found = {}
    for part in ("accepted", "flagged"):
        with (folder / f"{part}.csv").open(newline="") as stream:
            found[part] = list(csv.DictReader(stream))
    return found


def test_every_file_with_a_score_is_in_one_list(run: Path, tmp_path: Path) -> None:
    found = split(run, tmp_path / "out")
    lists = listed(tmp_path / "out")
    ledger = Ledger(run)
    decisions: dict[str, set[str]] = {}
    for row in ledger.scored():
        decisions.setdefault(row.sha256, set()).add(row.decision)
    ledger.close()
    flagged = {digest for digest, made in decisions.items() if "out_of_distribution" in made}
    assert {line["sha256"] for line in lists["flagged"]} == flagged
    assert {line["sha256"] for line in lists["accepted"]} == set(decisions) - flagged
    assert found.files == {part: len(lines) for part, lines in lists.items()}
    assert sum(int(line["frames"]) for lines in lists.values() for line in lines) == 6 + 3 + 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["accepted.csv", "flagged.csv"], "nothing is copied"
    assert any(line["member"] == "'=cmd.dcm" for lines in lists.values() for line in lines)


def test_copies_lie_as_they_lay_and_are_the_same_bytes(run: Path, tmp_path: Path) -> None:
    found = split(run, tmp_path / "out", copy=True)
    assert found.left == []
    for part, lines in listed(tmp_path / "out").items():
        for line in lines:
            copied = tmp_path / "out" / line["copy"]
            assert copied.is_relative_to(tmp_path / "out" / part)
            assert hashlib.sha256(copied.read_bytes()).hexdigest() == line["sha256"]
    every = {path.relative_to(tmp_path / "out").as_posix().partition("/")[2] for path in (tmp_path / "out").rglob("*.dcm")}
    assert {"ward/0.dcm", "a.zip/deep/x.dcm", "a.zip/=cmd.dcm"} <= every


def test_no_copy_leaves_the_folder(tiny_detector: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as opened:
        opened.writestr("a/b/c.dcm", dicom_bytes(frontal_chest(1, 96).image, "x"))
    screen([tmp_path / "evil.zip"], tiny_detector, tmp_path / "run", fpr=0.5)
    ledger = Ledger(tmp_path / "run")
    for member in ("../../../evil.dcm", "/etc/evil.dcm", "..\\..\\evil.dcm", "C:\\evil.dcm", "..", ""):
        with ledger.writing():
            ledger._database.execute("UPDATE scans SET member = ?", (member,))
        folder = tmp_path / f"out-{abs(hash(member))}"
        split(tmp_path / "run", folder, copy=True)
        assert not [path for path in tmp_path.rglob("*evil.dcm") if not path.is_relative_to(folder)]
    ledger.close()


def test_odd_members_stop_nothing_and_none_is_lost(tiny_detector: Path, tmp_path: Path) -> None:
    """A file in the place of a folder, a name of dots, one of 390 bytes, and two members of one name."""
    members = ["a", "a/b.dcm", "...", "x/..", "日" * 130, "twice.dcm", "twice.dcm", "ok.dcm"]
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as opened:
        for number, member in enumerate(members):
            opened.writestr(member, dicom_bytes(frontal_chest(40 + number, 96).image, str(number)))
    screen([tmp_path / "odd.zip"], tiny_detector, tmp_path / "run", fpr=0.5)
    ledger = Ledger(tmp_path / "run")
    scored = {row.sha256 for row in ledger.scored()}
    ledger.close()
    found = split(tmp_path / "run", tmp_path / "out", copy=True)
    lines = [line for part in listed(tmp_path / "out").values() for line in part]
    assert {line["sha256"] for line in lines} == scored
    assert sum(found.files.values()) == len(lines) == len(scored)
    assert found.left == []
    assert len({line["copy"] for line in lines}) == len(lines)
    for line in lines:
        assert hashlib.sha256((tmp_path / "out" / line["copy"]).read_bytes()).hexdigest() == line["sha256"]


def test_a_run_of_the_folder_one_is_in_keeps_its_folders(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        (tmp_path / "in" / f"ward{number}").mkdir(parents=True)
        (tmp_path / "in" / f"ward{number}" / "f.dcm").write_bytes(dicom_bytes(frontal_chest(number, 96).image, str(number)))
    monkeypatch.chdir(tmp_path / "in")
    for root in (".", "./"):
        folder = tmp_path / f"run{len(root)}"
        screen([root], tiny_detector, folder, fpr=0.5)
        split(folder, folder / "files", copy=True)
        copies = {line["copy"].partition("/")[2] for part in listed(folder / "files").values() for line in part}
        assert copies == {"ward0/f.dcm", "ward1/f.dcm"}


def test_what_is_gone_or_changed_is_said(tiny_detector: Path, tmp_path: Path) -> None:
    for name in ("gone.dcm", "changed.dcm"):
        (tmp_path / name).write_bytes(dicom_bytes(frontal_chest(len(name), 96).image, name))
    screen([tmp_path / "gone.dcm", tmp_path / "changed.dcm"], tiny_detector, tmp_path / "run", fpr=0.5)
    (tmp_path / "gone.dcm").unlink()
    (tmp_path / "changed.dcm").write_bytes(dicom_bytes(frontal_chest(99, 96).image, "z"))
    done = CliRunner().invoke(app, ["split", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--copy"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "out")
    assert "gone.dcm: the file is no longer" in done.stderr
    assert "changed.dcm: the file has changed" in done.stderr
    assert all(line["copy"] == "" for lines in listed(tmp_path / "out").values() for line in lines)


def test_a_folder_that_is_there_and_an_unfinished_run_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match="is there already"):
        split(run, tmp_path)
    with pytest.raises(MedoodError, match="is not a run"):
        split(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()
