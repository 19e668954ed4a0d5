"""All evidence maps of a detector, each on one scale that is common to all scans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medood.detection.detector import Detector
from medood.evidence.grad_cam import Maps
from medood.evidence.padim import fit_places, normal_scale, place_maps
from medood.evidence.score_map import full_strength, score_maps

#: Strength that a map must reach somewhere to be shown; a weaker map does not indicate a location.
DRAWN = 0.5


@dataclass(frozen=True)
class EvidenceMaps:
    """Evidence maps of each image.

    Attributes:
        maps: float32 ``[N, S, S]`` by name, at least 0, with 1 as full strength: ``score``, of the deciding score; and if
            the detector has them, ``places``, places that look unlike the same place in other scans, and, if the score is
            not that of a lesion network, ``both``.
        shown: ``[N]`` share of the score that its map shows, from 0 to 1.
    """

    maps: dict[str, Maps]
    shown: npt.NDArray[np.float64]

    @property
    def joint(self) -> Maps:
        """The combined map if there is one, otherwise the score's map."""
        return self.maps.get("both", self.maps["score"])


def joint_maps(detector: Detector, images: Tensor) -> Maps:
    """:attr:`EvidenceMaps.joint` of ``[N, 1, S, S]`` images, without what else :func:`evidence_maps` computes."""
    if detector.score_name == "lesions":
        return np.asarray(score_maps(detector, images).maps / np.float32(full_strength(detector)))
    return evidence_maps(detector, images).joint


def evidence_maps(detector: Detector, images: Tensor) -> EvidenceMaps:
    """Compute all maps that a detector supports.

    Args:
        detector: one with a calibration.
        images: float32 ``[N, 1, S, S]`` as the detector prepares them.
    """
    score = score_maps(detector, images)
    maps = {"score": score.maps / np.float32(full_strength(detector))}
    if detector.places:
        maps["places"] = place_maps(detector, images) / np.float32(detector.places["places_scale"])
    if detector.places and detector.score_name != "lesions":  # whose own map finds small places
        maps["both"] = (maps["score"] + maps["places"]) / np.float32(detector.places["both_scale"])
    return EvidenceMaps(maps, score.shown)


def learn_evidence(detector: Detector, training: Tensor, development: Tensor, calibration: Tensor) -> None:
    """Fit what the evidence maps need: the normal features at each place, and the scales of the maps.

    Args:
        detector: one with a calibration; its ``places`` are set.
        training: float32 ``[N, 1, S, S]`` images that were learned from.
        development: images held out to choose the score.
        calibration: images that determine the scales.
    """
    detector.places = fit_places(detector.network, training, development)
    places = place_maps(detector, calibration)
    scale = normal_scale(places)
    both = score_maps(detector, calibration).maps / full_strength(detector) + places / scale
    detector.places |= {"places_scale": Tensor([scale])[0], "both_scale": Tensor([normal_scale(both)])[0]}
