"""Means of results.csv over the classes or splits, as a Markdown table.

Usage: python -m reports.cifar10.table reports/cifar10/results.csv [PROTOCOL]
Only classes that every kind of negatives was trained on count, so that kinds compare. `decides` is the score that the
configuration or training chose; intervals are 95 % over the classes (normal approximation).
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path

SCORES = ("soft_nearest", "mahalanobis", "head_entropy", "rotation")


def main() -> None:
    protocol = sys.argv[2] if len(sys.argv) > 2 else "one"
    with Path(sys.argv[1]).open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["protocol"] == protocol]
    values: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        scores = values[row["negatives"]][row["in_distribution"]]
        scores[row["score"]] = float(row["auroc"])
        if row["chosen"] == "True":
            scores["decides"] = float(row["auroc"])
    print(f"| negatives | classes | decides | {' | '.join(SCORES)} |")
    print("|---|---|---|" + "---|" * len(SCORES))
    for negatives, classes in values.items():
        print_row(negatives, list(classes.values()))
    shared = set.intersection(*(set(classes) for classes in values.values()))
    if len(values) > 1 and any(set(classes) != shared for classes in values.values()):
        print(f"\nOn {', '.join(sorted(shared))} alone:\n")
        print(f"| negatives | classes | decides | {' | '.join(SCORES)} |")
        print("|---|---|---|" + "---|" * len(SCORES))
        for negatives, classes in values.items():
            print_row(negatives, [classes[name] for name in shared])
    print("\n| class | " + " | ".join(values) + " |")
    print("|---|" + "---|" * len(values))
    for name in dict.fromkeys(row["in_distribution"] for row in rows):
        cells = [f"{classes[name]['decides']:.3f}" if name in classes else "" for classes in values.values()]
        print(f"| {name} | {' | '.join(cells)} |")


def print_row(negatives: str, classes: list[dict[str, float]]) -> None:
    """A row of means."""
    decided = [scores["decides"] for scores in classes]
    half = 1.96 * statistics.stdev(decided) / len(decided) ** 0.5 if len(decided) > 1 else 0.0
    cells = []
    for score in SCORES:
        present = [scores[score] for scores in classes if score in scores]
        cells.append(f"{statistics.mean(present):.3f}" if present else "")
    print(f"| {negatives} | {len(classes)} | {statistics.mean(decided):.3f} ± {half:.3f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
