"""On how many flagged scans of a mixed archive the maps show anything. Prints CSV.

The archive: healthy radiographs, other modalities, disease, and radiographs turned, mirrored, inverted and upside down,
drawn with seed 0 from the folder of real images. A map "stands out" where it reaches its full strength; Grad-CAM of the head
alone where it reaches what 99 of 100 calibration radiographs stay below everywhere.

Usage: MEDOOD_DATA=FOLDER python -m reports.evidence.blank > reports/evidence/blank.csv
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from medood.detection.detector import Detector
from medood.evidence.evidence_maps import DRAWN, evidence_maps
from medood.evidence.grad_cam import grad_cam
from medood.evidence.padim import normal_scale
from medood.scans.reader import read_scans
from medood.scans.scan import Scan

DATA = Path(os.environ.get("MEDOOD_DATA", ""))
FAR = ("bone_xray", "brain_mri", "chest_ct", "breast_ultrasound", "textures", "cifar10")
NEAR = ("covid_cohen", "nih_pneumonia", "paediatric_normal", "tb_tbdb")
FAULTS = (ImageOps.invert, ImageOps.mirror, ImageOps.flip, lambda film: film.rotate(90))
HIGHEST = 20


def prepared(detector: Detector, folder: Path, limit: int | None = None) -> torch.Tensor:
    scans = [scan for scan in read_scans(folder) if isinstance(scan, Scan)]
    return torch.stack([detector.prepare(scan) for scan in scans[:limit]])


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="medood-") as scratch:
        draw = random.Random(0)
        kinds = [
            ("in_distribution/test", 60),
            *((f"far/{name}", 6) for name in FAR),
            *((f"near/{name}", 10) for name in NEAR),
        ]
        for kind, count in kinds:
            for path in draw.sample(sorted((DATA / kind).rglob("*.jpg")), count):
                (Path(scratch) / f"{kind.replace('/', '-')}-{path.name}").write_bytes(path.read_bytes())
        for number, path in enumerate(sorted((DATA / "in_distribution/test").rglob("*.jpg"))[:40]):
            FAULTS[number % len(FAULTS)](Image.open(path)).save(Path(scratch) / f"fault-{number}.png")
        detector = Detector.load("cxr-small")
        images = prepared(detector, Path(scratch))
        verdicts = detector.judge(detector.embed(images), 0.05)
        flagged = [i for i, verdict in enumerate(verdicts) if verdict.decision == "out_of_distribution"]
        flagged.sort(key=lambda i: -verdicts[i].score)
        shown = evidence_maps(detector, images[flagged])
        level = normal_scale(grad_cam(detector, prepared(detector, DATA / "in_distribution/calibration", 100)))
        head = grad_cam(detector, images[flagged]) / level
        print("figure,of the flagged,of the highest")
        print(f"scans,{len(flagged)},{HIGHEST}")
        for name, maps, least in (
            ("map of the score is drawn", shown.maps["score"], DRAWN),
            ("map of the score stands out", shown.maps["score"], 1.0),
            ("unusual places stand out", shown.maps["places"], 1.0),
            ("Grad-CAM of the head alone stands out", head, 1.0),
        ):
            reached = maps.max(axis=(1, 2)) >= least
            print(f"{name},{int(reached.sum())},{int(reached[:HIGHEST].sum())}")
        print(f"mean share of the score that its map shows,{shown.shown.mean():.2f},{np.mean(shown.shown[:HIGHEST]):.2f}")


if __name__ == "__main__":
    main()
