"""Sets the thresholds of medood.evidence.positions on calibration radiographs and images of no test set. Prints CSV.

Flagged images alone count. A pair of thresholds is as good as the worst of these shares: of each fault named right, of each
kind of image that is no chest radiograph so named, and of radiographs with planted lesions named neither. What is cropped or
wrongly windowed is shown, and does not choose.

Usage: MEDOOD_DATA=FOLDER python -m reports.evidence.thresholds DETECTOR > reports/evidence/thresholds.csv
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Generator, Tensor

from medood.detection.detector import Detector
from medood.evidence.fault_names import UNDOES
from medood.evidence.positions import LEAST_FAULT, POSITIONS, Positions, positions
from medood.negatives.mixture import Mixture
from medood.phantom.outliers import OUTLIERS
from reports.evidence.corrections import DATA, films

COUNT = 60
#: What undoes each fault: its own correction, or the opposite turn.
UNDONE_BY = {
    "turned by 90 degrees clockwise": "turned by 90 degrees counter-clockwise",
    "turned by 90 degrees counter-clockwise": "turned by 90 degrees clockwise",
}
FOREIGN = ("dead_leaves", "perm16", "pixel_perm")
FRAMES = {"framing": "cropped_or_misframed", "wrong_window": "wrong_window"}
LESIONS = ("opacity", "haze", "infiltrate", "effusion")
#: What the lesion network calls each fault, as the correction that undoes it.
OWN = {str(fault): correction for correction, fault in UNDOES.items()}
FLAT = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
UNLIKE = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


def negatives(name: str, plain: Tensor) -> Tensor:
    mixture = Mixture({name: 1.0})
    return mixture.apply(plain, mixture.sample(len(plain), plain.shape[-1], Generator().manual_seed(5)))


def phantoms(name: str, side: int) -> Tensor:
    return torch.stack([Tensor(OUTLIERS[name](seed, side))[None] for seed in range(40)])


def main() -> None:
    detector = Detector.load(sys.argv[1])
    plain = films(detector, DATA / "in_distribution/calibration", COUNT, 200)
    kinds: dict[str, tuple[Callable[[], Tensor], str]] = {
        **{name: (partial(apply, plain), UNDONE_BY.get(name, name)) for name, apply in POSITIONS.items()},
        **{name: (partial(negatives, name, plain), "foreign") for name in FOREIGN},
        "noise": (partial(torch.rand, plain.shape, generator=Generator().manual_seed(4)), "foreign"),
        "photographs": (partial(films, detector, DATA / "cifar10" / "train.zip", COUNT), "foreign"),
        **{name: (partial(phantoms, name, plain.shape[-1]), "foreign") for name in ("hand_like", "ct_like")},
        **{name: (partial(negatives, name, plain), fault) for name, fault in FRAMES.items()},
        **{name: (partial(negatives, name, plain), "") for name in LESIONS},
    }
    seen: dict[str, tuple[Positions, str]] = {}
    for name, (make, right) in kinds.items():
        images = make()
        flagged = detector.predict(images, 0.05) == -1
        seen[name] = positions(detector, images[torch.from_numpy(flagged)]), right
        print(name, int(flagged.sum()), file=sys.stderr, flush=True)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["flat", "unlike", "worst", *(f"{name} ({len(found.scores)})" for name, (found, _) in seen.items())])
    rows = []
    for flat in FLAT:
        for unlike in UNLIKE:
            shares = {name: share(found, right, flat, unlike) for name, (found, right) in seen.items()}
            rows.append(
                [
                    flat,
                    unlike,
                    min(shares[name] for name, (_, right) in seen.items() if right not in FRAMES.values()),
                    *shares.values(),
                ]
            )
    for row in sorted(rows, key=lambda row: -row[2]):
        writer.writerow([*row[:2], *(f"{value:.3f}" for value in row[2:])])


def share(found: Positions, right: str, flat: float, unlike: float) -> float:
    """Share of the images that are called what they are, with these thresholds."""
    drop = np.median(found.scores, axis=1) - found.scores.min(axis=1)
    assert found.appearance is not None
    framed = np.isin(found.probable_faults, list(FRAMES.values()))
    assert found.faults is not None
    odd = (found.appearance.min(axis=1) >= unlike) & (found.faults >= LEAST_FAULT)
    foreign = (drop < flat * found.unit) & odd & ~framed
    lowest = np.array(["", *POSITIONS])[found.scores.argmin(axis=1)]
    least = found.scores[:, 0] - found.scores.min(axis=1) > found.unit
    own = np.array(["foreign" if name.startswith("not_a") else name for name in found.probable_faults])
    own = np.array([OWN.get(name, name) for name in own])
    named = np.where(foreign, "foreign", np.where(least & ~framed, lowest, own))
    return float((named == right).mean())


if __name__ == "__main__":
    main()
