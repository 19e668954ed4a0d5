"""Which members to add to the head of a detector, on radiographs as read or registered, and whether to use its appearance
model. Prints CSV.

Rule: the set of the highest mean partial AUROC up to 5 % of false alarms (McClish's, 0.5 is chance) over all faults, since
scans are screened at such rates. What each set says is joined as in the score ``ensemble``. ``development`` is what was
chosen by; ``test`` tells what each set would give on test sets.

Usage: python -m reports.cxr_small.members development|test DETECTOR MEMBER...   (MEDOOD_DATA: the folder of real images)
DETECTOR has an appearance model; its own members are not asked, unless they are named. Of one MEMBER, greater weights of it
and of the appearance model are told too.
"""

from __future__ import annotations

import csv
import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import interpolate

from medood.detection.detector import Detector
from medood.detection.ensemble import EnsembleNetwork, log_divergence
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from reports.cxr_small.choose import PLAIN, development_films, made
from reports.cxr_small.crops import TEST, auroc, development, test

OTHERS = TEST | {"textures": "far/textures"}
APPEARANCE, REGISTERED = "appearance", " registered"
#: Side at which members see registered radiographs.
SIDE = 96
RATE = 0.05
WEIGHTS = (1.0, 1.5, 2.0)
#: What each says of each group of radiographs, high where they are strange.
Said = dict[str, dict[str, np.ndarray]]


@torch.no_grad()
def asked(first: Detector, names: list[str], scans: list[Scan]) -> dict[str, np.ndarray]:
    """What the detector's own head, its members' heads and its appearance model say of the radiographs.

    A member sees a radiograph as it is in its crops, and a registered one, which is a crop already, whole.
    """
    images, model = torch.stack([first.prepare(scan) for scan in scans]), first.network.appearance
    assert model is not None
    said = []
    for some in torch.split(images, 100):
        heads = [first.network.embed(some)[1], *first.network.member_outputs(some)]
        registered = model.registration(some, SIDE)
        for member in first.network.members:
            assert isinstance(member, EnsembleNetwork)
            seen = interpolate(registered, (member.size, member.size), mode="area")
            heads.append(member.head(member.features(seen)))
        said.append(torch.stack([*(-log_divergence(outputs) for outputs in heads), model(some)]))
    every = [*names, *(name + REGISTERED for name in names[1:]), APPEARANCE]
    return dict(zip(every, torch.cat(said, dim=1).double().numpy(), strict=True))


def concatenate_features(said: Said, weights: dict[str, float]) -> dict[str, np.ndarray]:
    """Their weighted sum, each standardised among development radiographs, by group of radiographs."""
    centres = {name: (said[PLAIN][name].mean(), said[PLAIN][name].std()) for name in weights}
    return {
        group: sum(weights[name] * (some[name] - centre) / spread for name, (centre, spread) in centres.items())
        for group, some in said.items()
    }


def weighted(names: list[str]) -> Iterator[dict[str, float]]:
    """Every set of members, of radiographs as they are or registered, without and with the appearance model."""
    sets = [some for count in range(len(names)) for some in itertools.combinations(names[1:], count)]
    sets += [tuple(name + REGISTERED for name in some) for some in sets if some]
    for members, also in itertools.product(sets, ((), (APPEARANCE,))):
        yield dict.fromkeys((names[0], *members, *also), 1.0)
    if len(names) == 2:
        for weight, other in itertools.product(WEIGHTS, WEIGHTS):
            if (weight, other) != (1.0, 1.0):
                yield {names[0]: 1.0, names[1]: weight, APPEARANCE: other}


def at_low_rates(values: dict[str, np.ndarray]) -> dict[str, float]:
    """What is told of all faults where few radiographs that belong are flagged."""
    plain, faults = values[""], [some for group, some in values.items() if group not in ("", PLAIN, "stretched")]
    parts = [
        roc_auc_score(np.r_[np.zeros(len(plain)), np.ones(len(some))], np.r_[plain, some], max_fpr=RATE) for some in faults
    ]
    found = {rate: np.mean([(some > np.quantile(plain, 1 - rate)).mean() for some in faults]) for rate in (0.01, RATE)}
    return {"partial": float(np.mean(parts)), "found_at_1": float(found[0.01]), "found_at_5": float(found[RATE])}


def main() -> None:
    which, names = sys.argv[1], sys.argv[2:]
    first, *others = (Detector.load(name) for name in names)
    first.network.members = torch.nn.ModuleList(other.network for other in others)
    for other in others:
        other.network.crops = first.network.crops
    scans = development_films(first)
    images = made(torch.stack([torch.from_numpy(scan.pixels) for scan in scans]))
    if which == "test":
        images = {PLAIN: images[PLAIN]}  # the radiographs as they are, which standardise
    groups = {name: [replace(scans[0], pixels=one.numpy()) for one in some] for name, some in images.items()}
    if which == "test":
        data = Path(os.environ["MEDOOD_DATA"])
        groups |= {name: [s for s in read_scans(data / where) if isinstance(s, Scan)] for name, where in OTHERS.items()}
        groups["mirrored"] = [replace(scan, pixels=scan.pixels[:, :, ::-1].copy()) for scan in groups["test"]]
    said = {group: asked(first, names, some) for group, some in groups.items()}
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, weights in enumerate(weighted(names)):
        values = concatenate_features(said, weights)
        if which == "development":
            row = at_low_rates(values) | development(values) | {"device": auroc(values[PLAIN], values[""])}
        else:
            limit = np.quantile(values["test"], 0.99)
            row = test(values) | {
                "pakistani_device": auroc(values["test"], values["pk"]),
                "textures": auroc(values["test"], values["textures"]),
                "mirrored": auroc(values["test"], values["mirrored"]),
                "mirrored_at_1": float((values["mirrored"] > limit).mean()),
            }
        if not number:
            writer.writerow(["asked", *row])
        votes = [(Path(name).name, weight) for name, weight in list(weights.items())[1:]]
        told = ", ".join(name if weight == 1.0 else f"{weight} x {name}" for name, weight in votes) or "own head alone"
        writer.writerow([told, *(f"{value:.4f}" for value in row.values())])


if __name__ == "__main__":
    main()
