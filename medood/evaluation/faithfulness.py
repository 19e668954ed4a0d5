"""Faithfulness of the evidence maps, measured against chance on scans with planted faults.

Three figures. *Localisation*: in-distribution scans get one fault at a known place; the share of maps that peak inside it,
and the intersection over union of the fault and the map's area at full strength. *Deletion*: the share of the image
that the map calls most relevant is filled from its surroundings (noisy linear imputation of ROAD, Rong et al. 2022, from
pytorch-grad-cam); the deciding score must fall faster than for a random share or a blob in the centre.
*Randomisation* (Adebayo et al. 2018): a network of random weights must not give the same maps.
"""

from __future__ import annotations

import copy
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from scipy.stats import spearmanr
from torch import Generator, Tensor, nn

from medood.detection.conformal import Decision
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.evaluation.acquisition_faults import DIAMETER, KINDS, Masks, plant
from medood.evidence.evidence_maps import evidence_maps
from medood.evidence.grad_cam import Maps, grad_cam
from medood.evidence.score_map import score_maps
from medood.negatives.shift import coordinates
from medood.progress import Progress
from medood.scans.reader import read_scans
from medood.scans.scan import Scan

#: Shares of the image that are deleted.
SHARES = (0.025, 0.05, 0.1, 0.2)
#: Ranges of diameters for which opacities are reported separately, as shares of the width.
SIZES = ((0.1, 0.15), (0.2, 0.25))
#: Number of scans for deletion, which solves a system of equations for each.
_DELETED = 30


@dataclass(frozen=True)
class Localisation:
    """How well maps find planted faults of one kind.

    Attributes:
        maps: ``score``, ``places``, ``both``, or ``grad_cam`` of the network's head alone, which has no scale.
        kind: kind of fault.
        diameter: range of the faults' diameters, as shares of the width.
        scans: number of scans.
        flagged: share of scans that the detector flags at 5 %.
        peak: share of maps that peak inside the fault.
        peak_flagged: the same among flagged scans, the only ones with a map in a report; None if there are none.
        centre: share of faults that cover the centre of the image.
        chance: share of the image that the faults cover: the hit rate of a random peak.
        iou: mean intersection over union of the fault and the area that the map shows at full strength.
    """

    maps: str
    kind: str
    diameter: tuple[float, float]
    scans: int
    flagged: float
    peak: float
    peak_flagged: float | None
    centre: float
    chance: float
    iou: float | None


@dataclass(frozen=True)
class Deletion:
    """Mean score after filling a share of the image, as a share of what the fault had added.

    Attributes:
        order: order in which pixels are filled: ``score``, ``centre`` or ``random``.
        left: remaining score by share of the image; 1 is the score of the scan with its fault, 0 that of the scan without.
    """

    order: str
    left: dict[float, float]


def localisation(
    detector: Detector, images: Tensor, kind: str, seed: int = 0, diameter: tuple[float, float] = DIAMETER
) -> list[Localisation]:
    """Plant one kind of fault in in-distribution images and measure whether each kind of map finds it."""
    planted, masks = plant(kind, images, Generator().manual_seed(seed), diameter)
    flagged = np.array([v.decision == Decision.OUT_OF_DISTRIBUTION for v in detector.judge(detector.embed(planted), 0.05)])
    middle = masks.shape[1] // 2
    results = []
    maps_by_kind = evidence_maps(detector, planted).maps | {"grad_cam": grad_cam(detector, planted)}
    for name, maps in maps_by_kind.items():
        hits = peaks_inside(maps, masks)
        results.append(
            Localisation(
                name,
                kind,
                diameter,
                len(planted),
                round(float(flagged.mean()), 4),
                round(float(hits.mean()), 4),
                round(float(hits[flagged].mean()), 4) if flagged.any() else None,
                round(float(masks[:, middle, middle].mean()), 4),
                round(float(masks.mean()), 4),
                round(float(overlap(maps >= 1.0, masks).mean()), 4) if name != "grad_cam" else None,
            )
        )
    return results


def peaks_inside(maps: Maps, masks: Masks) -> npt.NDArray[np.bool_]:
    """Whether each map peaks inside its mask; False for a map that is 0 everywhere."""
    places = maps.reshape(len(maps), -1).argmax(axis=1)
    inside = masks.reshape(len(masks), -1)[np.arange(len(masks)), places]
    return np.asarray(inside & (maps.reshape(len(maps), -1).max(axis=1) > 0))


def overlap(first: Masks, second: Masks) -> npt.NDArray[np.float64]:
    """Intersection over union of each pair of masks; 0 where both are empty."""
    both, either = (first & second).sum(axis=(1, 2)), (first | second).sum(axis=(1, 2))
    return np.asarray(both / np.maximum(either, 1), dtype=np.float64)


