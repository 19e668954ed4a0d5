"""Findings: what would make a flagged scan fit, whether a place or the whole of it is odd, how far it lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.features import embed
from medood.detection.knn import largest_cosine
from medood.detection.scores import TURNED

Map = npt.NDArray[np.float32]

#: What may have gone wrong with a picture, and what undoes it.
CORRECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "turned by 90 degrees clockwise": lambda picture: torch.rot90(picture, -1, (-2, -1)),
    "turned by 90 degrees counter-clockwise": lambda picture: torch.rot90(picture, 1, (-2, -1)),
    "turned by 180 degrees": lambda picture: picture.flip(-2, -1),
    "mirrored": lambda picture: picture.flip(-1),
    "flipped upside down": lambda picture: picture.flip(-2),
    "inverted": lambda picture: 1.0 - picture,
    "without its even border": lambda picture: trimmed(picture),
}
#: Grey values within this of each other are an even border.
_EVEN = 0.02
#: Share of the picture above which what stands out is no longer one place.
_LOCAL = 0.2
#: The same at half strength.
_WIDE = 0.4
#: A correction fits where it takes away at least this share of what the score lies above the median calibration score. Set
#: on 100 calibration films: turned, mirrored and inverted ones lost all of it in the median; other faults and photographs,
#: which are odd every way round and by chance a little less so one way, 0.6 at most.
_FITS = 0.7
#: Share of the score from which on a map is taken to show all of it.
_MOSTLY = 0.95
#: Scans that lie farther than this share of the calibration scans are called far.
_FAR = 0.01


@dataclass(frozen=True)
class Correction:
    """What makes a scan fit.

    Attributes:
        done: what was done to the picture, one of ``CORRECTIONS``.
        p_value: of the corrected picture.
        share: of what the score exceeded the median of the calibration scores by, that it takes away.
        picture: float32 ``[1, S, S]``.
    """

    done: str
    p_value: float
    share: float
    picture: Tensor


@dataclass(frozen=True)
class Distances:
    """How near calibration scans lie to the bank: the best cosine ``[n]`` of each."""

    best: npt.NDArray[np.float64]

    @classmethod
    def of(cls, detector: Detector) -> Distances:
        """Of the detector's calibration scans; those whose features are not numbers are left out."""
        features = detector.calibration.features
        features = features[features.isfinite().all(dim=1)]
        if not len(features):
            return cls(np.zeros(0))
        return cls(largest_cosine(features, detector.bank).double().numpy())

    def nearer(self, cosine: float) -> float:
        """Share of calibration scans that lie nearer than this."""
        return float((self.best > cosine).mean()) if len(self.best) else 0.0


def corrections(detector: Detector, pictures: Tensor, scores: Sequence[float]) -> list[Correction | None]:
    """For each flagged picture the one correction after which it fits: its score falls by most of what it exceeds the median
    of the calibration scores by, and by more than their spread (interquartile range).

    Args:
        detector: the detector.
        pictures: float32 ``[N, 1, S, S]`` as the detector prepares them.
        scores: ``[N]``, theirs.
    """
    plain = "head_logit" if detector.score_name in TURNED else detector.score_name  # turned copies take six times as long
    # Of a letterboxed picture the even border is medood's own.
    own_bars = "without its even border" if detector.preprocess.fit == "letterbox" else ""
    tried = [(i, "", picture) for i, picture in enumerate(pictures)]
    for i, picture in enumerate(pictures):
        made = ((i, name, undo(picture)) for name, undo in CORRECTIONS.items() if name != own_bars)
        tried += [one for one in made if not torch.equal(one[2], picture)]
    rows = embed(detector.network, torch.stack([picture for _, _, picture in tried]), turned=False)
    cheap = detector.raw_scores(rows, plain)
    best = list(range(len(pictures)))
    for place, (i, _, _) in enumerate(tried):
        best[i] = place if cheap[place] < cheap[best[i]] else best[i]
    better = [place for i, place in enumerate(best) if place != i]
    found: list[Correction | None] = [None] * len(pictures)
    if better:
        after = detector.raw_scores(detector.embed(torch.stack([tried[place][2] for place in better])))
        for place, score in zip(better, after, strict=True):
            i, name, picture = tried[place]
            found[i] = _fitting(detector, name, picture, scores[i], float(score))
    return found


