"""Holds candidates for the shipped detector against each other on development radiographs alone. Prints CSV.

What belongs is given as another hospital's device might give it: a grey curve, contrast, brightness and blur about twice as
strong as any seen in training, and another balance of fine and coarse. What does not belong is made in two ways: by the
shifts that every candidate has learned from (a fault is found that was shown), and by faults that none has learned from (one
that was not). Shifts that some candidates alone have learned from are told in columns of their own and count for none. Every
fault is made in the radiograph, before the detector's own preprocessing. The score is the one of the highest mean, as is the
detector. No calibration or test radiograph plays a part.

Usage: python -m reports.cxr_small.choose DETECTOR...   (MEDOOD_DATA names the folder of real images)
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from medood.config.schema import ViewsConfig
from medood.detection.detector import Detector
from medood.detection.features import embed
from medood.detection.score_selection import separations
from medood.distillation.views import acquire, blur, sample_view
from medood.negatives.mixture import SHIFTS, Mixture
from medood.negatives.shift import uniform
from medood.phantom.outliers import OUTLIERS
from medood.scans.cache import ImageCache
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from medood.workflows.training_data import split_by_patient

#: As another device might give a radiograph; the recipes train with contrast and gamma 0.35, brightness 0.15.
DEVICES = ViewsConfig(rotation=5.0, brightness=0.25, contrast=0.6, gamma=1.0, blur=0.5, blur_sigma=2.0, detail=1.2)
FIRST = ("rot", "rot_360", "mirror", "upside_down", "perm4", "perm16", "inverted", "wrong_window", "framing")
FURTHER = ("joined_halves", "blended_patch", "opacity", "haze", "effusion", "stretched", "dead_leaves")


def places(side: int) -> tuple[Tensor, Tensor]:
    line = torch.linspace(-1.0, 1.0, side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return y, x


def double_exposure(films: Tensor, generator: Generator) -> Tensor:
    return (films + films[torch.randperm(len(films), generator=generator)]) / 2


def swirled(films: Tensor, generator: Generator) -> Tensor:
    """Smooth displacements of up to about a tenth of the width."""
    count, side = len(films), films.shape[-1]
    coarse = torch.randn(count, 2, 4, 4, generator=generator) * 0.12
    moved = interpolate(coarse, (side, side), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    y, x = places(side)
    return torch.nn.functional.grid_sample(films, torch.stack([x, y], -1) + moved, padding_mode="border", align_corners=True)


def metal(films: Tensor, generator: Generator) -> Tensor:
    """A bright disc somewhere in the middle, a tenth of the width in radius."""
    y, x = places(films.shape[-1])
    across, down = (uniform(len(films), -0.6, 0.6, generator)[:, None, None, None] for _ in range(2))
    radius = uniform(len(films), 0.1, 0.25, generator)[:, None, None, None]
    return torch.where((x - across) ** 2 + (y - down) ** 2 < radius**2, torch.ones(()), films)


def dead_rows(films: Tensor, generator: Generator) -> Tensor:
    """A tenth of the rows without signal."""
    y, _ = places(films.shape[-1])
    first = uniform(len(films), -0.8, 0.6, generator)[:, None, None, None]
    return torch.where((y > first) & (y < first + 0.2), torch.zeros(()), films)


def grid(films: Tensor, generator: Generator) -> Tensor:
    """The lines of a misplaced grid."""
    _, x = places(films.shape[-1])
    frequency = uniform(len(films), 15.0, 40.0, generator)[:, None, None, None]
    return (films + 0.2 * torch.sin(frequency * x)).clamp(0, 1)


def noise(films: Tensor, generator: Generator) -> Tensor:
    return (films + 0.25 * torch.randn(films.shape, generator=generator)).clamp(0, 1)


def half_blank(films: Tensor, generator: Generator) -> Tensor:
    y, x = places(films.shape[-1])
    sideways = (torch.rand(len(films), generator=generator) < 0.5)[:, None, None, None]
    return torch.where(torch.where(sideways, x, y) > 0.1, torch.zeros(()), films)


def misplaced(films: Tensor, generator: Generator) -> Tensor:
    """Moved by a quarter to a third of the width, black behind it."""
    angle = uniform(len(films), 0.0, 2 * np.pi, generator)
    matrix = torch.zeros(len(films), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1.0
    matrix[:, 0, 2], matrix[:, 1, 2] = 0.6 * torch.cos(angle), 0.6 * torch.sin(angle)
    where = torch.nn.functional.affine_grid(matrix, list(films.shape), align_corners=False)
    return torch.nn.functional.grid_sample(films, where, align_corners=False)


def erased_lung(films: Tensor, generator: Generator) -> Tensor:
    """One half of the chest blurred away."""
    _, x = places(films.shape[-1])
    left = (torch.rand(len(films), generator=generator) < 0.5)[:, None, None, None]
    share = torch.sigmoid(torch.where(left, -x, x) * 20)
    return films * (1 - share) + blur(films, torch.full((len(films),), 24.0)) * share


#: Faults that no candidate has learned from.
UNSEEN: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "double exposure": double_exposure,
    "swirled": swirled,
    "metal": metal,
    "dead rows": dead_rows,
    "grid": grid,
    "noise": noise,
    "half blank": half_blank,
    "misplaced": misplaced,
    "erased lung": erased_lung,
}
#: Name of the radiographs as they are.
PLAIN = "as they are"
STRANGE = ("hand_like", "ct_like", "lateral_like")


def development_films(detector: Detector) -> list[Scan]:
    """The training radiographs that the detector did not learn from, as its seed parts them."""
    scans = [
        scan for scan in read_scans(Path(os.environ["MEDOOD_DATA"]) / "in_distribution/train") if isinstance(scan, Scan)
    ]
    cache = ImageCache(np.zeros((0, 1, 1), np.uint8), [s.identity.key for s in scans], [s.patient for s in scans], {})
    config = detector.metadata.config
    seed = config["data"].get("split_seed")
    seed = config["train"]["seed"] if seed is None else seed
    _, held = split_by_patient(cache, config["data"]["development_fraction"], seed)
    return [scans[i] for i in held]


def made(films: Tensor) -> dict[str, Tensor]:
    """The radiographs as they are (``PLAIN``), what belongs (``""``) and every fault."""
    generator = Generator().manual_seed(0)
    images = {PLAIN: films, "": acquire(films, sample_view(len(films), [1.0, 1.0], DEVICES, generator))}
    for shift in (*FIRST, *FURTHER):
        assert shift in SHIFTS
        mixture = Mixture({shift: 1.0})
        images[shift] = mixture.apply(films, mixture.sample(len(films), films.shape[-1], generator))
    for name, fault in UNSEEN.items():
        images[name] = fault(films, generator)
    for kind in STRANGE:
        drawn = [OUTLIERS[kind](seed, films.shape[-1]) for seed in range(len(films) // 3)]
        images[kind] = torch.stack([torch.from_numpy(np.asarray(image, np.float32))[None] for image in drawn])
    return images


def main() -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    detectors = {name: Detector.load(name) for name in sys.argv[1:]}
    scans = development_films(next(iter(detectors.values())))
    images = made(torch.stack([torch.from_numpy(scan.pixels) for scan in scans]))
    del images[PLAIN]
    mixtures = [detector.metadata.config["negatives"]["mixture"] for detector in detectors.values()]
    learned = [{shift for shift, weight in mixture.items() if weight > 0} for mixture in mixtures]
    shared = [shift for shift in (*FIRST, *FURTHER) if all(shift in some for some in learned)]
    others = [shift for shift in (*FIRST, *FURTHER) if shift not in shared]
    counted = [*shared, *UNSEEN, *STRANGE]
    writer.writerow(["detector", "score", "mean", "shared", "unseen", "others", *counted, *others])
    for name, detector in detectors.items():
        rows = {}
        for fault, some in images.items():
            inputs = [detector.prepare(replace(scans[0], pixels=image.numpy())) for image in some]
            rows[fault] = embed(detector.network, torch.stack(inputs))
        for score, values in separations(rows, detector.bank, detector.fitted).items():
            groups = (counted, shared, [*UNSEEN, *STRANGE], others, *([fault] for fault in (*counted, *others)))
            means = [f"{np.mean([values[fault] for fault in some]):.4f}" if some else "" for some in groups]
            writer.writerow([name, score, *means])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
