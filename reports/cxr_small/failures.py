"""Contact sheets of the worst misses and the worst false alarms of each data set, to be looked at; none is kept here.

Usage: python -m reports.cxr_small.failures DETECTOR FOLDER   (MEDOOD_DATA names the folder of real images)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medood.detection.detector import Detector
from medood.evaluation.manifest import read_manifest
from medood.progress import Progress
from medood.scans.reader import read_source
from medood.scans.scan import Scan
from medood.scans.sources.source import Source

COUNT, SIDE, BATCH = 20, 160, 64


def main() -> None:
    detector, target, data = Detector.load(sys.argv[1]), Path(sys.argv[2]), Path(os.environ["MEDOOD_DATA"])
    target.mkdir(parents=True, exist_ok=True)
    by_set: dict[tuple[str, str], list[tuple[float, str]]] = {}
    entries = [entry for entry in read_manifest(data / "manifest.csv") if entry.split == "test"]
    for start in Progress().track(iter(range(0, len(entries), BATCH)), -(-len(entries) // BATCH), "scoring"):
        some = entries[start : start + BATCH]
        scans = [next(iter(read_source(Source(data / entry.file)))) for entry in some]
        rows = detector.embed(torch.stack([detector.prepare(scan) for scan in scans if isinstance(scan, Scan)]))
        for entry, score in zip(some, detector.raw_scores(rows), strict=True):
            by_set.setdefault((entry.group, entry.dataset), []).append((float(score), entry.file))
    for (group, name), scored in sorted(by_set.items()):
        alarms = group in ("in_distribution", "id_shift")  # there the highest scores are wrong, elsewhere the lowest
        worst = sorted(scored, reverse=alarms)[:COUNT]
        sheet = Image.new("L", (10 * SIDE, 2 * SIDE))
        for place, (_, file) in enumerate(worst):
            image = Image.open(data / file).convert("L").resize((SIDE, SIDE))
            sheet.paste(image, (place % 10 * SIDE, place // 10 * SIDE))
        sheet.save(target / f"{group}-{name}.png")
        p = detector.calibration.p_values(np.array([score for score, _ in worst]), [""] * len(worst))
        print(f"{group}/{name}: p from {p.min():.3f} to {p.max():.3f}; first {worst[0][1]}, {worst[0][0]:.3f}", flush=True)


if __name__ == "__main__":
    main()
