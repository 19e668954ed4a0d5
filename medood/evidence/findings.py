"""Findings on a flagged scan: a correction after which it fits, whether it is odd locally or throughout, and how far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.knn import largest_cosine
from medood.evidence.positions import LEAST_SHARE, POSITIONS, positions

Map = npt.NDArray[np.float32]

_BORDER = "without its even border"
#: Faults that an image may have, and the functions that undo them.
CORRECTIONS: dict[str, Callable[[Tensor], Tensor]] = POSITIONS | {_BORDER: lambda image: trim_border(image)}
#: Largest range of grey values in a row or column of an even border.
_EVEN = 0.02
#: Share of the image above which the area that stands out is no longer one place.
_LOCAL = 0.2
#: The same for the area at half strength.
_WIDE = 0.4
#: Share of the score from which a map counts as showing all of it.
_MOSTLY = 0.95
#: A scan is far if at most this share of the calibration scans lies at least as far.
_FAR = 0.01


@dataclass(frozen=True)
class Correction:
    """A correction after which a scan fits.

    Attributes:
        done: name of the correction, one of ``CORRECTIONS``.
        p_value: p-value of the corrected image.
        share: share of the score's excess over the median calibration score that the correction removes.
        image: corrected image, float32 ``[C, S, S]``.
    """

    done: str
    p_value: float
    share: float
    image: Tensor


@dataclass(frozen=True)
class CalibrationCosines:
    """Nearness of the calibration scans to the bank: the largest cosine ``[n]`` of each."""

    best: npt.NDArray[np.float64]

    @classmethod
    def of(cls, detector: Detector) -> CalibrationCosines:
        """Those of the detector's calibration scans; scans without finite features are left out."""
        features = detector.calibration.features
        features = features[features.isfinite().all(dim=1)]
        if not len(features):
            return cls(np.zeros(0))
        return cls(largest_cosine(features, detector.bank).double().numpy())

    def nearer(self, cosine: float) -> float:
        """Share of calibration scans that lie nearer than ``cosine``."""
        return float((self.best > cosine).mean()) if len(self.best) else 0.0


def corrections(detector: Detector, images: Tensor, scores: Sequence[float]) -> list[Correction | None]:
    """Best correction of each flagged image, or None: the score must fall by more than the interquartile range of the
    calibration scores, and the image must be one of the domain in that position.

    Args:
        detector: the detector.
        images: float32 ``[N, 1, S, S]`` as the detector prepares them.
        scores: ``[N]`` scores of the images.
    """
    names = positions(detector, images).corrections
    best = {i: (name, CORRECTIONS[name](images[i])) for i, name in enumerate(names) if name}
    if detector.preprocess.fit != "letterbox":  # whose even border medood itself adds
        trimmed = {i: trim_border(image) for i, image in enumerate(images) if not names[i]}
        best |= {i: (_BORDER, image) for i, image in trimmed.items() if not torch.equal(image, images[i])}
    fitting: list[Correction | None] = [None] * len(images)
    if best:
        after = detector.raw_scores(detector.embed(torch.stack([image for _, image in best.values()])))
        for (i, (name, image)), score in zip(best.items(), after, strict=True):
            fitting[i] = _fitting(detector, name, image, scores[i], float(score))
    return fitting


def _fitting(detector: Detector, name: str, corrected: Tensor, before: float, after: float) -> Correction | None:
    scores = detector.calibration.scores[np.isfinite(detector.calibration.scores)]
    if not len(scores) or not np.isfinite(after):
        return None
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
    share = (before - after) / max(before - middle, 1e-9) if np.isfinite(before) else 1.0
    strata = list(detector.calibration.counts())
    p_value = float(detector.calibration.p_values(np.full(len(strata), after), strata).min())
    if name == _BORDER and not (before - after > high - low and share >= LEAST_SHARE):
        return None
    return Correction(name, p_value, min(float(share), 1.0), corrected)


@dataclass(frozen=True)
class Finding:
    """One finding on a scan, as a code with its values; :mod:`medood.reporting.sentences` puts it into words.

    Attributes:
        name: name of its sentence in ``strings.json``.
        values: values to insert; a text is itself the name of a sentence, except for ``stated``.
    """

    name: str
    values: dict[str, str | float]


def findings(
    heat: Map,
    any_map_drawn: bool,
    shown_share: float,
    fits: Correction | None,
    cosine: float | None,
    distances: CalibrationCosines,
    attributes: dict[str, str],
) -> list[Finding]:
    """Findings that support the decision.

    Args:
        heat: ``[H, W]`` map in the image's shape, with 1 as full strength.
        any_map_drawn: whether any map is shown.
        shown_share: share of the score that the map shows.
        fits: see :func:`corrections`.
        cosine: cosine with the nearest in-distribution scan; None if unknown.
        distances: distances of the calibration scans.
        attributes: attributes of the scan's header.
    """
    results = []
    if fits:
        suspect = {"inverted": "grey scale", "without its even border": "framing"}.get(fits.done, "orientation")
        results.append(
            Finding(
                "fits when",
                {"done": fits.done, "share": fits.share, "p": fits.p_value, "suspect": suspect},
            )
        )
    if cosine is not None and distances.nearer(cosine) >= 1 - _FAR:
        header = " ".join(attributes[name] for name in ("BodyPartExamined", "ViewPosition") if attributes.get(name))
        name = "header disagrees" if header else "lies far"
        results.append(Finding(name, {"stated": header, "share": distances.nearer(cosine)}))
    results.append(_where(heat, any_map_drawn))
    if shown_share < _MOSTLY and results[-1].name != "nowhere":
        results.append(Finding("part shown", {"share": shown_share}))
    return results


def trim_border(image: Tensor) -> Tensor:
    """``[C, H, W]`` without its even border, resized to its original size; unchanged if there is none."""
    grey = image.mean(dim=0)
    rows = torch.nonzero((grey.amax(1) - grey.amin(1)) > _EVEN).flatten()
    columns = torch.nonzero((grey.amax(0) - grey.amin(0)) > _EVEN).flatten()
    if not len(rows) or not len(columns):
        return image
    top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    if (bottom - top) * (right - left) > 0.9 * grey.numel():
        return image
    inner = image[None, :, top:bottom, left:right]
    return functional.interpolate(inner, grey.shape, mode="bilinear", align_corners=False)[0]


def standing_out(heat: Map) -> tuple[str, float]:
    """``nowhere``, ``one place`` or ``everywhere``, and the share of the image that stands out.

    Args:
        heat: ``[S, S]`` map, with 1 as full strength, which calibration scans do not reach.
    """
    wide = float((heat >= 0.5).mean())
    if not (heat >= 1.0).any():
        return ("everywhere", wide) if wide > _WIDE else ("nowhere", 0.0)
    share = float((heat >= 1.0).mean())
    return ("everywhere", max(share, wide)) if share > _LOCAL or wide > _WIDE else ("one place", share)


def _where(heat: Map, any_map_drawn: bool) -> Finding:
    """Whether one place stands out, and where; left and right are those of the image."""
    name, share = standing_out(heat)
    if name == "nowhere" and any_map_drawn:
        return Finding("faint", {})
    if name != "one place":
        return Finding(name, {"share": share})
    row, col = (float(v.mean()) / side for v, side in zip(np.nonzero(heat >= 1.0), heat.shape, strict=True))
    height = "upper" if row < 1 / 3 else "lower" if row > 2 / 3 else "middle"
    side = "left" if col < 1 / 3 else "right" if col > 2 / 3 else "centre"
    return Finding(name, {"share": share, "place": f"{height} {side}"})
