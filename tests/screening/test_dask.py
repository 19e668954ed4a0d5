"""A run on a Dask cluster: the same verdicts, and what it survives."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.errors import MedoodError, StoppedError
from medood.screening.execution import dask_cluster as cluster
from medood.screening.ledger.database import Ledger
from medood.screening.read_worker import ReadSpec
from medood.screening.run import screen
from medood.screening.run_options import RunOptions
from tests.screening import faulty
from tests.screening.test_faults import archive, rows, statuses, whole_run

__all__ = ["archive", "whole_run"]  # fixtures
TWO = RunOptions(workers=2, engine="dask")


def below() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def is_dask_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "spawn_main" in " ".join(process.cmdline())
    return False


def test_a_local_cluster_gives_the_same_ledger_and_listens_on_loopback_alone(
    archive: Path, whole_run: Path, tiny_detector: Path, tmp_path: Path
) -> None:
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.3):
            for process in [psutil.Process(), *below()]:
                with contextlib.suppress(psutil.Error):
                    seen.update(at.laddr.ip for at in process.net_connections() if at.status == psutil.CONN_LISTEN)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        screen([archive], tiny_detector, tmp_path / "run", fpr=0.1, options=TWO)
    finally:
        done.set()
        thread.join()
    assert rows(tmp_path / "run") == rows(whole_run)
    assert seen == {"127.0.0.1"}


def test_files_that_kill_or_hang_a_worker_and_a_worker_that_is_killed(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_read", faulty.read_on_a_cluster)
    root = tmp_path / "in"
    root.mkdir()
    rng = np.random.default_rng(1)
    names = [f"{i:02d}-{kind}" for i, kind in enumerate(["ok", "oom", "segfault", "slow", "forever", *["slow"] * 40])]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(root / f"{name}.png")
    killed: list[int] = []

    def kill() -> None:
        time.sleep(9)  # everything has started, and one worker hangs
        for process in filter(is_dask_worker, below()):
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            return

    thread = threading.Thread(target=kill)
    thread.start()
    screen([root], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(workers=2, engine="dask", timeout=10))
    thread.join()
    assert killed
    found = statuses(tmp_path / "run")
    assert found.pop("04-forever.png") in ("timed_out", "worker_died")  # the latter where its worker was the one killed
    assert found.pop("02-segfault.png") == "worker_died"
    assert found.pop("01-oom.png") == "worker_died"
    assert set(found.values()) == {"scored"}
    assert len(found) == len(names) - 3


def test_a_file_that_kills_and_one_that_keeps_pythons_lock_cost_their_own_rows_on_one_worker(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours wait for the same worker as it dies, and it takes longer to come back than Dask would wait for it."""
    monkeypatch.setattr(cluster, "_read", faulty.read_on_a_cluster)
    root = tmp_path / "in"
    root.mkdir()
    rng = np.random.default_rng(5)
    kinds = ["ok", "segfault", "ok", "ok", "keeps_the_lock", *["slow"] * 8, "segfault", "ok"]
    for i, kind in enumerate(kinds):
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(root / f"{i:02d}-{kind}.png")
    screen([root], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(workers=1, engine="dask", timeout=5))
    fates = {"segfault": "worker_died", "keeps_the_lock": "timed_out"}
    assert statuses(tmp_path / "run") == {f"{i:02d}-{kind}.png": fates.get(kind, "scored") for i, kind in enumerate(kinds)}


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """An existing cluster, as somebody else would have started it: its address, a scheduler and a worker."""
    note = tmp_path / "scheduler.json"
    dask = [str(Path(sys.executable).parent / "dask")]
    start = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(note)]
    first = subprocess.Popen(start, stderr=subprocess.DEVNULL)
    second = subprocess.Popen(
        [*dask, "worker", "--scheduler-file", str(note), "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"],
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    for _ in range(200):
        if note.exists() and note.stat().st_size:
            break
        time.sleep(0.1)
    import json

    try:
        yield json.loads(note.read_text())["address"], first, second
    finally:
        for process in (second, first):
            process.terminate()
        for process in (second, first):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def test_a_scheduler_that_dies_ends_the_run_in_a_sentence_and_it_goes_on(
    scheduler: tuple[str, subprocess.Popen[bytes], subprocess.Popen[bytes]],
    archive: Path,
    whole_run: Path,
    tiny_detector: Path,
    tmp_path: Path,
) -> None:
    address, process, _ = scheduler
    out = tmp_path / "run"

    def kill() -> None:
        while not (out / "ledger.sqlite").exists() or not _size(out):
            time.sleep(0.05)
        process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(MedoodError, match=r"is gone.*--resume"):
        screen([archive], tiny_detector, out, fpr=0.1, options=RunOptions(engine="dask", scheduler=address))
    thread.join()
    assert 0 < len(rows(out)) < len(rows(whole_run))
    screen([archive], tiny_detector, out, fpr=0.1, options=RunOptions(resume=True))
    assert rows(out) == rows(whole_run)


def test_runs_with_two_detectors_on_one_scheduler_keep_their_own(
    scheduler: tuple[str, subprocess.Popen[bytes], subprocess.Popen[bytes]], tiny_detector: Path
) -> None:
    one, two = (Detector.load(tiny_detector) for _ in range(2))
    for weights in two.network.parameters():
        weights.mul_(1.05)
    two.sha256 = "of another"
    images = torch.rand(3, 1, one.preprocess.size, one.preprocess.size, generator=torch.Generator().manual_seed(0))
    engines = [
        cluster.DaskEngine(ReadSpec(ReadConfig(), one.preprocess), some, 0, 60.0, scheduler[0]) for some in (one, two)
    ]
    try:
        for engine, detector in zip(engines, (one, two), strict=True):
            found, _ = engine.embed(images).result()
            assert torch.equal(found.features, detector.embed(images).features)
    finally:
        for engine in engines:
            engine.close()


@pytest.mark.parametrize("waiting_for", ["a file", "a batch"])
def test_a_cluster_without_workers_can_be_left(
    waiting_for: str,
    scheduler: tuple[str, subprocess.Popen[bytes], subprocess.Popen[bytes]],
    archive: Path,
    whole_run: Path,
    tiny_detector: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, _, worker = scheduler
    out, asked = tmp_path / "run", threading.Event()
    lost, wait = threading.Event(), cluster._Embedding.result if waiting_for == "a batch" else cluster.DaskEngine._wait_for

    def kill() -> None:
        subprocess.run(["pkill", "-KILL", "-P", str(worker.pid)], check=False)  # its nanny would start another
        worker.kill()
        time.sleep(2)
        asked.set()

    def waits(*arguments: Any) -> Any:
        if _size(out) and not lost.is_set():
            lost.set()
            kill_now = threading.Thread(target=kill)
            kill_now.start()
            kill_now.join(1)
        return wait(*arguments)

    where, name = (cluster._Embedding, "result") if waiting_for == "a batch" else (cluster.DaskEngine, "_wait_for")
    with monkeypatch.context() as patch:
        patch.setattr(where, name, waits)
        with pytest.raises(StoppedError, match="--resume"):
            screen(
                [archive],
                tiny_detector,
                out,
                fpr=0.1,
                options=RunOptions(engine="dask", scheduler=address, stopped=asked.is_set),
            )
    assert lost.is_set()
    screen([archive], tiny_detector, out, fpr=0.1, options=RunOptions(resume=True))
    assert rows(out) == rows(whole_run)


def test_a_file_that_hangs_while_a_batch_is_waited_for_is_given_up(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of one file make two batches at once, and the one worker is at the next file, which hangs."""
    monkeypatch.setattr(cluster, "_read", faulty.read_on_a_cluster)
    root = tmp_path / "in"
    root.mkdir()
    rng = np.random.default_rng(3)
    some = [Image.fromarray(rng.integers(0, 255, (20, 20), dtype=np.uint8)) for _ in range(140)]
    some[0].save(root / "0.tif", save_all=True, append_images=some[1:])
    some[0].save(root / "1-forever.png")
    some[1].save(root / "2.png")
    screen([root], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(engine="dask", workers=1, timeout=4))
    found = statuses(tmp_path / "run")
    assert (found["1-forever.png"], found["2.png"]) == ("timed_out", "scored")
    assert len(rows(tmp_path / "run")) == 142


def test_workers_that_lack_something_end_the_run_in_a_sentence(
    archive: Path, whole_run: Path, tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "_read", faulty.read_where_something_is_missing)
        with pytest.raises(MedoodError, match=r"ModuleNotFoundError: No module named 'something'\).*--resume"):
            screen([archive], tiny_detector, tmp_path / "run", fpr=0.1, options=TWO)
    screen([archive], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(resume=True))
    assert rows(tmp_path / "run") == rows(whole_run)


def _size(run: Path) -> int:
    with contextlib.suppress(MedoodError):
        ledger = Ledger(run)
        try:
            return ledger.count()
        finally:
            ledger.close()
    return 0


def test_mistakes_are_told(archive: Path, tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MedoodError, match="expected one of local, dask"):
        screen([archive], tiny_detector, tmp_path / "a", fpr=0.1, options=RunOptions(engine="spark"))
    with pytest.raises(MedoodError, match="without --engine dask"):
        screen([archive], tiny_detector, tmp_path / "b", fpr=0.1, options=RunOptions(scheduler="tcp://127.0.0.1:1"))
    monkeypatch.setattr(cluster, "_ANSWERS", 2)
    with pytest.raises(MedoodError, match="No Dask scheduler answers at 127"):
        screen([archive], tiny_detector, tmp_path / "c", fpr=0.1, options=RunOptions(engine="dask", scheduler="127.0.0.1:1"))
