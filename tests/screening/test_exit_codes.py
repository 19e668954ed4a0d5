"""How a run ends: its exit code, and what a command that fails leaves behind."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from medood.errors import BusyError, MedoodError
from medood.output_folder import new_folder
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.screening.ledger.database import Ledger
from medood.screening.merge import merge
from medood.screening.run import screen
from medood.screening.run_options import RunOptions
from tests.cli.test_commands import medood


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two radiographs and a text file, an archive that is cut, and a folder of text alone."""
    folder = tmp_path_factory.mktemp("endings")
    for name in ("films", "texts"):
        (folder / name).mkdir()
        (folder / name / "note.dcm").write_bytes(b"no radiograph among " + name.encode())
    for number in range(2):
        (folder / "films" / f"{number}.dcm").write_bytes(dicom_bytes(frontal_chest(number, 96).image, str(number)))
    with zipfile.ZipFile(folder / "whole.zip", "w") as opened:
        opened.writestr("x.dcm", dicom_bytes(frontal_chest(7, 96).image, "x"))
    content = (folder / "whole.zip").read_bytes()
    (folder / "cut.zip").write_bytes(content[: len(content) // 2])
    return folder


@pytest.mark.parametrize(
    ("sources", "code", "said"),
    [
        (["films"], 0, ""),
        (["whole.zip"], 0, ""),
        (["films", "cut.zip"], 4, "cut.zip could not be read, or not to the end; verdicts.csv says why."),
        (["films", "texts/note.dcm"], 4, "note.dcm could not be read"),
        (["texts"], 4, "No scan got a score; verdicts.csv gives the reason for each file."),
    ],
)
def test_the_exit_code_says_whether_all_that_was_named_was_read(
    tiny_detector: Path, scans: Path, tmp_path: Path, sources: list[str], code: int, said: str
) -> None:
    named = [scans / name for name in sources]
    arguments = ("--detector", tiny_detector, "--out", tmp_path / "run", "--fpr", "0.2", "--workers", "0")
    done = medood("screen", *named, *arguments, check=code)
    assert said in done.stderr
    assert done.stdout.strip() == str(tmp_path / "run" / "verdicts.csv"), "the verdicts are there all the same"
    again = medood("screen", *named, *arguments, "--resume", check=code)
    assert said in again.stderr


def test_a_run_that_cannot_begin_leaves_no_folder(
    tiny_detector: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MedoodError("no scheduler answers")

    monkeypatch.setattr("medood.screening.run.make_engine", refuse)
    with pytest.raises(MedoodError, match="no scheduler"):
        screen([scans / "films"], tiny_detector, tmp_path / "run", fpr=0.2)
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(MedoodError, match="no scheduler"):
        screen([scans / "films"], tiny_detector, tmp_path / "mine", fpr=0.2)
    assert (tmp_path / "mine" / "notes.txt").exists(), "a folder that was there stays"


def test_what_a_run_has_written_stays_when_it_fails_later(
    tiny_detector: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MedoodError("the disk is full")

    monkeypatch.setattr("medood.screening.run.finalize", fail)
    with pytest.raises(MedoodError, match="disk is full"):
        screen([scans / "films"], tiny_detector, tmp_path / "run", fpr=0.2)
    ledger = Ledger(tmp_path / "run")
    assert ledger.count() == 3
    ledger.close()


def test_a_run_that_another_process_began_meanwhile_is_not_removed(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    with pytest.raises(BusyError), new_folder(folder):
        (folder / "ledger.sqlite").write_text("of the other process")
        raise BusyError("another process writes there")
    assert (folder / "ledger.sqlite").exists()
    with pytest.raises(MedoodError), new_folder(tmp_path / "other" / "run"):
        raise MedoodError("no")
    assert not (tmp_path / "other").exists(), "nor the folders above it, which it made"


def test_a_merge_that_fails_leaves_no_folder(
    tiny_detector: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        screen([scans / "films"], tiny_detector, tmp_path / str(number), fpr=0.2, options=RunOptions(shard=f"{number}/2"))

    def fail(*_: object) -> None:
        raise MedoodError("the parts do not fit")

    monkeypatch.setattr("medood.screening.merge._merge_parts", fail)
    with pytest.raises(MedoodError, match="do not fit"):
        merge([tmp_path / "1", tmp_path / "2"], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_listening_on_a_port_that_is_taken_leaves_no_folder(tiny_detector: Path, tmp_path: Path) -> None:
    import socket

    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        done = medood("listen", "--detector", tiny_detector, "--out", tmp_path / "run", "--port", port, check=2)
    assert "Cannot listen on" in done.stderr
    assert not (tmp_path / "run").exists()
