"""What was tried on development films after the second part of the training, and left out. Prints CSV.

The weights of the training's two parts, averaged; and unusual places (PaDiM) as a score, by itself and beside the head's.
AUROC of films under each shift against the same films with acquisition noise, as the rule for scores has it.

Usage: git show 240281d:medood/detectors/cxr-small/network.safetensors > FIRST.safetensors
       git archive f1a8c2e medood/detectors/cxr-small | tar -x -C SECOND --strip-components=2
       python reports/cxr_small/trials.py FIRST.safetensors SECOND/cxr-small WORK > reports/cxr_small/trials.csv
MEDOOD_DATA names the folder of real pictures.
"""

from __future__ import annotations

import csv
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor

from medood.build import as_input, training_data
from medood.config import load_config
from medood.detection.detector import Detector
from medood.detection.scores import fisher
from medood.distillation.views import acquire, crop, sample_view
from medood.evidence.places import unusualness
from medood.negatives.mix import SHIFTS, Mixture
from medood.progress import Progress

FILMS, SHARES, SPENT = 100, (0.0, 0.25, 0.5, 0.75, 1.0), 0.05

config = load_config(Path("configs/cxr_small_further.yaml"), ["model.weights="])
real = Path(os.environ["MEDOOD_DATA"]) / "in_distribution"
config.data.root, config.data.calibration_root = str(real / "train"), str(real / "calibration")
config.data.cache = str(Path(sys.argv[3]) / "cache")
data = training_data(config, Progress())
plain = as_input(data.inputs.pictures[data.development])[:FILMS]
generator = torch.Generator().manual_seed(0)
noise = sample_view(len(plain), [1.0, 1.0], config.views, generator)
pictures = {"": acquire(crop(plain, noise, plain.shape[-1]), noise)}
for shift in SHIFTS:
    if shift not in ("image_as_is", "pixel_perm", "rot_360"):
        mixture = Mixture({shift: 1.0})
        pictures[shift] = mixture.apply(plain, mixture.sample(len(plain), plain.shape[-1], generator))

detector = Detector.load(sys.argv[2])
last = {name: value.clone() for name, value in detector.network.state_dict().items()}
first = load_file(sys.argv[1])
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(["trial", "mean", *(shift for shift in pictures if shift)])


def tell(trial: str, scores: dict[str, Tensor]) -> None:
    """One line: the mean AUROC and that of each shift."""
    truth = np.r_[np.zeros(len(plain)), np.ones(len(plain))]
    found = [float(roc_auc_score(truth, torch.cat([scores[""], scores[shift]]).numpy())) for shift in pictures if shift]
    writer.writerow([trial, *(f"{value:.4f}" for value in (float(np.mean(found)), *found))])
    sys.stdout.flush()


head: dict[str, Tensor] = {}
for share in SHARES:
    detector.network.load_state_dict({name: torch.lerp(first[name].float(), last[name], share) for name in last})
    head = {shift: detector.score(detector.embed(some)) for shift, some in pictures.items()}
    tell(f"head_contrast, {share:g} of the second part's weights", head)
unusual = {shift: unusualness(detector, some).mean(dim=1) for shift, some in pictures.items()}
tell("mean unusualness of places", unusual)
standard = [{k: (v - some[""].mean()) / some[""].std() for k, v in some.items()} for some in (head, unusual)]
tell("both by Fisher's rule", {k: fisher(torch.stack([some[k] for some in standard])) for k in pictures})
tails = [{k: -torch.special.log_ndtr(-v.double()) for k, v in some.items()} for some in standard]
spent = {k: torch.maximum(tails[0][k] + math.log(1 - SPENT), tails[1][k] + math.log(SPENT)) for k in pictures}
tell(f"the smaller p-value, {SPENT:g} of the false alarms spent on places", spent)