def deletion(detector: Detector, images: Tensor, kind: str = "opacity", seed: int = 0) -> list[Deletion]:
    """Fill the most relevant share of images with a planted fault, by the map's order and two uninformed orders."""
    images = images[:_DELETED]
    planted, _ = plant(kind, images, Generator().manual_seed(seed))
    side = planted.shape[-1]
    row, col = coordinates(planted)
    centre = -((row - 0.5) ** 2 + (col - 0.5) ** 2)[0, 0].numpy()
    rng = np.random.default_rng(seed)
    orders = {
        "score": score_maps(detector, planted).maps,
        "centre": np.broadcast_to(centre, (len(planted), side, side)),
        "random": rng.random((len(planted), side, side)),
    }
    before, after = (float(deciding_scores(detector, image_set).mean()) for image_set in (images, planted))
    impute = NoisyLinearImputer(noise=0.0)
    results = []
    for name, order in orders.items():
        remaining = {}
        for share in SHARES:
            limits = np.quantile(order.reshape(len(order), -1), 1 - share, axis=1)
            keep = torch.from_numpy((order <= limits[:, None, None]).astype(np.float32))
            filled = torch.stack([impute(image, keep_mask) for image, keep_mask in zip(planted, keep, strict=True)])
            score = float(deciding_scores(detector, filled.clamp(0.0, 1.0)).mean())
            remaining[share] = round((score - before) / max(after - before, 1e-9), 4)
        results.append(Deletion(name, remaining))
    return results


def randomise(detector: Detector, images: Tensor, seed: int = 0) -> float:
    """Mean rank correlation of the Grad-CAM maps with those of the same network with random weights; 0 is best."""
    other = copy.copy(detector)
    other.network = copy.deepcopy(detector.network)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in other.network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=float(module.weight.std()) or 0.02)
    maps, wrong = grad_cam(detector, images), grad_cam(other, images)
    pairs = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(maps, wrong, strict=True)]
    return round(float(np.nanmean(np.nan_to_num(pairs))), 4)


#: Name and value of each figure; None if undefined.
Figures = list[tuple[str, float | None]]


def measure(detector: Detector, source: Path, *, limit: int, seed: int, progress: Progress) -> Figures:
    """Measure all figures on the first ``limit`` scans of a source that the detector did not learn from.

    Raises:
        MedoodError: there are fewer than two such scans.
    """
    learned = {bytes(key.tolist()).hex() for key in detector.learned.keys}
    prepared: list[Tensor] = []
    try:
        for scan in read_scans(source):
            if len(prepared) < limit and isinstance(scan, Scan) and scan.identity.sha256 not in learned:
                prepared.append(detector.prepare(scan))
    except FileNotFoundError as error:
        raise MedoodError(f"{error}. Give a folder or archive of in-distribution scans.") from error
    if len(prepared) < 2:
        raise MedoodError(f"{source} holds {len(prepared)} scans that the detector did not learn from; it takes at least 2.")
    images = torch.stack(prepared)
    figures: Figures = [("scans", float(len(images)))]
    with progress.bar(len(KINDS) + len(SIZES) + 2, "faithfulness") as bar:
        for kind, diameter in [*((kind, DIAMETER) for kind in KINDS), *(("opacity", size) for size in SIZES)]:
            localisations = localisation(detector, images, kind, seed, diameter)
            name = f"{kind} of {diameter[0]:g} to {diameter[1]:g} of the width"
            figures += [
                (f"{name}: flagged at 5 %", localisations[0].flagged),
                (f"{name}: the centre lies inside", localisations[0].centre),
                (f"{name}: a random place lies inside", localisations[0].chance),
            ]
            for item in localisations:
                figures += [
                    (f"{name}: {item.maps} peaks inside", item.peak),
                    (f"{name}: {item.maps} peaks inside, where flagged", item.peak_flagged),
                    (f"{name}: {item.maps}, intersection over union at full strength", item.iou),
                ]
            bar(1, "")
        for order in deletion(detector, images, seed=seed):
            figures += [
                (f"score left after {share:g} of the image was filled, by {order.order}", remaining)
                for share, remaining in order.left.items()
            ]
        bar(1, "")
        figures.append(("rank correlation with the map of random weights", randomise(detector, images[:_DELETED], seed)))
        bar(1, "")
    return figures


def write_csv(figures: Figures, target: Path) -> None:
    """Write the figures, one per line.

    Raises:
        MedoodError: the file cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["figure", "value"])
            writer.writerows((name, "" if value is None else f"{value:.4f}") for name, value in figures)
    except OSError as error:
        raise MedoodError(f"{target} cannot be written: {error.strerror}.") from error


@torch.no_grad()
def deciding_scores(detector: Detector, images: Tensor) -> npt.NDArray[np.float64]:
    """The deciding score of images ``[N, 1, S, S]``."""
    return np.asarray(detector.score(detector.embed(images)).double().numpy())
