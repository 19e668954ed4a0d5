"""Prints the ablation of the combined score: which parts, by which rule, on development scans under every shift.

Usage: python -m reports.benchmark.ablation runs/benchmark   (MEDOOD_DATA names the folder of real images)
"""

from __future__ import annotations

import csv
import os
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

from medood.config.loader import load_config
from medood.detection.conformal import p_values
from medood.detection.detector import Detector
from medood.detection.features import embed
from medood.detection.score_selection import reactions
from medood.detection.scores import fisher
from medood.progress import Progress
from medood.workflows.training_data import to_input, training_data

PARTS = ("soft_nearest", "mahalanobis", "residual", "head_logit")
RULES = ("fisher, normal tails", "sum of standardised", "fisher, ranks")


Scores = dict[str, npt.NDArray[np.float64]]


def combined(scores: Scores, plain: Scores, parts: tuple[str, ...], rule: str) -> npt.NDArray[np.float64]:
    """The parts' scores, made one by a rule; scaled or ranked on the development scans as they are."""
    if rule == "fisher, ranks":
        ranked: npt.NDArray[np.float64] = -np.sum([np.log(p_values(scores[name], plain[name])) for name in parts], axis=0)
        return ranked
    standardised = np.stack([(scores[name] - plain[name].mean()) / plain[name].std() for name in parts])
    combined_scores: npt.NDArray[np.float64] = (
        standardised.sum(axis=0) if rule == "sum of standardised" else fisher(torch.from_numpy(standardised)).numpy()
    )
    return combined_scores


def main() -> None:
    work = Path(sys.argv[1])
    real = Path(os.environ["MEDOOD_DATA"]) / "in_distribution"
    places = [f"data.root={real / 'train'}", f"data.calibration_root={real / 'calibration'}", f"data.cache={work / 'cache'}"]
    config = load_config(Path("configs/cxr_cpu.yaml"), places)
    data = training_data(config, Progress(quiet=True))
    detector = Detector.load(work / "with")
    images = to_input(data.inputs.images[data.development])
    plain = {name: detector.raw_scores(embed(detector.network, images), name) for name in PARTS}
    shifted = {
        shift: {name: detector.raw_scores(rows, name) for name in PARTS}
        for shift, rows in reactions(detector.network, images, config.views, config.train.seed).items()
    }
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["parts", "rule", "mean_auroc", "worst_auroc", "worst_shift"])
    for count in range(1, len(PARTS) + 1):
        for parts in combinations(PARTS, count):
            for rule in RULES if count > 1 else ("alone",):
                found = {}
                for shift, scores in shifted.items():
                    if shift:
                        values = np.r_[combined(shifted[""], plain, parts, rule), combined(scores, plain, parts, rule)]
                        found[shift] = float(roc_auc_score(np.r_[np.zeros(len(images)), np.ones(len(images))], values))
                worst = min(found, key=lambda shift: found[shift])
                mean = float(np.mean(list(found.values())))
                writer.writerow([" + ".join(parts), rule, f"{mean:.4f}", f"{found[worst]:.4f}", worst])


if __name__ == "__main__":
    main()
