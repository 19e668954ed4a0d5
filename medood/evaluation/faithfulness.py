"""Whether the maps of evidence can be believed: measured on scans with planted faults, against chance.

Three figures. *Localisation*: in-distribution scans get one fault at a known place; the share of maps that peak inside it,
and the intersection over union of the place and of what the map shows at full strength. *Deletion*: the share of the picture
that the map calls most relevant is filled from its surroundings (noisy linear imputation of ROAD, Rong et al. 2022, from
pytorch-grad-cam); the deviating score must fall faster than where the share is drawn at random or as a blob in the centre.
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

from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.evidence.evidence_maps import evidence_maps
from medood.evidence.grad_cam import Maps, grad_cam
from medood.evidence.score_map import score_maps
from medood.negatives.shift import column, coordinates, uniform
from medood.progress import Progress
from medood.scans.reader import read_scans
from medood.scans.scan import Scan

Masks = npt.NDArray[np.bool_]
#: Kinds of planted fault.
KINDS = ("opacity", "foreign_patch", "device")
#: Shares of the picture that are deleted.
SHARES = (0.025, 0.05, 0.1, 0.2)
#: Diameter of a planted fault, as a share of the width; and narrower ranges, in which opacities are told apart.
DIAMETER = (0.1, 0.25)
SIZES = ((0.1, 0.15), (0.2, 0.25))
#: Scans of the deletion, which solves a system of equations for each.
_DELETED = 30
#: Cells of the grid on which darkness is looked for.
_GRID = 16


@dataclass(frozen=True)
class Localisation:
    """How well maps find planted faults of one kind.

    Attributes:
        maps: ``score``, ``places``, ``both``, or ``grad_cam`` of the network's head alone, which has no scale.
        kind: of fault.
        diameter: of the faults, as a range of shares of the width.
        scans: number of them.
        flagged: share that the detector flags at 5 %.
        peak: share of maps that peak inside the fault.
        peak_flagged: the same among those flagged, for which alone a report shows a map; none where there are none.
        centre: share of faults that cover the centre of the picture.
        chance: share of the picture that the faults cover: what a peak at random would hit.
        iou: mean intersection over union of the fault and of what the map shows at full strength.
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
    """Mean score that is left after a share of the picture was filled, as a share of what the fault had added.

    Attributes:
        order: which pixels were taken first: ``score``, ``centre`` or ``random``.
        left: by share of the picture; 1 is the score of the scan with its fault, 0 that of the scan without.
    """

    order: str
    left: dict[float, float]


