"""Prints what each detector's score was chosen by: AUROC on development scans by score and shift.

Usage: python -m reports.benchmark.choices runs/benchmark
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, folder in enumerate(("with", "without")):
        stated = json.loads((Path(sys.argv[1]) / folder / "detector.json").read_text())
        table = stated["score_choice"]
        if number == 0:
            writer.writerow(["negatives", "score", "chosen", "mean", *next(iter(table.values()))])
        for name, values in table.items():
            mean = float(np.mean(list(values.values())))
            writer.writerow(
                [folder, name, int(name == stated["score"]), f"{mean:.4f}", *(f"{v:.4f}" for v in values.values())]
            )


if __name__ == "__main__":
    main()
