"""Prints what the shipped detector reaches beside what it had to reach, as Markdown.

Usage: python -m reports.cxr_small.targets BENCHMARK.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

GROSS = ("rot90", "rot180", "upside_down", "inverted", "crop_quarter")
#: Measure, its rows in the table (kind, positives; none is all of the kind), how they become one, what had to be reached.
TARGETS = [
    ("far, worst of 6 sets", "far", (), "worst", ">= 0.997"),
    ("rot90, rot180, upside down, inverted, quarter crop: worst", "acquisition", GROSS, "worst", ">= 0.998"),
    ("quarters permuted", "acquisition", ("perm4",), "worst", ">= 0.99"),
    ("mirrored", "acquisition", ("mirror",), "worst", ">= 0.985"),
    ("id_shift against the in-distribution test, mean of 3", "id_shift", (), "mean", "<= 0.58"),
    ("covid_cohen against pooled id_shift", "near vs id_shift", ("covid_cohen",), "worst", ">= 0.80"),
    ("nih_pneumonia against nih_normal (same source)", "same source", ("nih_pneumonia",), "worst", ">= 0.70"),
    ("paediatric_normal against pooled id_shift", "near vs id_shift", ("paediatric_normal",), "worst", ">= 0.92"),
    ("tb_tbdb against pooled id_shift", "near vs id_shift", ("tb_tbdb",), "worst", ">= 0.88"),
]


def main() -> None:
    with Path(sys.argv[1]).open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    print("| measure (AUROC) | pixel k-NN | had to be reached | reached | |")
    print("|---|---|---|---|---|")
    for measure, kind, names, how, wanted in TARGETS:
        found = {}
        for scorer in ("pixel_knn", "detector"):
            chosen = [line for line in lines if (line["kind"], line["scorer"]) == (kind, scorer)]
            chosen = [line for line in chosen if not names or line["positives"] in names]
            if how == "mean":
                found[scorer] = (
                    sum(float(line["auroc"]) for line in chosen) / len(chosen),
                    ", ".join(f"{line['positives']} {float(line['auroc']):.3f}" for line in chosen),
                )
            else:
                line = min(chosen, key=lambda line: float(line["auroc"]))
                interval = f"[{float(line['auroc_low']):.3f}, {float(line['auroc_high']):.3f}]"
                found[scorer] = float(line["auroc"]), f"{interval} {line['positives'] if len(chosen) > 1 else ''}".strip()
        value, told = found["detector"]
        sign, limit = wanted.split()
        held = round(value, 3) >= float(limit) if sign == ">=" else round(value, 3) <= float(limit)
        outcome = "reached" if held else "missed"
        print(f"| {measure} | {found['pixel_knn'][0]:.3f} | {wanted} | {value:.3f} ({told}) | {outcome} |")


if __name__ == "__main__":
    main()