def plant(
    kind: str, pictures: Tensor, generator: Generator, diameter: tuple[float, float] = DIAMETER
) -> tuple[Tensor, Masks]:
    """Plant one fault in each picture, most often where the film is dark.

    Args:
        kind: ``opacity``: soft, lifts the grey value towards 0.7 or above; ``foreign_patch``: a disc out of another place of
            another picture; ``device``: a disc of metal, all white.
        pictures: float32 ``[N, 1, S, S]`` in [0, 1].
        generator: of the places and sizes.
        diameter: range of the fault's diameter, as a share of the width.

    Returns:
        the pictures with the faults, and where these are: bool ``[N, S, S]``. An opacity ends at 14 % of its height.
    """
    count, row, col = len(pictures), *coordinates(pictures)
    radius = column(uniform(count, *diameter, generator) / 2)
    dark = 1.0 - torch.nn.functional.adaptive_avg_pool2d(pictures, _GRID)[:, 0]
    axis = (torch.arange(_GRID) + 0.5) / _GRID
    frame = ((axis > 0.2) & (axis < 0.75))[:, None] & ((axis > 0.15) & (axis < 0.85))[None]
    weight = ((dark + 0.05) ** 4 * frame).flatten(1)
    place = torch.multinomial(weight, 1, generator=generator)[:, 0]
    wander = (torch.rand(2, count, generator=generator) - 0.5) / _GRID
    middle_row, middle_col = column(axis[place // _GRID] + wander[0]), column(axis[place % _GRID] + wander[1])
    distance = ((row - middle_row) ** 2 + (col - middle_col) ** 2).sqrt() / radius
    if kind == "opacity":
        strength = column(uniform(count, 0.5, 0.9, generator))
        made = torch.lerp(pictures, pictures.clamp(min=0.7), strength * torch.exp(-2.0 * distance**2))
    elif kind == "device":
        made = torch.where(distance < 1.0, torch.ones_like(pictures), pictures)
    else:
        side = pictures.shape[-1]
        other = pictures.roll((1, side // 3, side // 2), dims=(0, 2, 3))
        made = torch.where(distance < 1.0, other, pictures)
    return made, (distance[:, 0] < 1.0).numpy()


def localisation(
    detector: Detector, pictures: Tensor, kind: str, seed: int = 0, diameter: tuple[float, float] = DIAMETER
) -> list[Localisation]:
    """Plant one kind of fault in in-distribution pictures and see whether each kind of map finds it."""
    made, masks = plant(kind, pictures, Generator().manual_seed(seed), diameter)
    flagged = np.array([v.decision == "out_of_distribution" for v in detector.judge(detector.embed(made), 0.05)])
    middle = masks.shape[1] // 2
    found = []
    drawn = evidence_maps(detector, made).maps | {"grad_cam": grad_cam(detector, made)}
    for name, maps in drawn.items():
        hits = peaks_inside(maps, masks)
        found.append(
            Localisation(
                name,
                kind,
                diameter,
                len(made),
                round(float(flagged.mean()), 4),
                round(float(hits.mean()), 4),
                round(float(hits[flagged].mean()), 4) if flagged.any() else None,
                round(float(masks[:, middle, middle].mean()), 4),
                round(float(masks.mean()), 4),
                round(float(overlap(maps >= 1.0, masks).mean()), 4) if name != "grad_cam" else None,
            )
        )
    return found


def peaks_inside(maps: Maps, masks: Masks) -> npt.NDArray[np.bool_]:
    """Whether each map peaks inside its mask; a map that is 0 everywhere does not."""
    places = maps.reshape(len(maps), -1).argmax(axis=1)
    inside = masks.reshape(len(masks), -1)[np.arange(len(masks)), places]
    return np.asarray(inside & (maps.reshape(len(maps), -1).max(axis=1) > 0))


def overlap(first: Masks, second: Masks) -> npt.NDArray[np.float64]:
    """Intersection over union of each pair of masks; 0 where both are empty."""
    both, either = (first & second).sum(axis=(1, 2)), (first | second).sum(axis=(1, 2))
    return np.asarray(both / np.maximum(either, 1), dtype=np.float64)


def deletion(detector: Detector, pictures: Tensor, kind: str = "opacity", seed: int = 0) -> list[Deletion]:
    """Fill the most relevant share of pictures with a planted fault, by the map's order and by two that know nothing."""
    pictures = pictures[:_DELETED]
    made, _ = plant(kind, pictures, Generator().manual_seed(seed))
    side = made.shape[-1]
    row, col = coordinates(made)
    centre = -((row - 0.5) ** 2 + (col - 0.5) ** 2)[0, 0].numpy()
    rng = np.random.default_rng(seed)
    orders = {
        "score": score_maps(detector, made).maps,
        "centre": np.broadcast_to(centre, (len(made), side, side)),
        "random": rng.random((len(made), side, side)),
    }
    before, after = (float(deciding_scores(detector, some).mean()) for some in (pictures, made))
    impute = NoisyLinearImputer(noise=0.0)
    found = []
    for name, order in orders.items():
        left = {}
        for share in SHARES:
            limits = np.quantile(order.reshape(len(order), -1), 1 - share, axis=1)
            keep = torch.from_numpy((order <= limits[:, None, None]).astype(np.float32))
            filled = torch.stack([impute(picture, kept) for picture, kept in zip(made, keep, strict=True)])
            score = float(deciding_scores(detector, filled.clamp(0.0, 1.0)).mean())
            left[share] = round((score - before) / max(after - before, 1e-9), 4)
        found.append(Deletion(name, left))
    return found


def randomised(detector: Detector, pictures: Tensor, seed: int = 0) -> float:
    """Mean rank correlation of the Grad-CAM maps with those of the same network with weights drawn at random; 0 is best."""
    other = copy.copy(detector)
    other.network = copy.deepcopy(detector.network)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in other.network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=float(module.weight.std()) or 0.02)
    maps, wrong = grad_cam(detector, pictures), grad_cam(other, pictures)
    pairs = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(maps, wrong, strict=True)]
    return round(float(np.nanmean(np.nan_to_num(pairs))), 4)


#: Name and value of each figure; none where it cannot be told.
Figures = list[tuple[str, float | None]]


def measure(detector: Detector, source: Path, *, limit: int, seed: int, progress: Progress) -> Figures:
    """All figures, on the first ``limit`` scans of a source that the detector did not learn from.

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
    pictures = torch.stack(prepared)
    figures: Figures = [("scans", float(len(pictures)))]
    with progress.bar(len(KINDS) + len(SIZES) + 2, "faithfulness") as bar:
        for kind, diameter in [*((kind, DIAMETER) for kind in KINDS), *(("opacity", size) for size in SIZES)]:
            found = localisation(detector, pictures, kind, seed, diameter)
            name = f"{kind} of {diameter[0]:g} to {diameter[1]:g} of the width"
            figures += [
                (f"{name}: flagged at 5 %", found[0].flagged),
                (f"{name}: the centre lies inside", found[0].centre),
                (f"{name}: a random place lies inside", found[0].chance),
            ]
            for one in found:
                figures += [
                    (f"{name}: {one.maps} peaks inside", one.peak),
                    (f"{name}: {one.maps} peaks inside, where flagged", one.peak_flagged),
                    (f"{name}: {one.maps}, intersection over union at full strength", one.iou),
                ]
            bar(1, "")
        for order in deletion(detector, pictures, seed=seed):
            figures += [
                (f"score left after {share:g} of the picture was filled, by {order.order}", left)
                for share, left in order.left.items()
            ]
        bar(1, "")
        figures.append(("rank correlation with the map of random weights", randomised(detector, pictures[:_DELETED], seed)))
        bar(1, "")
    return figures


def write_csv(figures: Figures, target: Path) -> None:
    """Write the figures, one a line.

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
def deciding_scores(detector: Detector, pictures: Tensor) -> npt.NDArray[np.float64]:
    """The deciding score of pictures ``[N, 1, S, S]``."""
    return np.asarray(detector.score(detector.embed(pictures)).double().numpy())
