"""The map of the score that decides: its parts against slow oracles, and its size."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from medood.config.resources import find_detector
from medood.detection.appearance import SIDE
from medood.detection.detector import Detector
from medood.evaluation.faithfulness import peaks_inside, plant
from medood.evidence.grad_cam import grad_cam
from medood.evidence.score_map import appearance_maps, full_strength, score_maps
from medood.phantom.chest import frontal_chest
from medood.phantom.outliers import OUTLIERS
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from medood.workflows.train import train
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def detector(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """A detector that asks a head and an appearance model."""
    settings = ("train.epochs=1", "detector.appearance=true", "detector.score=ensemble")
    return Detector.load(train(tiny_config(phantom_folder, tmp_path_factory.mktemp("asked"), *settings)))


def films(count: int, side: int, start: int = 0) -> torch.Tensor:
    drawn = [torch.from_numpy(frontal_chest(3000 + start + i, side).image).float()[None] for i in range(count)]
    return torch.stack(drawn)


def outliers(side: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(draw(3, side)).float()[None] for draw in OUTLIERS.values()])


def test_the_places_of_a_film_add_up_to_its_squared_distance(detector: Detector) -> None:
    model = detector.network.appearance
    assert model is not None
    some = films(3, detector.preprocess.size)
    _, differences = model.differences(some)
    precision = (model.axes.double() @ model.axes.double().T).numpy()
    for distance, difference in zip(model(some), differences.double().numpy(), strict=True):
        total = 0.0
        for place in range(SIDE * SIDE):
            total += difference[place] * sum(precision[place] * difference)
        assert total == pytest.approx(float(distance) ** 2, rel=1e-4)


def test_a_planted_disc_is_where_the_appearance_is_odd(detector: Detector) -> None:
    assert detector.network.appearance is not None
    made, masks = plant("device", films(20, 64, 50), torch.Generator().manual_seed(0), (0.2, 0.25))
    assert peaks_inside(appearance_maps(detector.network.appearance, made), masks).mean() >= 0.7


def test_a_map_is_as_large_as_its_part_of_the_score(detector: Detector) -> None:
    images = torch.cat([outliers(detector.preprocess.size), films(10, detector.preprocess.size, 100)])
    found, scores = score_maps(detector, images), detector.raw_scores(detector.embed(images))
    known = np.sort(detector.calibration.scores)
    middle = np.median(known)
    unit = known[::-1][int(np.floor(0.05 * (len(known) + 1) + 1e-9)) - 1] - middle if len(known) >= 19 else np.ptp(known)
    for drawn, shown, score in zip(found.maps, found.shown, scores, strict=True):
        assert drawn.mean() == pytest.approx(max(score - middle, 0.0) / unit * shown, rel=1e-3, abs=1e-5)
    assert (found.maps >= 0).all()
    assert ((found.shown >= 0) & (found.shown <= 1 + 1e-9)).all()
    far = scores > 3 * known.max()
    assert far.any()
    assert (found.maps[far].max(axis=(1, 2)) > 1).all(), (
        "what lies farthest out has a map, however sure of nothing the head is"
    )


@pytest.mark.data
def test_calibration_radiographs_stay_below_full_strength(medood_data: Path) -> None:
    shipped = Detector.load(find_detector("cxr-small"))
    scans = islice(read_scans(medood_data / "in_distribution/calibration"), 300, 360)
    images = torch.stack([shipped.prepare(scan) for scan in scans if isinstance(scan, Scan)])
    maps = score_maps(shipped, images).maps / full_strength(shipped)
    assert len(maps) == 60
    assert (maps.max(axis=(1, 2)) < 1).mean() > 0.95


def test_of_a_score_alone_the_map_is_its_grad_cam(tiny_detector: Path) -> None:
    detector = Detector.load(tiny_detector)
    images = outliers(detector.preprocess.size)
    found = score_maps(detector, images).maps
    for drawn, raw in zip(found, grad_cam(detector, images), strict=True):
        if drawn.max() > 0:
            np.testing.assert_allclose(drawn / drawn.max(), raw / raw.max(), atol=1e-5)
    assert (found.max(axis=(1, 2)) > 0).any()
