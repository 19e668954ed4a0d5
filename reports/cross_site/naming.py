"""What the shipped detector calls flagged images of other modalities and of disease. Prints CSV.

The first 100 images of each set; of those flagged at 5 %, the number with each finding.

Usage: MEDOOD_DATA=FOLDER python -m reports.cross_site.naming > reports/cross_site/naming.csv
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import torch

from medood.detection.conformal import Decision
from medood.detection.detector import Detector
from medood.evidence.fault_codes import FaultName
from medood.evidence.fault_names import name_faults
from medood.scans.reader import read_scans
from medood.scans.scan import Scan

FAR = ("bone_xray", "brain_mri", "chest_ct", "breast_ultrasound", "textures", "cifar10")
NEAR = ("covid_cohen", "tb_tbdb", "nih_pneumonia", "paediatric_pneumonia")
COUNT = 100


def main() -> None:
    data, detector = Path(os.environ["MEDOOD_DATA"]), Detector.load("cxr-small")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["set", "images", "flagged", *FaultName])
    for folder in (*(f"far/{name}" for name in FAR), *(f"near/{name}" for name in NEAR)):
        images = []
        for scan in read_scans(data / folder):
            if isinstance(scan, Scan):
                images.append(detector.prepare(scan))
            if len(images) == COUNT:
                break
        names: list[str] = []
        for batch in torch.split(torch.stack(images), 25):
            verdicts = detector.judge(detector.embed(batch), 0.05)
            flagged = [verdict.decision == Decision.OUT_OF_DISTRIBUTION for verdict in verdicts]
            names += [name for name in name_faults(detector, batch, flagged) if name]
        writer.writerow([folder, len(images), len(names), *(names.count(fault) for fault in FaultName)])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
