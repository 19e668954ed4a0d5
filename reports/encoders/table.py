"""Prints the table of encoders by detectors as Markdown.

Usage: python -m reports.encoders.table BENCHMARK.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

#: Column, its kind of comparison, its sets.
COLUMNS = (
    ("pneumonia, same source", "same source", ("nih_pneumonia",)),
    ("COVID", "near vs id_shift", ("covid_cohen",)),
    ("tuberculosis", "near vs id_shift", ("tb_tbdb",)),
    ("children", "near vs id_shift", ("paediatric_normal",)),
    ("far, worst of 6", "far", ()),
    ("healthy, other hospitals, farthest from 0.5", "id_shift", ()),
)


def main() -> None:
    with Path(sys.argv[1]).open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    print(f"| encoder: detector | {' | '.join(name for name, _, _ in COLUMNS)} |")
    print(f"|---|{'---|' * len(COLUMNS)}")
    scorers = list(dict.fromkeys(line["scorer"] for line in lines))
    for scorer in (name for name in scorers if name in ("detector", "pixel_knn", "grey_statistics") or ":" in name):
        if scorer.startswith("score:"):
            continue
        cells = []
        for _, kind, names in COLUMNS:
            chosen = [line for line in lines if (line["kind"], line["scorer"]) == (kind, scorer)]
            chosen = [line for line in chosen if not names or line["positives"] in names]
            if kind == "id_shift":
                line = max(chosen, key=lambda line: abs(float(line["auroc"]) - 0.5))
            else:
                line = min(chosen, key=lambda line: float(line["auroc"]))
            cells.append(f"{float(line['auroc']):.3f} [{float(line['auroc_low']):.3f}, {float(line['auroc_high']):.3f}]")
        print(f"| {scorer} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
