"""How much of each part of the detector is grey values. Prints CSV.

``explained``: share of a part's variance on training radiographs that 10 grey statistics and 2 of sharpness explain. For
each pair the AUROC of disease as the radiographs are, within grey strata, and with matched histograms.

Usage: python -m reports.cross_site.parts FOLDER > reports/cross_site/parts.csv   (after embed, and places embed)
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from medood.evaluation.metrics import auroc_within, draw
from medood.evaluation.shortcuts import grey_strata
from reports.cross_site.choose import PAIRS, PARTS, Vector, auroc
from reports.cross_site.places import TREATMENTS, PlacesStudy

LARGEST = 7


def main() -> None:
    study = PlacesStudy(Path(sys.argv[1]))
    explained = 1.0 - study.parts("train", "style residual").var(axis=0) / study["train"]["parts"].var(axis=0)
    scores = {part: {name: study[name]["parts"][:, i] for name in _names()} for i, part in enumerate(PARTS)}
    scores["as shipped"] = {name: study.shipped(name) for name in _names()}
    writer = csv.writer(sys.stdout, lineterminator="\n")
    figures = ("as they are", "within grey", "matched")
    writer.writerow(["part", "explained", *(f"{figure}, {pair}" for pair in PAIRS for figure in figures)])
    for part, by_set in scores.items():
        row = [explained[PARTS.index(part)]] if part in PARTS else [float("nan")]
        for normal, disease in PAIRS.values():
            sides = (by_set[disease], study.trivial(disease)), (by_set[normal], study.trivial(normal))
            strata = grey_strata(*sides, study.patients[normal])
            draws = draw(study.patients[disease], study.patients[normal], 1, 0)
            within = auroc_within(by_set[disease], by_set[normal], *strata, draws).value
            row += [auroc(by_set[disease], by_set[normal]), within, auroc(by_set[f"m_{disease}"], by_set[f"m_{normal}"])]
        writer.writerow([part, *("" if np.isnan(value) else f"{value:.3f}" for value in row)])
    for treatment in TREATMENTS:
        row = []
        for normal, disease in PAIRS.values():
            values: list[Vector] = [study.places(name, treatment, LARGEST) for name in (disease, normal)]
            row += [f"{auroc(*values):.3f}", "", ""]
        writer.writerow([f"{LARGEST} places, {treatment}", "", *row])


def _names() -> list[str]:
    names = [name for pair in PAIRS.values() for name in pair]
    return names + [f"m_{name}" for name in names]


if __name__ == "__main__":
    main()
