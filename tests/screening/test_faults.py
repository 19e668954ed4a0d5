"""What a run survives: every fault costs at most the row of its file, and no row is lost or doubled."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.errors import MedoodError, StoppedError
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.screening import finalize as conclusion
from medood.screening import run as pipeline
from medood.screening import source_listing as listing
from medood.screening.execution import worker_pool
from medood.screening.execution.worker_pool import WorkerPool
from medood.screening.ledger.database import UNFINISHED, Ledger
from medood.screening.merge import merge
from medood.screening.metrics import Metrics
from medood.screening.run import screen
from medood.screening.run_diff import find_runs
from medood.screening.run_lock import locked
from medood.screening.run_options import RunOptions
from tests.screening import faulty

#: Rows of a ledger without what no two runs share.
_ROWS = "SELECT source, member, frame, sha256, status, reason, score, p_value, decision, metadata, file, item FROM scans"


def rows(run: Path) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(run / "ledger.sqlite")) as database:
        return database.execute(f"{_ROWS} ORDER BY id").fetchall()


def statuses(run: Path) -> dict[str, str]:
    return {Path(row[0]).name: row[4] for row in rows(run)}


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 small files: DICOM with months and patients, PNG, a multi-page TIFF, copies, and such as no reader takes."""
    root = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(0)
    for i in range(150):
        path = root / f"{i:03d}"
        if i % 10 == 3:
            path.with_suffix(".dcm").write_bytes(b"no scan %d" % i)
        elif i % 10 == 5:
            pages = [Image.fromarray(rng.integers(0, 255, (20, 20), dtype=np.uint8)) for _ in range(7)]
            pages[0].save(path.with_suffix(".tif"), save_all=True, append_images=pages[1:])
        elif i % 10 == 7:
            shutil.copy(root / f"{i - 1:03d}.png", path.with_suffix(".png"))
        elif i % 10 in (1, 6):
            Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).save(path.with_suffix(".png"))
        else:
            path.with_suffix(".dcm").write_bytes(dicom_bytes(frontal_chest(i, 32).image, f"{i}"))
    return root


@pytest.fixture(scope="session")
def whole_run(archive: Path, tiny_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the archive that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    screen([archive], tiny_detector, out, fpr=0.1)
    return out


@pytest.fixture
def with_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "WorkerPool", partial(WorkerPool, read=faulty.read))


def test_worker_processes_give_the_same_ledger_bit_for_bit(
    archive: Path, whole_run: Path, tiny_detector: Path, tmp_path: Path
) -> None:
    screen([archive], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(workers=2))
    assert rows(tmp_path / "run") == rows(whole_run)
    assert Ledger.read_metadata(tmp_path / "run").archive == Ledger.read_metadata(whole_run).archive


