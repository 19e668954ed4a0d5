"""A DICOM storage provider that screens what arrives; the senders are dcmtk's storescu."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.progress import Progress
from medood.screening import source_listing as listing
from medood.screening.dicom_scp import ScpConfig, listen
from medood.screening.ledger.database import Ledger
from medood.screening.metrics import Metrics
from medood.screening.run_options import RunOptions


@pytest.fixture(autouse=True)
def storescu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_MIN_INTERVAL", 0.3)
    if shutil.which("storescu") is None:
        if os.environ.get("MEDOOD_REQUIRE_PACS"):
            pytest.fail("MEDOOD_REQUIRE_PACS is set, and storescu is not installed (Debian: dcmtk)")
        pytest.skip("storescu is not installed (Debian: dcmtk)")


@contextmanager
def listening(doors: ScpConfig, detector: Path, out: Path, **work: Any) -> Iterator[tuple[int, int]]:
    """A provider in a thread, with the ports of its two doors; ended at the end, and what it raised is raised."""
    ports: list[int] = []
    done, raised = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            listen(
                doors,
                detector,
                out,
                options=RunOptions(stopped=done.is_set, **work),
                progress=Progress(quiet=True),
                on_open=lambda *found: ports.extend(found),
                fpr=0.1,
            )
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        while len(ports) < 2 and not raised:
            time.sleep(0.05)
        if ports:
            yield ports[0], ports[1]
    finally:
        done.set()
        thread.join()
        if raised:
            raise raised[0]


def send(port: int, *paths: Path, title: str = "MEDOOD", caller: str = "TEST") -> subprocess.Popen[bytes]:
    options = ["-aec", title, "-aet", caller, "+sd", "127.0.0.1", str(port)]
    return subprocess.Popen(["storescu", *options, *map(str, paths)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def size(out: Path) -> int:
    with suppress(MedoodError):
        ledger = Ledger(out)
        try:
            return ledger.count()
        finally:
            ledger.close()
    return 0


def until(out: Path, count: int) -> None:
    for _ in range(600):
        if size(out) >= count:
            return
        time.sleep(0.1)


def written(folder: Path, numbers: range) -> Path:
    folder.mkdir()
    for i in numbers:
        (folder / f"{i}.dcm").write_bytes(dicom_bytes(frontal_chest(i, 32).image, f"{i}"))
    return folder


def test_a_thousand_objects_over_eight_associations(tiny_detector: Path, tmp_path: Path) -> None:
    folders = [written(tmp_path / f"{part}", range(part * 125, part * 125 + 125)) for part in range(8)]
    out, metrics = tmp_path / "run", Metrics()
    with listening(ScpConfig(0, health_port=0), tiny_detector, out, workers=1, metrics=metrics) as (port, health):
        senders = [send(port, folder) for folder in folders]
        assert [sender.wait(120) for sender in senders] == [0] * 8
        until(out, 1000)
        told = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{health}/health", timeout=10).read())
        figures = urllib.request.urlopen(f"http://127.0.0.1:{health}/metrics", timeout=10).read().decode()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{health}/other", timeout=10)
    assert (told["status"], told["stored"], told["refused"]) == ("ok", 1000, 0)
    assert 'medood_rows_total{decision="in_distribution",status="scored"}' in figures
    ledger = Ledger(out)
    rows = list(ledger.rows())
    assert len(rows) == len({row.sha256 for row in rows}) == 1000
    assert {row.status for row in rows} == {"scored"}
    assert not list(out.glob(".*.part"))
    assert len((out / "verdicts.csv").read_text().splitlines()) == 1001


def test_who_may_not_store_is_refused(tiny_detector: Path, tmp_path: Path) -> None:
    one = written(tmp_path / "one", range(1))
    doors = ScpConfig(0, callers=["KNOWN"])
    with listening(doors, tiny_detector, tmp_path / "run") as (port, _):
        assert send(port, one, title="OTHER", caller="KNOWN").wait(30) != 0
        assert send(port, one, caller="UNKNOWN").wait(30) != 0
        assert not list((tmp_path / "run" / "incoming").iterdir())
        assert send(port, one, caller="KNOWN").wait(30) == 0
        until(tmp_path / "run", 1)
    assert size(tmp_path / "run") == 1
    with listening(ScpConfig(0, peers=["192.0.2.1"]), tiny_detector, tmp_path / "peers") as (port, _):
        assert send(port, one).wait(30) != 0
    assert size(tmp_path / "peers") == 0


def test_a_full_disk_and_large_objects_are_refused_and_health_says_so(tiny_detector: Path, tmp_path: Path) -> None:
    one = written(tmp_path / "one", range(1))
    with listening(ScpConfig(0, reserve=1 << 60, health_port=0), tiny_detector, tmp_path / "full") as (port, health):
        assert send(port, one).wait(30) != 0
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{health}/health", timeout=10)
        assert refused.value.code == 503
        assert json.loads(refused.value.read())["refused"] == 1
    with listening(ScpConfig(0, largest=100), tiny_detector, tmp_path / "small") as (port, _):
        assert send(port, one).wait(30) != 0
    assert size(tmp_path / "full") == size(tmp_path / "small") == 0


def test_a_run_of_arrivals_goes_on_and_an_object_sent_again_is_no_new_row(tiny_detector: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "some", range(3))
    left = tmp_path / "run" / ".0123.dcm.7.part"  # as one that was killed leaves it
    for _ in range(2):
        with listening(ScpConfig(0), tiny_detector, tmp_path / "run") as (port, _):
            assert not left.exists()
            assert send(port, folder).wait(30) == 0
            until(tmp_path / "run", 3)
            time.sleep(1)
        left.touch()
    assert size(tmp_path / "run") == 3


def test_a_port_that_is_taken_is_told(tiny_detector: Path, tmp_path: Path) -> None:
    with (
        listening(ScpConfig(0), tiny_detector, tmp_path / "one") as (port, _),
        pytest.raises(MedoodError, match="Cannot listen on"),
    ):
        listen(ScpConfig(port), tiny_detector, tmp_path / "two", options=RunOptions(), progress=Progress(quiet=True))
    for doors in (ScpConfig(0, title="A" * 17), ScpConfig(0, callers=["B" * 17])):
        with pytest.raises(MedoodError, match="1 to 16 characters"):
            listen(doors, tiny_detector, tmp_path / "three", options=RunOptions(), progress=Progress(quiet=True))
