"""Learns a trained detector's evidence anew (Grad-CAM's scale, unusual places); weights, scores and calibration stay.

Usage: python reports/cxr_small/evidence.py CONFIG DETECTOR TARGET   (MEDOOD_DATA names the folder of real pictures)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from medood.build import as_input, learn_evidence, training_data
from medood.config import load_config
from medood.detection.detector import Detector
from medood.evidence.places import MOST_SCANS
from medood.progress import Progress

real = Path(os.environ["MEDOOD_DATA"]) / "in_distribution"
target = Path(sys.argv[3])
places = [f"data.root={real / 'train'}", f"data.calibration_root={real / 'calibration'}", f"data.cache={target / 'cache'}"]
data = training_data(load_config(Path(sys.argv[1]), [*places, "model.weights="]), Progress())
detector = Detector.load(sys.argv[2])
pictures, training = data.inputs.pictures, data.training[:: -(-len(data.training) // MOST_SCANS)]
learn_evidence(
    detector, as_input(pictures[training]), as_input(pictures[data.development]), as_input(data.calibration[:256])
)
detector.save(target)
print(detector.sha256)
