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
from medood.evidence import positions as rule
from medood.evidence.fault_codes import FaultName
from medood.evidence.fault_names import UNDOES
from medood.evidence.positions import POSITIONS, Positions, positions
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
#: What the lesion network calls each fault, as the names that are right.
OWN = {str(fault): correction for correction, fault in UNDOES.items()}
OWN[FaultName.NOT_A_FRONTAL_CHEST_RADIOGRAPH] = "foreign"
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
    rule.FLAT, rule.UNLIKE = flat, unlike
    named = [
        "foreign" if is_foreign else correction or OWN.get(own, own)
        for is_foreign, correction, own in zip(found.foreign, found.corrections, found.probable_faults, strict=True)
    ]
    return float(np.mean([name == right for name in named]))


if __name__ == "__main__":
    main()