def _fitting(detector: Detector, name: str, made: Tensor, before: float, after: float) -> Correction | None:
    scores = detector.calibration.scores[np.isfinite(detector.calibration.scores)]
    if not len(scores) or not np.isfinite(after):
        return None
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
    share = (before - after) / max(before - middle, 1e-9) if np.isfinite(before) else 1.0
    strata = list(detector.calibration.counts())
    p_value = float(detector.calibration.p_values(np.full(len(strata), after), strata).min())
    if not before - after > high - low or share < _FITS:
        return None
    return Correction(name, p_value, min(float(share), 1.0), made)


@dataclass(frozen=True)
class Finding:
    """One finding on a scan, as a code with its values; :mod:`medood.reporting.sentences` puts it into words.

    Attributes:
        name: of its sentence in ``strings.json``.
        values: what is put into the sentence; text is itself the name of a sentence, but for ``stated``.
    """

    name: str
    values: dict[str, str | float]


def findings(
    heat: Map,
    drawn: bool,
    shown: float,
    found: Correction | None,
    cosine: float | None,
    distances: Distances,
    attributes: dict[str, str],
) -> list[Finding]:
    """What speaks for the decision.

    Args:
        heat: ``[H, W]`` map in the picture's shape, 1 being full strength.
        drawn: whether any map is shown.
        shown: share of the score that the map shows.
        found: see :func:`corrections`.
        cosine: with the nearest in-distribution scan; none where it is not known.
        distances: of the calibration scans.
        attributes: the header's.
    """
    said = []
    if found:
        suspect = {"inverted": "grey scale", "without its even border": "framing"}.get(found.done, "orientation")
        said.append(Finding("fits when", {"done": found.done, "share": found.share, "p": found.p_value, "suspect": suspect}))
    if cosine is not None and distances.nearer(cosine) >= 1 - _FAR:
        stated = " ".join(attributes[name] for name in ("BodyPartExamined", "ViewPosition") if attributes.get(name))
        name = "header disagrees" if stated else "lies far"
        said.append(Finding(name, {"stated": stated, "share": distances.nearer(cosine)}))
    said.append(_where(heat, drawn))
    if shown < _MOSTLY and said[-1].name != "nowhere":
        said.append(Finding("part shown", {"share": shown}))
    return said


def trimmed(picture: Tensor) -> Tensor:
    """``[1, H, W]`` without its border of even grey, brought back to its size; itself where there is none."""
    grey = picture[0]
    rows = torch.nonzero((grey.amax(1) - grey.amin(1)) > _EVEN).flatten()
    columns = torch.nonzero((grey.amax(0) - grey.amin(0)) > _EVEN).flatten()
    if not len(rows) or not len(columns):
        return picture
    top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    if (bottom - top) * (right - left) > 0.9 * grey.numel():
        return picture
    inner = picture[None, :, top:bottom, left:right]
    return functional.interpolate(inner, grey.shape, mode="bilinear", align_corners=False)[0]


def standing_out(heat: Map) -> tuple[str, float]:
    """``nowhere``, ``one place`` or ``everywhere``, and the share of the picture that stands out.

    Args:
        heat: ``[S, S]`` map, 1 being full strength, which calibration scans do not reach.
    """
    wide = float((heat >= 0.5).mean())
    if not (heat >= 1.0).any():
        return ("everywhere", wide) if wide > _WIDE else ("nowhere", 0.0)
    share = float((heat >= 1.0).mean())
    return ("everywhere", max(share, wide)) if share > _LOCAL or wide > _WIDE else ("one place", share)


def _where(heat: Map, drawn: bool) -> Finding:
    """Whether one place stands out, and where; sides are the picture's."""
    name, share = standing_out(heat)
    if name == "nowhere" and drawn:
        return Finding("faint", {})
    if name != "one place":
        return Finding(name, {"share": share})
    row, col = (float(v.mean()) / side for v, side in zip(np.nonzero(heat >= 1.0), heat.shape, strict=True))
    height = "upper" if row < 1 / 3 else "lower" if row > 2 / 3 else "middle"
    side = "left" if col < 1 / 3 else "right" if col > 2 / 3 else "centre"
    return Finding(name, {"share": share, "place": f"{height} {side}"})
