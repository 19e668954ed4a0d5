"""Kills runs and their workers at random moments, and counts the rows that were lost or doubled. Prints CSV.

Usage: python -m reports.screening.faults WORK [KILLS]
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medood.screening.execution import worker_pool
from medood.screening.execution.worker_pool import WorkerPool
from medood.screening.run import screen
from medood.screening.run_options import RunOptions
from tests.screening import faulty
from tests.screening.test_faults import kill_and_resume, rows

FILES = 300


def archive(folder: Path, names: list[str]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def told(fault: str, tries: int, run: Path, expected: list[tuple[Any, ...]]) -> None:
    """One line: a row is lost or doubled by its source, member and frame; different by anything but its timings."""
    found = rows(run)
    names, wanted = [row[:3] for row in found], [row[:3] for row in expected]
    lost, doubled = len(set(wanted) - set(names)), len(names) - len(set(names))
    refused = sum(row[4] in ("worker_died", "timed_out") for row in found)
    differ = sum(a[:6] != b[:6] for a, b in zip(found, expected, strict=True)) - refused if not lost else -1
    scores = sum(a != b for a, b in zip(found, expected, strict=True)) - refused if not lost else -1
    print(f'"{fault}",{tries},{len(expected)},{lost},{doubled},{refused},{differ},{scores}', flush=True)


def main() -> None:
    work, kills = Path(sys.argv[1]), int((sys.argv[2:] or ["100"])[0])
    print("fault,tries,rows,lost,doubled,refused,other_rows_that_differ,other_rows_with_another_last_bit")
    plain = archive(work / "plain", [f"{i:03d}" for i in range(FILES)])
    shutil.rmtree(work / "whole", ignore_errors=True)
    started = time.perf_counter()
    screen([plain], "cxr-small", work / "whole", fpr=0.1)  # as those that are killed
    lasts = time.perf_counter() - started
    expected = rows(work / "whole")

    done, number = 0, 0
    while done < kills:
        shutil.rmtree(work / "run", ignore_errors=True)
        done += kill_and_resume(plain, Path("cxr-small"), work / "run", number, min(10, kills - done), lasts / 4)
        if rows(work / "run") != expected:
            print(f"seed {number}: the ledger differs", file=sys.stderr)
        number += 1
    told("kill -9 of the main process at a random moment, resumed", done, work / "run", expected)

    slow = archive(work / "slow", [f"{i:03d}-slow" for i in range(FILES)])
    shutil.rmtree(work / "slow_whole", ignore_errors=True)
    screen([slow], "cxr-small", work / "slow_whole")
    made: list[WorkerPool] = []
    draw, ended, hit = random.Random(0), threading.Event(), 0

    def make(*given: Any, **named: Any) -> WorkerPool:
        made.append(WorkerPool(*given, **(named | {"read": faulty.read})))
        return made[0]

    def kill() -> None:
        nonlocal hit
        while not ended.wait(draw.uniform(0.2, 0.6)):
            for workers in made:
                with contextlib.suppress(OSError, AttributeError, TypeError):
                    os.kill(draw.choice(workers._workers).process.pid, signal.SIGKILL)
                    hit += 1

    worker_pool.WorkerPool = make  # type: ignore[assignment,misc]
    shutil.rmtree(work / "run", ignore_errors=True)
    thread = threading.Thread(target=kill)
    thread.start()
    screen([slow], "cxr-small", work / "run", options=RunOptions(workers=2))
    ended.set()
    thread.join()
    told("kill -9 of a worker at a random moment", hit, work / "run", rows(work / "slow_whole"))

    kinds = ["segfault", "exit", "oom", "forever"]
    names = [f"{i:03d}-{kinds[i // 10 % 4]}" if i % 10 == 0 else f"{i:03d}" for i in range(120)]
    odd = archive(work / "odd", names)
    worker_pool.WorkerPool = partial(WorkerPool, read=faulty.read)  # type: ignore[assignment,misc]
    shutil.rmtree(work / "odd_whole", ignore_errors=True)
    screen([odd], "cxr-small", work / "odd_whole")
    shutil.rmtree(work / "run", ignore_errors=True)
    screen([odd], "cxr-small", work / "run", options=RunOptions(workers=2, timeout=3))
    told("files that crash, end, exhaust or hang their reader", 12, work / "run", rows(work / "odd_whole"))
    with contextlib.closing(sqlite3.connect(work / "run" / "ledger.sqlite")) as database:
        for status, count in database.execute("SELECT status, count(*) FROM scans GROUP BY 1"):
            print(f"{status} {count}", file=sys.stderr)


if __name__ == "__main__":
    main()
