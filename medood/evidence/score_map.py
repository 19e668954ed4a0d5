"""Maps of the deciding score: each part of the score is mapped to the image, weighted by its share of the score.

A single score is mapped by Grad-CAM. The scores ``lesions`` and ``ensemble`` are sums, and each part has its own kind of
map: the lesion network's own map for lesions and Grad-CAM for faults; Grad-CAM for the network's head, and the exact
contribution of each place to the squared distance for the appearance model. Members' heads have no map, nor does a part
whose Grad-CAM is 0 everywhere: the share of the score without a map is reported instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medood.detection.appearance import SIDE, Appearance
from medood.detection.conformal import threshold
from medood.detection.detector import Detector
from medood.detection.lesions.network import lesion_parts
from medood.detection.registration import affine, to_images
from medood.detection.scores import Ensemble
from medood.evidence.grad_cam import SMOOTHING, Maps, grad_cam, lesion_cam

Vector = npt.NDArray[np.float64]
#: The false-alarm rate whose threshold is the unit of a map.
_RATE = 0.05
#: Value drawn at full strength. A uniform map of a score at the threshold is 1 everywhere; a place that adds twelve times
#: that for its size stands out. Set on calibration radiographs, more than 95 of 100 of which stay below it.
FULL_STRENGTH = 12.0
#: The same of the score ``lesions``, whose map is 0 in half of the calibration radiographs.
_FULL_STRENGTH_LESIONS = 8.0
#: Share of the score up to which the part for faults is not mapped; its Grad-CAM takes most of the time of a map.
_LEAST_FAULT_SHARE = 0.01


@dataclass(frozen=True)
class ScoreMaps:
    """Maps of the deciding score.

    Attributes:
        maps: float32 ``[N, S, S]``, at least 0: what each place adds to the score, per share of the area. The mean is the
            score's excess over the median calibration score, as far as the map shows it; 1 is the distance from that median
            to the threshold at a false-alarm rate of 5 %.
        shown: ``[N]`` share of the score that the map shows, from 0 to 1.
    """

    maps: Maps
    shown: Vector


def score_maps(detector: Detector, images: Tensor) -> ScoreMaps:
    """Map the deciding score of each image to its places.

    Args:
        detector: one with a calibration.
        images: float32 ``[N, 1, S, S]`` as the detector prepares them.
    """
    network = detector.network
    if detector.score_name == "lesions":
        assert network.lesions is not None
        assert network.appearance is not None
        places, local, fault = network.lesion_outputs(images)
        parts = lesion_parts(local, fault)
        scores, weights = parts.sum(dim=1).double().numpy(), _lesion_weights(detector, parts)
        densities = [_density(lesion_maps(local, places, images.shape[-1]))]
        faulty = weights[:, 1] > _LEAST_FAULT_SHARE
        densities.append(np.zeros_like(densities[0]))
        if faulty.any():
            chosen = images[torch.from_numpy(faulty)]
            densities[1][faulty] = _density(lesion_cam(network.lesions, network.appearance.registration, chosen, parts=[1]))
    else:
        rows = detector.embed(images)
        scores, weights = detector.raw_scores(rows), np.ones((len(images), 1))
        densities = [_density(grad_cam(detector, images))]
        if detector.score_name == "ensemble":
            weights = _weights(Ensemble.parts(rows, detector.fitted["ensemble"]))
            densities += [np.zeros_like(densities[0])] * len(network.members)
            if network.appearance is not None:
                densities.append(_density(appearance_maps(network.appearance, images)))
    excess = _excess(detector, scores)
    maps, shown_shares = np.zeros_like(densities[0]), np.zeros(len(images))
    for weight, density in zip(weights.T, densities, strict=False):
        maps += (weight * excess)[:, None, None].astype(np.float32) * density
        shown_shares += weight * (density.max(axis=(1, 2)) > 0)
    return ScoreMaps(maps, shown_shares)


def full_strength(detector: Detector) -> float:
    """The value at which a detector's map of the score is drawn at full strength."""
    return _FULL_STRENGTH_LESIONS if detector.score_name == "lesions" else FULL_STRENGTH


def appearance_maps(appearance: Appearance, images: Tensor) -> Maps:
    """What each place adds to the squared distance of the appearance model, float32 ``[N, S, S]``, at least 0.

    The squared Mahalanobis distance of a registered radiograph is a sum over its places: the difference from the average
    radiograph there, times the difference weighted by the inverse covariance. The map is resampled back to the frame's place
    in the radiograph and smoothed.

    Args:
        appearance: the model.
        images: float32 ``[N, 1, S, S]`` in [0, 1].
    """
    frames, difference = appearance.differences(images)
    shares = difference * ((difference @ appearance.axes) @ appearance.axes.T)
    return _back(shares.view(-1, SIDE, SIDE), frames, images.shape[-1])


def lesion_maps(local: Tensor, places: Tensor, side: int) -> Maps:
    """How likely each place is a lesion, float32 ``[N, S, S]`` in [0, 1], smoothed; 0 outside the registered frame.

    Args:
        local: the lesion network's logits of places, ``[N, g, g]``.
        places: the frames, ``[N, 5]``; see :meth:`medood.detection.registration.Registration.places`.
        side: side of the radiographs.
    """
    return _back(torch.sigmoid(local), affine(places), side)


def _back(values: Tensor, frames: Tensor, side: int) -> Maps:
    """Resample ``[N, h, w]`` values of registered frames to their radiographs ``[N, S, S]``, and smooth them."""
    spread = to_images(values, frames, side).numpy()
    return np.asarray(np.maximum(gaussian_filter(spread, SMOOTHING * side, mode="constant", axes=(1, 2)), 0.0), np.float32)


def _density(maps: Maps) -> Maps:
    """Scale each map to mean 1; a map that is 0 everywhere is unchanged."""
    means = maps.mean(axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(maps, means, out=np.zeros_like(maps), where=means > 0), dtype=np.float32)


def _weights(parts: Tensor) -> Vector:
    """Share ``[N, K]`` of each of ``[N, K]`` parts in the evidence against a scan; negative ones are no evidence."""
    against = parts.double().clamp(min=0.0)
    return np.asarray((against / against.sum(dim=1, keepdim=True).clamp(min=1e-12)).numpy())


def _lesion_weights(detector: Detector, parts: Tensor) -> Vector:
    """The same of the parts of the score ``lesions``; lesions count from the median calibration score on."""
    known = detector.calibration.scores[np.isfinite(detector.calibration.scores)]
    middle = float(np.median(known)) if len(known) else 0.0
    return _weights(parts - Tensor([middle, 0.0]))


def _excess(detector: Detector, scores: Vector) -> Vector:
    """Excess of scores over the median calibration score, relative to that of the threshold; at least 0."""
    calibration_scores = detector.calibration.scores[np.isfinite(detector.calibration.scores)]
    if not len(calibration_scores):
        return np.zeros(len(scores))
    middle, limit = float(np.median(calibration_scores)), threshold(calibration_scores, _RATE)
    unit = limit - middle if np.isfinite(limit) and limit > middle else float(np.ptp(calibration_scores)) or 1.0
    return np.where(np.isfinite(scores), np.maximum(scores - middle, 0.0) / unit, 0.0)
