"""How long a report of 1,000 synthetic scans takes, the 200 highest with evidence, and how large it is. Prints CSV.

Usage, after `medood demo`: python -m reports.evidence.speed runs/demo/detector > reports/evidence/speed.csv
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.reporting.pdf import report
from medood.screening.run import screen

SCANS, FLAGGED, REPEATS = 1000, 200, 5


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="medood-") as scratch:
        scans, run = Path(scratch) / "scans", Path(scratch) / "run"
        scans.mkdir()
        kinds = [kind for kind in OUTLIERS if kind != "opacities"]
        for i in range(FLAGGED):
            (scans / f"s{i:04d}.dcm").write_bytes(dicom_bytes(OUTLIERS[kinds[i % len(kinds)]](i, 256), f"s{i}"))
        for i in range(SCANS - FLAGGED):
            (scans / f"c{i:04d}.dcm").write_bytes(dicom_bytes(frontal_chest(5000 + i, 256).image, f"c{i}"))
        screen([scans], sys.argv[1], run, fpr=0.05, calibration="synthetic")
        inside, command, again = [], [], []
        for _ in range(REPEATS):
            (run / "evidence.sqlite").unlink(missing_ok=True)
            started = time.perf_counter()
            report(run, top=FLAGGED)
            inside.append(time.perf_counter() - started)
            started = time.perf_counter()
            report(run, top=FLAGGED)
            again.append(time.perf_counter() - started)
            (run / "evidence.sqlite").unlink()
            started = time.perf_counter()
            command_line = [sys.executable, "-m", "medood", "report", str(run), "--top", str(FLAGGED), "--quiet"]
            subprocess.run(command_line, check=True, stdout=subprocess.DEVNULL)
            command.append(time.perf_counter() - started)
        print("figure,value")
        print(f"report() in s (median of {REPEATS}),{statistics.median(inside):.1f}")
        print(f"medood report in s with loading the libraries (median of {REPEATS}),{statistics.median(command):.1f}")
        print(f"report() made again in s (median of {REPEATS}),{statistics.median(again):.1f}")
        for name in ("report.pdf", "report.html", "record.json"):
            print(f"{name} in MB,{(run / name).stat().st_size / 1e6:.1f}")


if __name__ == "__main__":
    main()
