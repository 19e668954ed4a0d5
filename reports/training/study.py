"""Does sensitivity, found without a label, rank strategies as their measured AUROC does?

``python -m reports.training.study SENSITIVITY_FOLDER MANIFEST.csv OUT``: benchmarks the detector of each strategy on a part
of the manifest (100 files a data set; 600 of ``train`` for the pixel baseline) and compares the rankings. Nothing is chosen
by it.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from medood.detection.detector import Detector
from medood.evaluation.benchmark import benchmark
from medood.progress import Progress

GROUPS = {"far": "far", "near": "near vs id_shift", "disease": "same source"}


def part_of(manifest: Path, target: Path) -> Path:
    """A manifest of every data set's first files, by digest so that no order of names decides."""
    with manifest.open() as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["sha256"])
    kept: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        few = kept[row["split"], row["dataset"]]
        if row["split"] != "calibration" and len(few) < (600 if row["split"] == "train" else 100):
            few.append(row | {"file": str(manifest.parent / row["file"])})
    with target.open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(row for few in kept.values() for row in few)
    return target


def main(folder: Path, manifest: Path, out: Path) -> None:
    """Write ``sensitivity_study.csv`` and print the rank correlations with their intervals."""
    with (folder / "sensitivity.csv").open() as stream:
        found = {row["strategy"]: row for row in csv.DictReader(stream)}
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        some = part_of(manifest, Path(scratch) / "manifest.csv")
        for name, row in found.items():
            result = benchmark(Detector.load(folder / name), some, repeats=20, progress=Progress(quiet=True))
            figures = {}
            for label, kind in GROUPS.items():
                aurocs = [c.figures["detector"].auroc.value for c in result.comparisons if c.kind == kind]
                figures[label] = float(np.mean(aurocs))
            figures["all"] = float(np.mean(list(figures.values())))
            rows.append({"strategy": name, "sensitivity": float(row["sensitivity"]), **figures})
            print(rows[-1], flush=True)
    with (out / "sensitivity_study.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    rng = np.random.default_rng(0)
    with (out / "sensitivity_spearman.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["against", "spearman", "low", "high", "strategies"])
        for label in [*GROUPS, "all"]:
            pairs = np.array([(row["sensitivity"], row[label]) for row in rows])
            draws = [pairs[rng.integers(0, len(pairs), len(pairs))] for _ in range(2000)]
            spread = [spearmanr(*draw.T).statistic for draw in draws if len(np.unique(draw[:, 0])) > 2]
            low, high = np.nanpercentile(spread, (2.5, 97.5))
            writer.writerow([label, *(round(float(v), 3) for v in (spearmanr(*pairs.T).statistic, low, high)), len(pairs)])
    print((out / "sensitivity_spearman.csv").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
