"""Draws the curves of a run with and one without negatives: ``python -m reports.training.curves FOLDER``."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

RUNS = {"with negatives": "#d0491c", "without negatives": "0.45"}
CURVES = ("loss_positive", "teacher_entropy", "mean_entropy", "prototypes_in_use")


def main(folder: Path) -> None:
    """Write ``curves.png``."""
    figure, axes = plt.subplots(1, len(CURVES), figsize=(12, 2.8), dpi=110, constrained_layout=True)
    for run, colour in RUNS.items():
        with (folder / f"training_{run.replace(' ', '_')}.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        for place, name in zip(axes, CURVES, strict=True):
            place.plot([int(row["step"]) for row in rows], [float(row[name]) for row in rows], color=colour, label=run, lw=1)
            place.set_title(name.replace("_", " "), fontsize=10)
            place.set_xlabel("step", fontsize=9)
            place.spines[["top", "right"]].set_visible(False)
            place.tick_params(labelsize=8)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(folder / "curves.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
