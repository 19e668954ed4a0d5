"""Which crops of a radiograph to average: sets of crops, plain and equalised, by the head's entropy. Prints CSV.

``development`` is what was chosen by: mean AUROC as in choose.py. ``test`` tells what each would give on the test sets.

Usage: python -m reports.cxr_small.crops DETECTOR development|test   (MEDOOD_DATA names the folder of real images)
"""

from __future__ import annotations

import csv
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.features import head_entropy
from medood.negatives.shift import resample
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from reports.cxr_small.choose import PLAIN, STRANGE, UNSEEN, development_films, made

#: Share of each side, and the centre's offset.
CROPS = {"0.8": (0.8, 0.0, 0.0), "0.9": (0.9, 0.0, 0.0), "1": (1.0, 0.0, 0.0)} | {
    f"0.8 {where}": (0.8, x, y)
    for where, x, y in (("nw", -0.2, -0.2), ("ne", 0.2, -0.2), ("sw", -0.2, 0.2), ("se", 0.2, 0.2))
}
CORNERS = [name for name in CROPS if " " in name]
SETS = {
    "0.8": ["0.8"],
    "0.9": ["0.9"],
    "0.9, 1": ["0.9", "1"],
    "0.8, 0.9, 1": ["0.8", "0.9", "1"],
    "corners": CORNERS,
    "corners, 0.8": [*CORNERS, "0.8"],
    "corners, 0.9": [*CORNERS, "0.9"],
    "corners, 0.9, 1": [*CORNERS, "0.9", "1"],
    "all": list(CROPS),
}
TEST = {
    "test": "in_distribution/test",
    "nih": "id_shift/nih_normal",
    "openist": "id_shift/openist_normal",
    "pk": "id_shift/pk_normal",
    "covid_cohen": "near/covid_cohen",
    "nih_pneumonia": "near/nih_pneumonia",
    "paediatric_normal": "near/paediatric_normal",
    "tb_tbdb": "near/tb_tbdb",
    "brain_mri": "far/brain_mri",
    "bone_xray": "far/bone_xray",
}


def auroc(belongs: np.ndarray, strange: np.ndarray) -> float:
    return float(roc_auc_score(np.r_[np.zeros(len(belongs)), np.ones(len(strange))], np.r_[belongs, strange]))


@torch.no_grad()
def outputs(detector: Detector, scans: list[Scan]) -> dict[tuple[str, bool], Tensor]:
    """What the head says of each crop, plain and equalised."""
    found = {}
    for equalize in (False, True):
        preparing = replace(detector, preprocess=replace(detector.preprocess, equalize=equalize))
        images = torch.stack([preparing.prepare(scan) for scan in scans])
        for name, (share, x, y) in CROPS.items():
            where = torch.tensor([[share, 0.0, x], [0.0, share, y]])
            parts = []
            for some in torch.split(images, 100):
                seen = some if share == 1.0 else resample(some, where.expand(len(some), 2, 3), some.shape[-1])
                parts.append(detector.network.head(detector.network.features(seen)))
            found[name, equalize] = torch.cat(parts)
    return found


def development(scores: dict[str, np.ndarray]) -> dict[str, float]:
    unseen = {name: auroc(scores[""], scores[name]) for name in (*UNSEEN, *STRANGE)}
    seen = {name: auroc(scores[""], scores[name]) for name in scores if name not in ("", PLAIN, "stretched", *unseen)}
    return {
        "mean": float(np.mean([*seen.values(), *unseen.values()])),
        "shared": float(np.mean(list(seen.values()))),
        "unseen": float(np.mean(list(unseen.values()))),
    }


def test(scores: dict[str, np.ndarray]) -> dict[str, float]:
    hospitals = ("nih", "openist", "pk")
    pooled = np.concatenate([scores[name] for name in hospitals])
    return {
        "id_shift": float(np.mean([auroc(scores["test"], scores[name]) for name in hospitals])),
        "nih_pneumonia": auroc(scores["nih"], scores["nih_pneumonia"]),
        **{name: auroc(pooled, scores[name]) for name in ("covid_cohen", "paediatric_normal", "tb_tbdb")},
        **{name: auroc(scores["test"], scores[name]) for name in ("brain_mri", "bone_xray")},
    }


def main() -> None:
    detector, which = Detector.load(sys.argv[1]), sys.argv[2]
    if which == "development":
        scans = development_films(detector)
        images = made(torch.stack([torch.from_numpy(scan.pixels) for scan in scans]))
        groups = {name: [replace(scans[0], pixels=one.numpy()) for one in some] for name, some in images.items()}
    else:
        data = Path(os.environ["MEDOOD_DATA"])
        groups = {name: [s for s in read_scans(data / where) if isinstance(s, Scan)] for name, where in TEST.items()}
    found = {name: outputs(detector, scans) for name, scans in groups.items()}
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for crops, names in SETS.items():
        for films, kinds in (("plain", [False]), ("equalised", [True]), ("both", [False, True])):
            scores = {
                group: head_entropy(torch.stack([some[name, kind] for name in names for kind in kinds]).mean(dim=0)).numpy()
                for group, some in found.items()
            }
            row = development(scores) if which == "development" else test(scores)
            if crops == "0.8" and films == "plain":
                writer.writerow(["crops", "films", *row])
            writer.writerow([crops, films, *(f"{value:.4f}" for value in row.values())])


if __name__ == "__main__":
    main()
