"""How long show, report and resuming take to start where the ledger has 1,000,000 rows. Prints CSV.

Usage: python -m reports.screening.million WORK
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.screening.ledger.database import Ledger
from medood.screening.run import screen

ROWS, PER_FOLDER = 1_000_000, 1000


def prepare(work: Path) -> None:
    """A folder with a million files and three more, and the ledger of a run that was killed before these."""
    root, run = work / "in", work / "run"
    if not (root / "1000").exists():
        for folder in range(ROWS // PER_FOLDER):
            part = root / f"{folder:04d}"
            part.mkdir(parents=True, exist_ok=True)
            for i in range(PER_FOLDER):
                (part / f"{i:03d}.dcm").touch()
        last = root / "1000"
        last.mkdir()
        for i in range(3):
            (last / f"{i}.dcm").write_bytes(dicom_bytes(frontal_chest(i, 64).image, f"{i}"))
    shutil.rmtree(run, ignore_errors=True)
    screen([root / "1000"], "cxr-small", run)
    with contextlib.closing(sqlite3.connect(run / "ledger.sqlite")) as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(scans)")]
        database.execute("CREATE TEMP TABLE pattern AS SELECT * FROM scans LIMIT 1")
        database.execute("DELETE FROM scans")
        database.execute("CREATE TEMP TABLE numbers (n INTEGER PRIMARY KEY)")
        database.executemany("INSERT INTO numbers VALUES (?)", ((n,) for n in range(ROWS)))
        changed = {
            "id": "n + 1",
            "source": f"printf('{root}/%04d/%03d.dcm', n / {PER_FOLDER}, n % {PER_FOLDER})",
            "sha256": "printf('%064x', n * 2654435761 % 4294967296 * 1000003 + n)",
            "file": "n",
            "item": "0",
            "score": "-3.0 + n * 1e-6",
            "p_value": "(n % 1000 + 1) / 1001.0",
            "decision": "CASE WHEN n % 1000 < 50 THEN 'out_of_distribution' ELSE 'in_distribution' END",
        }
        chosen = ", ".join(changed.get(column, column) for column in columns)
        database.execute(f"INSERT INTO scans ({', '.join(columns)}) SELECT {chosen} FROM numbers, pattern")  # noqa: S608
        # The last file is what it is, an empty one, so that the run finds it as it was.
        database.execute(
            "UPDATE scans SET status = 'unreadable', sha256 = '', score = NULL, p_value = NULL, decision = '' WHERE id = ?",
            (ROWS,),
        )
        database.commit()
    print(f"{(run / 'ledger.sqlite').stat().st_size / 2**20:.0f} MiB", file=sys.stderr)


def timed(what: str, arguments: list[str], until: str = "") -> None:
    """Seconds until a command ends, or until it has printed something."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "medood"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    if until:
        for line in process.stdout:
            if until in line:
                break
        seconds = time.perf_counter() - started
        os.kill(process.pid, signal.SIGKILL)
    else:
        process.communicate()
        seconds = time.perf_counter() - started
    print(f'"{what}",{ROWS},{seconds:.2f}', flush=True)


def resume(run: Path, root: Path) -> None:
    """Until the first new row, from a process that has loaded what it needs."""
    ledger = Ledger(run)
    ledger.delete_metadata("finished")
    ledger.set_metadata(sources=[str(root)])
    ledger.close()
    log = run / "events.jsonl"
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "medood"), "screen", str(root), "--out", str(run), "--resume", "--log", str(log)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    started = time.perf_counter()
    while not (log.exists() and '"resumed"' in log.read_text()):
        time.sleep(0.02)
    loaded = time.perf_counter()
    while '"rows"' not in log.read_text().replace('"rows":', ""):
        time.sleep(0.02)
    first = time.perf_counter()
    process.wait()
    print(f'"resume: load, count the files, open the ledger",{ROWS},{loaded - started:.2f}')
    print(f'"resume: from there to the first new row",{ROWS},{first - loaded:.2f}')
    print(f'"resume: the whole command, with verdicts.csv",{ROWS},{time.perf_counter() - started:.2f}')


if __name__ == "__main__":
    work = Path(sys.argv[1]).resolve()
    prepare(work)
    print("what,rows,seconds")
    timed("medood show", ["show", str(work / "run")])
    resume(work / "run", work / "in")
    timed("medood report --top 0, whole", ["report", str(work / "run"), "--top", "0"])