@pytest.mark.usefixtures("with_faults")
def test_a_file_that_kills_or_hangs_its_reader_costs_its_own_row(tiny_detector: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    rng = np.random.default_rng(1)
    names = [
        f"{i:02d}-{kind}" for i, kind in enumerate(["ok", "segfault", "ok", "exit", "forever", "slow", "oom", "once"] * 2)
    ]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(root / f"{name}.png")
    screen([root], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(workers=2, timeout=6.0))
    found = {name: status for name, status in statuses(tmp_path / "run").items() if name.endswith(".png")}
    expected = {"segfault": "worker_died", "exit": "worker_died", "forever": "timed_out", "oom": "worker_died"}
    assert found == {f"{name}.png": expected.get(name.partition("-")[2], "scored") for name in names}
    reasons = {Path(row[0]).stem: row[5] for row in rows(tmp_path / "run")}
    assert reasons["01-segfault"] == "the process that read this file ended (signal SIGSEGV), 2 times"
    assert reasons["03-exit"] == "the process that read this file ended (exit code 3), 2 times"
    assert reasons["04-forever"] == "the file was not read within 6 s"


def test_workers_killed_at_random_lose_no_row(archive: Path, whole_run: Path, tiny_detector: Path, tmp_path: Path) -> None:
    """Readers are killed every few milliseconds while they read; each file is tried twice, and few are hit twice."""
    made: list[WorkerPool] = []
    draw, done = random.Random(0), threading.Event()

    def make(*given: Any) -> WorkerPool:
        made.append(WorkerPool(*given, read=faulty.read))
        return made[0]

    def kill() -> None:
        while not done.wait(draw.uniform(0.1, 0.3)):
            for workers in made:
                with contextlib.suppress(OSError, AttributeError, TypeError):
                    os.kill(draw.choice(workers._optionsers).process.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_pool, "WorkerPool", make)
        thread.start()
        try:
            screen([archive], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(workers=2))
        finally:
            done.set()
            thread.join()
    undisturbed, found = rows(whole_run), rows(tmp_path / "run")
    hit = {row[:2] for row in found if row[4] == "worker_died"}
    assert len(hit) <= 3
    # A file that was hit twice changes the batches, and with them perhaps the last bits of scores.
    assert [row[:6] for row in found if row[:2] not in hit] == [row[:6] for row in undisturbed if row[:2] not in hit]
    assert hit or found == undisturbed


def _screen(archive: Path, detector: Path, out: Path) -> None:
    screen([archive], detector, out, fpr=0.1, options=RunOptions(resume=True))


def kill_and_resume(archive: Path, detector: Path, out: Path, seed: int, kills: int, longest: float) -> int:
    """Screen with a process that is killed at random moments, until it has ended by itself; how often it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medood.screening.run"])
    draw, killed = random.Random(seed), 0
    while True:
        process = context.Process(target=_screen, args=(archive, detector, out))
        process.start()
        if killed < kills:
            time.sleep(draw.uniform(0.0, longest))
            process.kill()
        process.join()
        if process.exitcode == 0:  # which may be before it was killed
            return killed
        assert process.exitcode == -signal.SIGKILL
        killed += 1


def test_killed_at_random_moments_and_resumed_is_the_same_run(
    archive: Path, whole_run: Path, tiny_detector: Path, tmp_path: Path
) -> None:
    for seed in range(3):
        out = tmp_path / f"run{seed}"
        kill_and_resume(archive, tiny_detector, out, seed, 4, 0.8)
        assert rows(out) == rows(whole_run)
        assert (out / "verdicts.csv").read_bytes() == (whole_run / "verdicts.csv").read_bytes()
        assert Ledger.read_metadata(out).archive == Ledger.read_metadata(whole_run).archive
        ledger = Ledger(out)
        assert not ledger._database.execute("SELECT 1 FROM run WHERE name = 'patient_key'").fetchall()
        ledger.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_asked_to_end_it_can_go_on(
    archive: Path, whole_run: Path, tiny_detector: Path, tmp_path: Path, workers: int
) -> None:
    asked: list[int] = []

    def stopped_after(count: int) -> Callable[[], bool]:
        def stopped() -> bool:
            asked.append(0)
            return len(asked) > count

        return stopped

    for count in (40, 90):
        asked.clear()
        with pytest.raises(StoppedError, match="--resume"):
            screen(
                [archive],
                tiny_detector,
                tmp_path / "run",
                fpr=0.1,
                options=RunOptions(workers, resume=True, stopped=stopped_after(count)),
            )
        kept = rows(tmp_path / "run")
        assert kept == rows(whole_run)[: len(kept)]
    screen([archive], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(workers, resume=True))
    assert rows(tmp_path / "run") == rows(whole_run)
    again = screen([archive], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(workers, resume=True))
    assert again.scanned == len(rows(whole_run))


def test_a_run_goes_on_as_what_it_was_begun(archive: Path, tiny_detector: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    shutil.copytree(archive, few)
    calls = iter(range(1000))
    stop = RunOptions(resume=True, stopped=lambda: next(calls) > 70)
    with pytest.raises(StoppedError):
        screen([few], tiny_detector, tmp_path / "run", fpr=0.1, options=stop)
    with pytest.raises(MedoodError, match=r"started with a different fpr: 0\.1, now 0\.2"):
        screen([few], tiny_detector, tmp_path / "run", fpr=0.2, options=RunOptions(resume=True))
    with pytest.raises(MedoodError, match="already holds a run"):
        screen([few], tiny_detector, tmp_path / "run", fpr=0.1)
    (few / "000.dcm").unlink()
    with pytest.raises(MedoodError, match="files were added or removed"):
        screen([few], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(resume=True))


def test_a_second_process_is_told(archive: Path, tiny_detector: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(MedoodError, match="in use by another process"):
        screen([archive], tiny_detector, tmp_path / "run", fpr=0.1)


def test_a_full_disk_ends_the_run_and_it_goes_on(
    archive: Path, whole_run: Path, tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Ledger.__init__

    def small(self: Ledger, folder: Path, **options: bool) -> None:
        whole(self, folder, **options)
        self._database.execute("PRAGMA max_page_count=40")

    monkeypatch.setattr(Ledger, "__init__", small)
    with pytest.raises(MedoodError, match=r"full.*--resume"):
        screen([archive], tiny_detector, tmp_path / "run", fpr=0.1)
    monkeypatch.setattr(Ledger, "__init__", whole)
    kept = rows(tmp_path / "run")
    assert 0 < len(kept) < len(rows(whole_run))
    screen([archive], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(resume=True))
    assert rows(tmp_path / "run") == rows(whole_run)


@pytest.mark.usefixtures("with_faults")
def test_slow_disks_and_files_that_vanish(tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "in"
    root.mkdir()
    rng = np.random.default_rng(2)
    for i in range(20):
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(root / f"{i:02d}-slow.png")

    original = listing.SourceListing.enumerate_sources

    def vanishing(*arguments: Any) -> Iterator[Any]:
        yield from original(*arguments)
        (root / "19-slow.png").unlink()  # it is listed, and the workers are still at the first ones

    monkeypatch.setattr(listing.SourceListing, "enumerate_sources", vanishing)
    monkeypatch.setattr(worker_pool, "WorkerPool", partial(WorkerPool, read=faulty.read))
    screen([root], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(workers=2))
    found = rows(tmp_path / "run")
    assert [row[4] for row in found[:19]] == ["scored"] * 19
    assert found[19][4] == "unreadable"
    assert "No such file" in found[19][5] or "is gone" in found[19][5]


def test_a_clock_that_goes_backwards_changes_nothing(
    archive: Path, whole_run: Path, tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10**9, 0, -1))
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    screen([archive], tiny_detector, tmp_path / "run", fpr=0.1)
    assert rows(tmp_path / "run") == rows(whole_run)


def test_shards_put_together_are_the_whole(archive: Path, whole_run: Path, tiny_detector: Path, tmp_path: Path) -> None:
    """Batches differ, so that the last bits of scores may."""
    parts = [tmp_path / f"part{i}" for i in range(3)]
    for i, part in enumerate(parts):
        screen([archive], tiny_detector, part, fpr=0.1, options=RunOptions(shard=f"{i + 1}/3"))
        assert len(rows(part)) > 20
    found = merge(parts[::-1], tmp_path / "merged")
    merged, expected = rows(tmp_path / "merged"), rows(whole_run)
    assert found.scanned == len(expected)
    for one, other in zip(merged, expected, strict=True):
        assert one[:6] + one[8:9] + one[10:] == other[:6] + other[8:9] + other[10:]
        assert (one[6] is None) == (other[6] is None)
        assert one[6] is None or one[6] == pytest.approx(other[6], rel=1e-4)
    whole = Ledger.read_metadata(tmp_path / "merged").archive
    assert whole.shift.archive == Ledger.read_metadata(whole_run).archive.shift.archive
    with pytest.raises(MedoodError, match="Missing: 2/3"):
        merge([parts[0], parts[2]], tmp_path / "other")
    with pytest.raises(MedoodError, match="is a complete run"):
        merge([whole_run], tmp_path / "other")
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == [".lock", "ledger.sqlite", "verdicts.csv"]
    with pytest.raises(MedoodError, match="already holds a run"):
        merge(parts, tmp_path / "merged")


def test_a_merge_that_is_stopped_leaves_no_run_and_can_be_done_again(
    archive: Path, tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [tmp_path / f"part{i}" for i in range(2)]
    for i, part in enumerate(parts):
        screen([archive], tiny_detector, part, fpr=0.1, options=RunOptions(shard=f"{i + 1}/2"))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write_csv", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            merge(parts, tmp_path / "merged")
    with pytest.raises(MedoodError, match="is not a run"):
        Ledger(tmp_path / "merged")
    assert merge(parts, tmp_path / "merged").scanned == sum(len(rows(part)) for part in parts)


def test_parts_that_did_not_find_the_same_files_are_not_put_together(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for i in range(40):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 20), dtype=np.uint8)).save(root / f"{i}.png")
    screen([root], tiny_detector, tmp_path / "1", fpr=0.1, options=RunOptions(shard="1/2"))
    with pytest.raises(StoppedError):  # what is noted of a run that goes on is the same
        screen([root], tiny_detector, tmp_path / "2", fpr=0.1, options=RunOptions(shard="2/2", stopped=stopping_after(35)))
    screen([root], tiny_detector, tmp_path / "2", fpr=0.1, options=RunOptions(shard="2/2", resume=True))
    merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")
    other = Image.fromarray(np.zeros((30, 30), np.uint8))
    for number, change in enumerate(
        [lambda: (root / "0.png").rename(root / "other.png"), lambda: other.save(root / "other.png")], start=3
    ):
        change()
        screen([root], tiny_detector, tmp_path / f"{number}", fpr=0.1, options=RunOptions(shard="2/2"))
        with pytest.raises(MedoodError, match=r"the same files \(40 files, 40 files\).*CSV manifest"):
            merge([tmp_path / "1", tmp_path / f"{number}"], tmp_path / "other")
    screen([root], tiny_detector, tmp_path / "5", fpr=0.1, options=RunOptions(shard="1/2"))
    merge([tmp_path / "5", tmp_path / "4"], tmp_path / "again")


def test_a_merge_that_is_being_read_is_not_moved_and_an_old_log_is_not_replayed(
    archive: Path, tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [tmp_path / f"part{i}" for i in range(2)]
    for i, part in enumerate(parts):
        screen([archive], tiny_detector, part, fpr=0.1, options=RunOptions(shard=f"{i + 1}/2"))
    readers = []
    (tmp_path / "merged").mkdir()  # a new one would not stay

    def read(ledger: Ledger, target: Path) -> None:
        readers.append(sqlite3.connect(ledger.path))
        readers[0].execute("SELECT COUNT(*) FROM scans").fetchone()

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write_csv", read)
        with pytest.raises(MedoodError, match="read by another process"):
            merge(parts, tmp_path / "merged")
    log = "ledger.sqlite-wal"
    shutil.copy(tmp_path / "merged" / UNFINISHED / log, tmp_path / "merged" / log)
    readers[0].close()
    assert not list(find_runs(tmp_path / "merged"))
    found = merge(parts, tmp_path / "merged")
    assert len(rows(tmp_path / "merged")) == found.scanned == sum(len(rows(part)) for part in parts)


def test_the_folder_that_one_is_in_is_resumed_and_watched(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in")
    for i in range(40):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 20), dtype=np.uint8)).save(
            "below/a.png" if i == 20 else f"{i:02d}.png"
        )
    screen(["."], tiny_detector, tmp_path / "whole", fpr=0.1)
    with pytest.raises(StoppedError):
        screen(["."], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(stopped=stopping_after(35)))
    screen(["."], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(resume=True))
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert [row[0] for row in rows(tmp_path / "run")][-2:] == ["39.png", "below/a.png"]
    monkeypatch.setattr(listing, "_MIN_INTERVAL", 0.1)
    for calls in (60, 12):
        work = RunOptions(watch=True, resume=True, stopped=stopping_after(calls))
        screen(["."], tiny_detector, tmp_path / "seen", fpr=0.1, options=work)
        assert len(rows(tmp_path / "seen")) == 40


def test_reading_what_a_look_found_does_not_put_off_the_next_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_MIN_INTERVAL", 0.0)
    found = listing.SourceListing([tmp_path], tmp_path, ReadConfig()).watch_sources(None, lambda _: False)
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    clock = [1000.0]
    monkeypatch.setattr(listing.time, "monotonic", lambda: clock[0])
    handed = 0
    while handed < 3:
        if next(found) is not None:
            handed += 1
            clock[0] += 100.0  # the time that reading it takes
    (tmp_path / "3.png").write_bytes(b"")
    assert next(found) is not None, "listed twice and handed out, with no pause between"


def test_a_false_discovery_rate_is_decided_when_shards_are_put_together(
    archive: Path, tiny_detector: Path, tmp_path: Path
) -> None:
    screen([archive], tiny_detector, tmp_path / "whole", fdr=0.5)
    for i in (1, 2):
        screen([archive], tiny_detector, tmp_path / f"{i}", fdr=0.5, options=RunOptions(shard=f"{i}/2"))
    merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")
    metadata = [Ledger.read_metadata(tmp_path / name) for name in ("whole", "merged")]
    assert metadata[0].limit == pytest.approx(metadata[1].limit)
    assert [row[8] for row in rows(tmp_path / "whole")] == [row[8] for row in rows(tmp_path / "merged")]


def test_a_wrong_shard_is_told(tiny_detector: Path, archive: Path, tmp_path: Path) -> None:
    for text in ("3/2", "0/2", "1", "a/b", "-1/2"):
        with pytest.raises(MedoodError, match="--shard"):
            screen([archive], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(shard=text))


def test_a_ledger_of_the_first_schema_is_brought_up(whole_run: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(whole_run, old)
    with contextlib.closing(sqlite3.connect(old / "ledger.sqlite")) as database:
        for table in ("sample", "months", "patients"):
            database.execute(f"DROP TABLE {table}")
        for index in ("scans_by_sha256", "scans_by_place", "scans_by_source"):
            database.execute(f"DROP INDEX {index}")
        for column in ("file", "item", "host", "reason_code", "reason_values", "finding"):
            database.execute(f"ALTER TABLE scans DROP COLUMN {column}")
        database.execute("ALTER TABLE scans RENAME COLUMN metadata TO facts")
        database.execute("PRAGMA user_version=1")
        database.commit()
    ledger = Ledger(old)
    assert ledger.counts() == Ledger(whole_run).counts()
    assert [row.file for row in ledger.rows()][:3] == [1, 2, 3]


def test_a_crash_at_the_very_end_loses_nothing(
    archive: Path, whole_run: Path, tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write_csv", crash)
        with pytest.raises(RuntimeError):
            screen([archive], tiny_detector, tmp_path / "run", fpr=0.1)
    screen([archive], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(resume=True))
    assert rows(tmp_path / "run") == rows(whole_run)
    assert Ledger.read_metadata(tmp_path / "run").archive == Ledger.read_metadata(whole_run).archive
    assert conclusion.summary(Ledger(tmp_path / "run")) == conclusion.summary(Ledger(whole_run))
    assert Detector.load(tiny_detector).sha256 == Ledger.read_metadata(whole_run).detector.sha256


@pytest.mark.parametrize("workers", [0, 1])
def test_a_watched_folder_is_screened_as_files_come(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(listing, "_MIN_INTERVAL", 0.2)
    root, out = tmp_path / "in", tmp_path / "run"
    root.mkdir()
    seen: list[int] = []
    done = threading.Event()

    def bring(name: str, i: int) -> None:
        (root / name).write_bytes(dicom_bytes(frontal_chest(i, 32).image, name))

    def until(count: int) -> None:
        for _ in range(200):
            with contextlib.suppress(MedoodError, sqlite3.Error):
                if len(rows(out)) >= count:
                    break
            time.sleep(0.1)
        seen.append(len(rows(out)))

    def scene(first: int) -> None:
        bring(f"b{first}.dcm", first)
        until(first + 1)
        content = dicom_bytes(frontal_chest(first + 1, 32).image, "slowly")
        with (root / f"a{first}.dcm").open("wb") as stream:  # comes before the other by name, and slowly
            for start in range(0, len(content), 400):
                stream.write(content[start : start + 400])
                stream.flush()
                time.sleep(0.1)
        until(first + 2)
        done.set()

    for first in (0, 2):
        done.clear()
        thread = threading.Thread(target=scene, args=(first,))
        thread.start()
        work = RunOptions(workers=workers, watch=True, resume=True, stopped=done.is_set)
        found = screen([root], tiny_detector, out, fpr=0.1, options=work)
        thread.join()
        assert found.scanned == first + 2
        assert Ledger.read_metadata(out).finished
    assert seen == [1, 2, 3, 4]
    assert [Path(row[0]).name for row in rows(out)] == ["b0.dcm", "a0.dcm", "b2.dcm", "a2.dcm"]
    assert [row[4] for row in rows(out)] == ["scored"] * 4
    assert [row[10] for row in rows(out)] == [0, 1, 2, 3]


def stopping_after(count: int) -> Callable[[], bool]:
    calls = iter(range(10**6))
    return lambda: next(calls) >= count


def pages(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    some = [Image.fromarray(rng.integers(0, 255, (20, 20), dtype=np.uint8)) for _ in range(7)]
    some[0].save(path, save_all=True, append_images=some[1:])


def test_a_copy_of_many_pages_at_a_batchs_border_is_one_row(tiny_detector: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    pages(root / "000.tif", 0)
    for i in range(1, 25):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 20), dtype=np.uint8)).save(root / f"{i:03d}.png")
    shutil.copy(root / "000.tif", root / "025.tif")  # row 32, the last of the first batch
    for i in range(26, 60):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 20), dtype=np.uint8)).save(root / f"{i:03d}.png")
    screen([root], tiny_detector, tmp_path / "whole", fpr=0.1)
    with pytest.raises(StoppedError):
        screen([root], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(stopped=stopping_after(30)))
    assert rows(tmp_path / "run")[-1][4] == "duplicate"
    screen([root], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(resume=True))
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_a_file_that_cannot_be_read_again_where_the_run_stopped_in_it_keeps_its_rows(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five of its pages are in the first batch; then it hangs, or holds other bytes."""
    root = tmp_path / "in"
    root.mkdir()
    for i in range(27):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 20), dtype=np.uint8)).save(root / f"{i:03d}.png")
    pages(root / "100-later.tif", 0)
    for name in ("hangs", "changes"):
        with pytest.raises(StoppedError):
            screen([root], tiny_detector, tmp_path / name, fpr=0.1, options=RunOptions(stopped=stopping_after(28)))
        assert len(rows(tmp_path / name)) == 32
    with monkeypatch.context() as patch:
        patch.setattr(worker_pool, "WorkerPool", partial(WorkerPool, read=faulty.read_later))
        screen([root], tiny_detector, tmp_path / "hangs", fpr=0.1, options=RunOptions(workers=1, timeout=1.0, resume=True))
    last = rows(tmp_path / "hangs")[-1]
    assert (len(rows(tmp_path / "hangs")), last[2], last[4]) == (33, 5, "timed_out")
    pages(root / "100-later.tif", 1)
    with pytest.raises(MedoodError, match="has changed since the run stopped"):
        screen([root], tiny_detector, tmp_path / "changes", fpr=0.1, options=RunOptions(resume=True))


