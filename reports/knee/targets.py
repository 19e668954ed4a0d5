"""Prints what the knee detector reaches beside what it had to reach, as Markdown.

Usage: python -m reports.knee.targets BENCHMARK_FOLDER
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

#: Measure, its rows in the table (kind, positives; none is all of the kind), what had to be reached.
TARGETS = [
    ("rotated by 90 degrees", "acquisition", "rot90", 0.99),
    ("rotated by 180 degrees", "acquisition", "rot180", 0.99),
    ("inverted", "acquisition", "inverted", 0.99),
    ("far, worst of 8 sets", "far", "", 0.99),
    ("KL-3 and KL-4 against KL-0", "near", "knee_kl34", 0.75),
    ("KL-2 against KL-0", "near", "knee_kl2", 0.60),
]
SCORERS = ("pixel_knn", "pca_mahalanobis", "grey_statistics", "detector")


def main() -> None:
    folder = Path(sys.argv[1])
    with (folder / "benchmark.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    print("| measure (AUROC) | pixel k-NN | PCA | grey statistics | detector, 95 % interval | had to be reached |")
    print("|---|---|---|---|---|---|")
    for measure, kind, name, wanted in TARGETS:
        worst = {}
        for scorer in SCORERS:
            chosen = [line for line in lines if (line["kind"], line["scorer"]) == (kind, scorer)]
            worst[scorer] = min(
                (line for line in chosen if name in ("", line["positives"])), key=lambda line: float(line["auroc"])
            )
        own = worst["detector"]
        cells = [f"{float(worst[scorer]['auroc']):.3f}" for scorer in SCORERS[:-1]]
        interval = f"{float(own['auroc']):.3f} [{float(own['auroc_low']):.3f}, {float(own['auroc_high']):.3f}]"
        print(f"| {measure} | {' | '.join(cells)} | {interval} | >= {wanted} |")


if __name__ == "__main__":
    main()
