"""The maps of evidence together, each on the one scale that all scans are drawn on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medood.detection.detector import Detector
from medood.evidence.grad_cam import Maps
from medood.evidence.padim import fit_places, normal_scale, place_maps
from medood.evidence.score_map import FULL_STRENGTH, score_maps

#: Strength that a map has to reach somewhere to be shown: less than that says nothing of where.
DRAWN = 0.5


@dataclass(frozen=True)
class EvidenceMaps:
    """What is drawn of each picture.

    Attributes:
        maps: float32 ``[N, S, S]`` by name, at least 0, 1 being full strength: ``score``, of the score that decides; and
            where the detector has them ``places``, places that look unlike the same place of other scans, and ``both``.
        shown: ``[N]`` share of the score that its map shows, from 0 to 1.
    """

    maps: dict[str, Maps]
    shown: npt.NDArray[np.float64]

    @property
    def joint(self) -> Maps:
        """Both together where there are two, or the score's."""
        return self.maps.get("both", self.maps["score"])


def evidence_maps(detector: Detector, pictures: Tensor) -> EvidenceMaps:
    """Draw all maps that a detector has.

    Args:
        detector: one with a calibration.
        pictures: float32 ``[N, 1, S, S]`` as the detector prepares them.
    """
    found = score_maps(detector, pictures)
    maps = {"score": found.maps / np.float32(FULL_STRENGTH)}
    if detector.places:
        maps["places"] = place_maps(detector, pictures) / np.float32(detector.places["places_scale"])
        maps["both"] = (maps["score"] + maps["places"]) / np.float32(detector.places["both_scale"])
    return EvidenceMaps(maps, found.shown)


def learn_evidence(detector: Detector, training: Tensor, development: Tensor, calibration: Tensor) -> None:
    """What the maps of evidence need: what belongs at each place, and the scales of the maps that it gives.

    Args:
        detector: one with a calibration; gets ``places``.
        training: float32 ``[N, 1, S, S]`` pictures that were learned from.
        development: those held out to choose the score.
        calibration: those that fix the scales.
    """
    detector.places = fit_places(detector.network, training, development)
    places = place_maps(detector, calibration)
    scale = normal_scale(places)
    both = score_maps(detector, calibration).maps / FULL_STRENGTH + places / scale
    detector.places |= {"places_scale": Tensor([scale])[0], "both_scale": Tensor([normal_scale(both)])[0]}