def test_a_watched_archive_goes_on_before_what_came_since(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_MIN_INTERVAL", 0.05)
    root, out = tmp_path / "in", tmp_path / "run"
    root.mkdir()

    def packed(name: str, first: int) -> None:
        with zipfile.ZipFile(root / name, "w") as archive:
            for i in range(first, first + 40):
                archive.writestr(f"{i:03d}.dcm", dicom_bytes(frontal_chest(i, 32).image, f"{i}"))

    finish = pipeline._Run._finish

    def interrupted(run: Any, pending: Any) -> None:
        if run._options.stopped():
            raise KeyboardInterrupt
        finish(run, pending)

    def killed_after(count: int) -> None:
        """As a kill does it: what is not in a batch is lost, and nothing is concluded."""
        with monkeypatch.context() as patch:
            patch.setattr(pipeline._Run, "_finish", interrupted)
            work = RunOptions(watch=True, resume=True, stopped=stopping_after(count))
            with pytest.raises(KeyboardInterrupt):
                screen([root], tiny_detector, out, fpr=0.1, options=work)

    packed("m.zip", 0)
    killed_after(36)
    assert len(rows(out)) == 32
    packed("a.zip", 40)
    killed_after(46)
    assert 40 < len(rows(out)) < 80
    screen([root], tiny_detector, out, fpr=0.1, options=RunOptions(watch=True, resume=True, stopped=stopping_after(120)))
    found = [(Path(row[0]).name, row[1]) for row in rows(out)]
    assert found == [("m.zip", f"{i:03d}.dcm") for i in range(40)] + [("a.zip", f"{i:03d}.dcm") for i in range(40, 80)]
    assert [row[10] for row in rows(out)] == [0] * 40 + [1] * 40


def test_a_file_that_no_part_could_read_is_one_row_of_the_whole(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for i in range(8):
        name = "segfault" if i == 5 else "ok"
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 20), dtype=np.uint8)).save(root / f"{i}-{name}.png")
    monkeypatch.setattr(worker_pool, "WorkerPool", partial(WorkerPool, read=faulty.read))
    for text in ("01/3", "2/3", "3/03"):
        out = tmp_path / f"part{int(text[:2].strip('/'))}"
        screen([root], tiny_detector, out, fpr=0.1, options=RunOptions(workers=1, shard=text))
    merge([tmp_path / f"part{i}" for i in (1, 2, 3)], tmp_path / "merged")
    assert [row[4] for row in rows(tmp_path / "merged")] == ["scored"] * 5 + ["worker_died"] + ["scored"] * 2


