"""Which members to ask beside a detector's own head, and how to join what they say. Prints CSV.

Rule: of sets whose mean (as in choose.py) is within 0.005 of the highest, about its standard error, that which finds most of
all faults at 1 % of false alarms, as screening does. ``entropies`` is Fisher's rule over the detector's entropy and the mean
of its members', ``divergences`` the sum of log divergences as in the score ``ensemble``; each standardised among development
films. ``development`` is what was chosen by; ``test`` tells what each would give on test sets.

Usage: python reports/cxr_small/members.py development|test DETECTOR MEMBER...   (MEDOOD_DATA: the folder of real pictures)
"""

from __future__ import annotations

import csv
import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from choose import PLAIN, development_films, made
from crops import TEST, auroc, development, test
from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.features import head_entropy, log_divergence
from medood.detection.scores import fisher
from medood.scans.read import read_scans
from medood.scans.scan import Scan

OTHERS = TEST | {"textures": "far/textures"}
Said = dict[str, dict[str, Tensor]]


@torch.no_grad()
def outputs(first: Detector, names: list[str], scans: list[Scan]) -> dict[str, Tensor]:
    """What the detector's own head and its members' say of the films."""
    pictures = torch.stack([first.prepare(scan) for scan in scans])
    said = [(first.network.embed(some)[1], *first.network.member_outputs(some)) for some in torch.split(pictures, 100)]
    return {name: torch.cat(parts) for name, parts in zip(names, zip(*said, strict=True), strict=True)}


def standardised(said: Said, names: tuple[str, ...], what: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Sum over some heads of what they say, each standardised among development films, by group of films."""
    total: dict[str, Tensor] = {}
    for name in names:
        values = {group: what(some[name]).double() for group, some in said.items()}
        centre, spread = values[PLAIN].mean(), values[PLAIN].std(correction=0)
        for group, value in values.items():
            total[group] = total.get(group, torch.zeros(())) + (value - centre) / spread
    return total


def scores(said: Said, first: str, members: tuple[str, ...], how: str) -> dict[str, np.ndarray]:
    if how == "divergences":
        joined = standardised(said, (first, *members), lambda some: -log_divergence(some))
        return {group: value.numpy() for group, value in joined.items()}
    parts = [standardised(said, (first,), head_entropy)]
    if members:
        others = standardised(said, members, head_entropy)
        centre, spread = others[PLAIN].mean(), others[PLAIN].std(correction=0)
        parts.append({group: (value - centre) / spread for group, value in others.items()})
    return {group: fisher(torch.stack([part[group] for part in parts])).numpy() for group in said}


def found_at(values: dict[str, np.ndarray], rate: float) -> float:
    limit = np.quantile(values[""], 1 - rate)
    faults = [some for group, some in values.items() if group not in ("", PLAIN, "stretched")]
    return float(np.mean([(some > limit).mean() for some in faults]))


def main() -> None:
    which, names = sys.argv[1], sys.argv[2:]
    first, *others = (Detector.load(name) for name in names)
    first.network.members = torch.nn.ModuleList(other.network for other in others)
    for other in others:
        other.network.crops = first.network.crops
    scans = development_films(first)
    pictures = made(torch.stack([torch.from_numpy(scan.pixels) for scan in scans]))
    if which == "test":
        pictures = {PLAIN: pictures[PLAIN]}  # the films as they are, which standardise
    groups = {name: [replace(scans[0], pixels=one.numpy()) for one in some] for name, some in pictures.items()}
    if which == "test":
        data = Path(os.environ["MEDOOD_DATA"])
        groups |= {name: [s for s in read_scans(data / where) if isinstance(s, Scan)] for name, where in OTHERS.items()}
        groups["mirrored"] = [replace(scan, pixels=scan.pixels[:, :, ::-1].copy()) for scan in groups["test"]]
    said = {group: outputs(first, names, some) for group, some in groups.items()}
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for count in range(len(names)):
        for members in itertools.combinations(names[1:], count):
            for how in ("entropies", "divergences"):
                values = scores(said, names[0], members, how)
                if which == "development":
                    row = development(values) | {
                        "device": auroc(values[PLAIN], values[""]),
                        "found_at_1": found_at(values, 0.01),
                        "found_at_5": found_at(values, 0.05),
                    }
                else:
                    limit = np.quantile(values["test"], 0.99)
                    row = test(values) | {
                        "textures": auroc(values["test"], values["textures"]),
                        "mirrored": auroc(values["test"], values["mirrored"]),
                        "mirrored_at_1": float((values["mirrored"] > limit).mean()),
                    }
                if not count and how == "entropies":
                    writer.writerow(["members", "joined", *row])
                told = ", ".join(Path(name).name for name in members) or "none"
                writer.writerow([told, how, *(f"{value:.4f}" for value in row.values())])


if __name__ == "__main__":
    main()
