from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from medood.detection.detector import Detector
from medood.evaluation.faithfulness import peaks_inside, plant
from medood.evidence.evidence_maps import evidence_maps
from medood.evidence.padim import _describe_places, _distances, fit_places, place_maps
from medood.phantom.chest import frontal_chest


@pytest.fixture(scope="module")
def detector(tiny_detector: Path) -> Detector:
    return Detector.load(tiny_detector)


def films(count: int, side: int, start: int = 0) -> torch.Tensor:
    drawn = [torch.from_numpy(frontal_chest(2000 + start + i, side).image).float()[None] for i in range(count)]
    return torch.stack(drawn)


def test_the_distance_at_a_place_is_that_of_a_slow_oracle() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 3, 4, generator=generator)
    mean, whitening = torch.randn(3, 4, generator=generator), torch.randn(3, 4, 4, generator=generator)
    found = _distances(rows, {"mean": mean, "whitening": whitening})
    for n in range(5):
        for place in range(3):
            precision = (whitening[place] @ whitening[place].T).double().numpy()
            off = (rows[n, place] - mean[place]).double().numpy()
            assert float(found[n, place]) == pytest.approx(np.log(off @ precision @ off), abs=1e-4)


def test_what_is_learned_is_the_inverse_covariance_of_each_place(detector: Detector) -> None:
    side = detector.preprocess.size
    training = films(80, side)
    learned = fit_places(detector.network, training, films(20, side, 100))
    rows = _describe_places(detector.network, training).double().numpy()
    distances = _distances(torch.from_numpy(rows).float(), learned).exp().double().numpy()
    for place in (0, rows.shape[1] // 2):
        plain = np.cov(rows[:, place].T)
        covariance = plain + 0.01 * np.trace(plain) / len(plain) * np.eye(len(plain))
        whitening = learned["whitening"][place].double().numpy()
        np.testing.assert_allclose(whitening.T @ covariance @ whitening, np.eye(len(plain)), atol=0.02)
        expected = np.trace(whitening.T @ plain @ whitening) * (len(rows) - 1) / len(rows)
        assert distances[:, place].mean() == pytest.approx(expected, rel=0.02)


def test_a_planted_disc_is_found_and_nothing_glows_outside_the_crop(detector: Detector) -> None:
    side = 96
    learned = dataclasses.replace(detector, network=copy.deepcopy(detector.network))
    learned.network.size = side
    learned.places = fit_places(learned.network, films(120, side), films(30, side, 200))
    made, masks = plant("device", films(20, side, 300), torch.Generator().manual_seed(0), (0.2, 0.25))
    maps = place_maps(learned, made)
    assert maps.shape == (20, side, side)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert peaks_inside(maps, masks).mean() >= 0.7
    learned.preprocess = dataclasses.replace(learned.preprocess, crops=[0.5])
    cropped = place_maps(learned, made)
    assert cropped[:, : side // 16].max() == cropped[:, :, : side // 16].max() == 0


def test_maps_are_kept_with_the_detector_and_lie_on_their_scales(detector: Detector, tmp_path: Path) -> None:
    assert set(detector.places) == {"mean", "whitening", "center", "spread", "places_scale", "both_scale"}
    detector.save(tmp_path / "again")
    again = Detector.load(tmp_path / "again")
    images = films(4, detector.preprocess.size, 400)
    maps, same = evidence_maps(detector, images).maps, evidence_maps(again, images).maps
    assert list(maps) == ["score", "places", "both"]
    for name in maps:
        np.testing.assert_array_equal(maps[name], same[name])
    places, both = (float(detector.places[f"{name}_scale"]) for name in ("places", "both"))
    np.testing.assert_allclose(maps["places"] * places, place_maps(detector, images), rtol=1e-6)
    np.testing.assert_allclose(maps["both"] * both, maps["score"] + maps["places"], rtol=1e-5)
    again.places = {}
    assert list(evidence_maps(again, images).maps) == ["score"]
