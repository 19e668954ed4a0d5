"""Scores of a scan as it is and after each correction of its position and grey scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.lesions.network import lesion_parts, most_probable_faults
from medood.detection.scores import Ensemble

#: Corrections of the position and the grey scale of ``[..., H, W]`` images.
POSITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "turned by 90 degrees clockwise": lambda image: torch.rot90(image, -1, (-2, -1)),
    "turned by 90 degrees counter-clockwise": lambda image: torch.rot90(image, 1, (-2, -1)),
    "turned by 180 degrees": lambda image: image.flip(-2, -1),
    "mirrored": lambda image: image.flip(-1),
    "flipped upside down": lambda image: image.flip(-2),
    "inverted": lambda image: 1.0 - image,
}
#: Those that cannot be told from another, or from nothing, where mirrored scans are in distribution.
_MIRRORING = ("mirrored", "flipped upside down")
#: A correction must lower the score by this many interquartile ranges of the calibration scores.
LEAST_DROP = 1.0
#: Without an appearance model, it must also remove this share of the score's excess over the median calibration score:
#: photographs, which are odd in every position and by chance slightly less so in one, lost at most 0.6.
LEAST_SHARE = 0.7
#: A scan is no frontal chest radiograph if its median score over positions is less than this many interquartile ranges above
#: its lowest one, and even its lowest appearance part is at least as many standard deviations out. Both were set on training
#: radiographs, whole and under shifting transformations, and on photographs, synthetic outliers and textures.
FLAT, UNLIKE = 4.0, 3.0
#: A scan that shows disease is no stranger: where the score has a part for faults of whole images, this is its least value,
#: at which the odds of one are even.
LEAST_FAULT = float(np.log(2.0))
#: Probability from which the lesion network's own name of a fault is taken, where no correction lowers the score enough; and
#: that from which the names of ``_NO_POSITION``, which no position undoes, are taken first. Set on calibration radiographs
#: and photographs.
LEAST_PROBABILITY, SURE = 0.5, 0.97
_NO_POSITION = ("cropped_or_misframed", "wrong_window")
#: Copies that are scored at once.
_BATCH = 64


@dataclass(frozen=True)
class Positions:
    """Scores of scans as they are and after each correction of ``POSITIONS``.

    Attributes:
        scores: ``[N, 1 + C]``, the first as the scans are.
        appearance: ``[N, 1 + C]``, how many standard deviations the appearance is out; ``None`` if the detector has no
            appearance model.
        middle: median of the calibration scores.
        unit: their interquartile range.
        faults: ``[N]``, the part of the score for faults of whole images; ``None`` if the detector has none.
        own_names: the lesion network's name of each scan's fault, empty for none, and its probability; ``None`` if the
            detector has no such network.
        names: names of the C corrections.
    """

    scores: npt.NDArray[np.float64]
    appearance: npt.NDArray[np.float64] | None
    middle: float
    unit: float
    faults: npt.NDArray[np.float64] | None = None
    own_names: list[tuple[str, float]] | None = None
    names: tuple[str, ...] = tuple(POSITIONS)

    @property
    def probable_faults(self) -> list[str]:
        """The fault of each scan as the lesion network names it, if it is sure enough; else empty."""
        if self.own_names is None:
            return [""] * len(self.scores)
        least = dict.fromkeys(_NO_POSITION, SURE)
        return [name if share >= least.get(name, LEAST_PROBABILITY) else "" for name, share in self.own_names]

    @property
    def corrections(self) -> list[str]:
        """The correction with the lowest score of each scan; empty if it lowers it too little, or the scan is foreign."""
        drop = self.scores[:, 0] - self.scores.min(axis=1)
        enough = (drop > LEAST_DROP * self.unit) & np.isfinite(self.scores).all(axis=1) & ~self.foreign & ~self._unplaced
        if self.appearance is None:
            enough &= drop >= LEAST_SHARE * (self.scores[:, 0] - self.middle)
        names = ["", *self.names]
        return [names[place] if fits else "" for place, fits in zip(self.scores.argmin(axis=1), enough, strict=True)]

    @property
    def foreign(self) -> npt.NDArray[np.bool_]:
        """Which scans ``[N]`` are no frontal chest radiograph in any position; none without an appearance model."""
        if self.appearance is None:
            return np.zeros(len(self.scores), dtype=np.bool_)
        flat = np.median(self.scores, axis=1) - self.scores.min(axis=1) < FLAT * self.unit
        foreign = flat & (self.appearance.min(axis=1) >= UNLIKE) & ~self._unplaced
        return np.asarray(foreign if self.faults is None else foreign & (self.faults >= LEAST_FAULT))

    @property
    def _unplaced(self) -> npt.NDArray[np.bool_]:
        """Which scans ``[N]`` surely have a fault that no position undoes."""
        return np.array([name in _NO_POSITION for name in self.probable_faults], dtype=np.bool_)


def positions(detector: Detector, images: Tensor) -> Positions:
    """Score images as they are and after each correction.

    Args:
        detector: the detector.
        images: float32 ``[N, 1, S, S]`` as the detector prepares them.
    """
    left_out = _MIRRORING if detector.metadata.mirrored_belong else ()
    tried = {name: correct for name, correct in POSITIONS.items() if name not in left_out}
    copies = torch.cat([images, *(correct(images) for correct in tried.values())])
    faults, own_names, appearance = None, None, None
    if detector.score_name == "lesions":
        scores, unlike, parts, logits = _lesion_scores(detector, copies)
        appearance = unlike.reshape(1 + len(tried), len(images)).T
        faults = parts[: len(images), 1].double().numpy()
        own_names = most_probable_faults(logits[: len(images)])
    else:
        rows = detector.embed(copies)
        scores = detector.raw_scores(rows)
        if detector.score_name == "ensemble" and detector.network.appearance is not None:
            unlike = Ensemble.parts(rows, detector.fitted["ensemble"])[:, -1].double().numpy()
            appearance = unlike.reshape(1 + len(tried), len(images)).T
    scores = scores.reshape(1 + len(tried), len(images)).T
    calibration = detector.calibration.scores[np.isfinite(detector.calibration.scores)]
    low, middle, high = np.quantile(calibration, [0.25, 0.5, 0.75]) if len(calibration) else (0.0, 0.0, 0.0)
    return Positions(scores, appearance, float(middle), float(high - low), faults, own_names, tuple(tried))


@torch.no_grad()
def _lesion_scores(
    detector: Detector, copies: Tensor
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Tensor, Tensor]:
    """Of each copy: the score ``lesions``, how many standard deviations its appearance is out, the score's parts, and the
    logits of faults. The detector's first network has no say in these and is not run.
    """
    network, fitted = detector.network, detector.fitted["ensemble"]
    assert network.appearance is not None
    distances, parts, logits = [], [], []
    for batch in torch.split(copies, _BATCH):
        places, local, fault = network.lesion_outputs(batch)
        distances.append(network.appearance(batch, places))
        parts.append(lesion_parts(local, fault))
        logits.append(fault)
    unlike = (torch.cat(distances) + fitted["center"][-1]) / fitted["spread"][-1]
    both = torch.cat(parts)
    return both.sum(dim=1).double().numpy(), unlike.double().numpy(), both, torch.cat(logits)
