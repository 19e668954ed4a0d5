"""What each resolution level costs and changes: time to decode a 2048 x 2048 radiograph, and the change of its score.

Usage: MEDOOD_DATA=FOLDER python -m reports.speed.levels cxr-small > reports/speed/levels.csv    (draws levels.png beside it)
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGBaseline8Bit

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.scans.reader import least_side_for
from reports.speed.reduced import radiographs, read

SYNTAXES = {"JPEG 2000": JPEG2000Lossless, "HTJ2K": HTJ2KLossless, "JPEG": JPEGBaseline8Bit}
SIDE, SIDES, RADIOGRAPHS = 2048, (2048, 1024, 512, 256), 60
FIELDS = ("syntax", "side", "milliseconds", "mean_score_difference", "signed_mean")


def main() -> None:
    detector = Detector.load(sys.argv[1])
    rows = []
    for name, syntax in SYNTAXES.items():
        contents = list(radiographs(RADIOGRAPHS, SIDE, syntax))
        whole = np.zeros(0)
        for side in SIDES:
            images, seconds = [], []
            for content in contents:
                started = time.perf_counter()
                (scan,) = read(content, 0 if side == SIDE else side)
                seconds.append(time.perf_counter() - started)
                assert scan.pixels.shape[1] == side
                images.append(detector.prepare(scan))
            scores = detector.raw_scores(detector.embed(torch.stack(images)))
            whole = scores if side == SIDE else whole
            changes = scores - whole
            rows.append([name, side, 1000.0 * float(np.median(seconds)), np.abs(changes).mean(), changes.mean()])
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows([*row[:2], f"{row[2]:.1f}", *(f"{change:.4f}" for change in row[3:])] for row in rows)
    draw(rows, least_side_for(detector.preprocess.size, ReadConfig()))


def draw(rows: list[list[object]], least: int) -> None:
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in SYNTAXES:
        sides, times, changes = ([row[column] for row in rows if row[0] == name] for column in (1, 2, 3))
        left.plot(sides, times, marker="o", label=name)
        right.plot(sides, changes, marker="o", label=name)
    for axes, title in ((left, "milliseconds to read"), (right, "mean change of the score")):
        axes.axvline(least, color="grey", linestyle="--", label=f"twice the input, {least} pixels")
        axes.set_xscale("log", base=2)
        axes.set_xticks(SIDES, [str(side) for side in SIDES])
        axes.set_xlabel("side that is decoded, of 2048 pixels")
        axes.set_title(title)
    left.set_yscale("log")
    left.legend()
    figure.savefig(Path(__file__).with_name("levels.png"), dpi=110)


if __name__ == "__main__":
    main()
