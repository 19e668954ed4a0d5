from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from medood.config.schema import PreprocessConfig
from medood.detection.calibration import Calibration
from medood.detection.detector import Detector
from medood.detection.detector_folder import DetectorMetadata
from medood.detection.features import Features
from medood.evidence.findings import CORRECTIONS, CalibrationCosines, Correction, corrections, findings, trim_border
from medood.reporting.i18n.language import ENGLISH, Language
from medood.reporting.sentences import finding_sentence

SIDE = 24


class Template:
    """A detector to which one image belongs: its score is the distance from it."""

    score_name = "nearest"
    preprocess = PreprocessConfig()
    metadata = DetectorMetadata()

    def __init__(self, image: Tensor) -> None:
        self._picture = image
        near = np.linspace(0.0, 1.0, 200)
        self.calibration = Calibration("training", near, torch.zeros(200, 2), torch.zeros(200, 32), "")

        class Pixels(torch.nn.Module):
            appearance = None

            def __init__(self) -> None:
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(1))

            def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
                return images.flatten(1), images.flatten(1)

            def member_outputs(self, images: Tensor) -> list[Tensor]:
                return []

        self.network = Pixels()

    def embed(self, images: Tensor) -> Features:
        return Features(*self.network.embed(images))

    def raw_scores(self, rows: Features, name: str = "") -> npt.NDArray[np.float64]:
        return np.asarray((rows.features - self._picture.flatten()).norm(dim=1).double().numpy())


def correction(detector: Template, image: Tensor) -> Correction | None:
    return corrections(cast(Detector, detector), image[None], detector.raw_scores(detector.embed(image[None])))[0]


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("wrong", "done"),
    [
        (lambda p: torch.rot90(p, 1, (-2, -1)), "turned by 90 degrees clockwise"),
        (lambda p: torch.rot90(p, -1, (-2, -1)), "turned by 90 degrees counter-clockwise"),
        (lambda p: p.flip(-2, -1), "turned by 180 degrees"),
        (lambda p: p.flip(-1), "mirrored"),
        (lambda p: p.flip(-2), "flipped upside down"),
        (lambda p: 1 - p, "inverted"),
    ],
)
def test_what_undoes_a_fault_is_found_and_its_picture_is_the_right_one(image: Tensor, wrong: Any, done: str) -> None:
    found = correction(Template(image), wrong(image))
    assert found is not None
    assert found.done == done
    torch.testing.assert_close(found.image, image)
    assert found.p_value > 0.9


def test_a_picture_that_fits_no_way_round_has_no_correction(image: Tensor) -> None:
    assert correction(Template(image), torch.zeros(1, SIDE, SIDE)) is None


def test_a_correction_has_to_lower_the_score_by_more_than_the_calibration_spreads(image: Tensor) -> None:
    """An image that is nearly its own mirror image fits as well mirrored, which says nothing."""
    even = (image + image.flip(-1)) / 2
    assert correction(Template(even), even + 1e-4 * image) is None


def test_many_pictures_at_once_are_corrected_as_each_by_itself(image: Tensor) -> None:
    several = torch.stack([image.flip(-1), torch.zeros(1, SIDE, SIDE), 1 - image, image])
    detector = Template(image)
    found = corrections(cast(Detector, detector), several, detector.raw_scores(detector.embed(several)))
    assert [one.done if one else "" for one in found] == ["mirrored", "", "inverted", ""]


def test_an_even_border_is_trimmed() -> None:
    inner = torch.outer(torch.linspace(0.2, 0.9, 12), torch.linspace(0.3, 1.0, 16))[None]
    framed = torch.full((1, SIDE, SIDE), 0.1)
    framed[:, 6:18, 4:20] = inner
    assert trim_border(framed).shape == framed.shape
    small = torch.nn.functional.interpolate(trim_border(framed)[None], (12, 16), mode="area")[0]
    assert float((small - inner).abs().max()) < 0.03
    assert torch.equal(trim_border(inner), inner)
    flat = torch.zeros(1, SIDE, SIDE)
    assert torch.equal(trim_border(flat), flat)
    assert set(CORRECTIONS) >= {"mirrored", "inverted", "without its even border"}


def test_a_correction_that_explains_most_of_the_score_fits_though_few_calibration_scans_score_as_high(
    image: Tensor,
) -> None:
    """As of another hospital's radiograph, which lies a little outside even when it is put right."""
    shifted = (image + 0.02).clamp(0, 1)
    detector = Template(image)
    detector.calibration = replace(detector.calibration, scores=np.linspace(0.0, 0.1, 200))
    found = correction(detector, 1 - shifted)
    assert found is not None
    assert found.done == "inverted"
    assert found.p_value < 0.01
    assert 0.9 < found.share < 1


def test_findings_say_where_how_far_and_what_the_header_says() -> None:
    distances = CalibrationCosines(np.linspace(0.8, 1.0, 1000))
    heat = np.zeros((30, 30), np.float32)
    heat[2:6, 2:6] = 2.0

    def words(*arguments: Any, language: Language = ENGLISH) -> list[str]:
        return [finding_sentence(finding, language) for finding in findings(*arguments)]

    here = words(heat, True, 1.0, None, 0.95, distances, {"BodyPartExamined": "CHEST"})
    assert here == ["What stands out covers 2% of the image, around the upper left as displayed."]
    far = words(heat * 0, False, 0.3, None, 0.3, distances, {"BodyPartExamined": "CHEST", "ViewPosition": "PA"})
    assert far[0].startswith("The header says CHEST PA, yet the image lies farther from every training scan than 100.0%")
    assert far[1].startswith("No map can show why")
    assert len(far) == 2, "of a map that is not shown no share is told"
    assert words(heat + 2, True, 1.0, None, 0.3, distances, {})[0].startswith("Lies farther")
    faint = words(heat * 0.4, True, 1.0, None, None, distances, {})
    assert faint == ["Nothing stands out more than in calibration scans; what the maps show is faint."]
    half = np.full((30, 30), 0.6, np.float32)
    half[3, 3] = 1.5
    assert "it is not a single place" in words(half, True, 1.0, None, None, distances, {})[-1], (
        "all of it is odd at half strength"
    )
    found = Correction("inverted", 0.5, 0.95, torch.zeros(1, 2, 2))
    german = words(heat, True, 0.8, found, 0.3, distances, {"BodyPartExamined": "CHEST"}, language=Language("de"))
    assert german[0].startswith("Passt am besten, wenn invertiert: Das nimmt 95% dessen weg")
    assert german[0].endswith("(p-Wert dann 0.5). Grauskala prüfen.")
    assert german[1].startswith("Der Header sagt CHEST")
    assert german[2] == "Was auffällt, bedeckt 2% des Bildes, oben links in der Darstellung."
    assert german[3].startswith("Die Karte zeigt 80% des Scores")
    assert "it is not a single place" in words(heat + 2, True, 1.0, None, None, distances, {})[-1]
