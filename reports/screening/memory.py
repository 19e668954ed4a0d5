"""Peak memory of a run of 1,000 and of 100,000 tiny scans, each in a process of its own. Prints CSV.

Usage: python -m reports.screening.memory WORK
"""

from __future__ import annotations

import io
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from medood.screening.run import screen
from medood.screening.run_options import RunOptions


def scans(folder: Path, count: int) -> Path:
    """Tiny PNG files, 1,000 a folder."""
    rng = np.random.default_rng(0)
    for start in range(0, count, 1000):
        part = folder / f"{start // 1000:04d}"
        if part.exists():
            continue
        part.mkdir(parents=True)
        for i in range(1000):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(stream, "PNG")
            (part / f"{i:03d}.png").write_bytes(stream.getvalue())
    return folder


def one(folder: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    found = screen([folder], "cxr-small", out, options=RunOptions(workers=2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{found.scanned},{peak:.0f},{workers:.0f},{time.perf_counter() - started:.0f}", flush=True)


if __name__ == "__main__":
    work = Path(sys.argv[1])
    if len(sys.argv) > 2:
        one(Path(sys.argv[2]), work / "run")
    else:
        print("rows,peak_rss_mib_main,peak_rss_mib_largest_worker,seconds", flush=True)
        for count in (1000, 100_000):
            subprocess.run([sys.executable, __file__, str(work), str(scans(work / f"{count}", count))], check=True)