def test_mistakes_leave_no_folder_behind_and_a_finished_run_is_the_one_that_was_asked_for(
    archive: Path, whole_run: Path, tiny_detector: Path, tmp_path: Path
) -> None:
    for work in (
        RunOptions(timeout=float("inf")),
        RunOptions(timeout=0),
        RunOptions(engine="spark"),
        RunOptions(scheduler="tcp://127.0.0.1:1"),
        RunOptions(metrics=Metrics(tmp_path / "none" / "a")),
        RunOptions(metrics=Metrics(None, tmp_path / "none" / "a")),
    ):
        with pytest.raises(MedoodError):
            screen([archive], tiny_detector, tmp_path / "run", fpr=0.1, options=work)
    with pytest.raises(MedoodError, match="does not exist"):
        screen([tmp_path / "typo"], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(watch=True))
    assert not (tmp_path / "run").exists()
    copy = tmp_path / "copy"
    shutil.copytree(whole_run, copy)
    with pytest.raises(MedoodError, match="started with a different fpr"):
        screen([archive], tiny_detector, copy, fpr=0.2, options=RunOptions(resume=True))
    with pytest.raises(MedoodError, match="started with a different watch"):
        screen([archive], tiny_detector, copy, fpr=0.1, options=RunOptions(resume=True, watch=True))
    screen([archive], tiny_detector, copy, fpr=0.1, options=RunOptions(resume=True))
    assert Ledger.read_metadata(copy) == Ledger.read_metadata(whole_run)
