from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from medood.config.resources import find_detector
from medood.detection.detector import Detector
from medood.detection.lesions.faults import FAULTS
from medood.evaluation.acquisition_faults import plant
from medood.evidence.fault_codes import FaultName
from medood.evidence.fault_names import UNDOES, name_faults
from medood.evidence.positions import FLAT, POSITIONS, UNLIKE, Positions
from medood.negatives.mixture import Mixture
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.reporting.i18n.language import LANGUAGES, Language
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from medood.screening.ledger.database import Ledger
from medood.screening.run import screen


def radiographs(detector: Detector, folder: Path, count: int) -> torch.Tensor:
    prepared: list[torch.Tensor] = []
    for scan in read_scans(folder):
        if isinstance(scan, Scan):
            prepared.append(detector.prepare(scan))
        if len(prepared) == count:
            break
    return torch.stack(prepared)


def test_the_lowest_score_names_the_correction_if_it_is_low_enough() -> None:
    scores = np.full((4, 7), 10.0)
    scores[0, 4] = 1.0  # mirrored
    scores[1, 0] = 1.0  # as it is
    scores[2, 6] = 9.5  # inverted, by less than the unit
    chest = np.zeros((4, 7))
    seen = Positions(scores, chest, middle=0.0, unit=1.0)
    assert seen.corrections == ["mirrored", "", "", ""]
    assert not seen.foreign.any()
    assert Positions(scores, None, middle=0.0, unit=1.0).corrections[0] == "mirrored"
    scores[0, 4] = 4.0  # 0.6 of the excess
    assert Positions(scores, None, middle=0.0, unit=1.0).corrections[0] == ""
    assert Positions(scores, chest, middle=0.0, unit=1.0).corrections[0] == "mirrored"


def test_what_scores_alike_in_every_position_and_resembles_no_registered_radiograph_is_foreign() -> None:
    scores = np.full((3, 7), 10.0)
    scores[0, 3] -= 0.9 * FLAT
    scores[1, 3] -= 1.1 * FLAT
    alike = np.full((3, 7), UNLIKE + 1)
    alike[2, 5] = UNLIKE - 0.1
    assert Positions(scores, alike, middle=0.0, unit=1.0).foreign.tolist() == [True, False, False]


def test_what_has_no_fault_by_the_score_is_no_stranger() -> None:
    scores, alike = np.full((2, 7), 10.0), np.full((2, 7), UNLIKE + 1)
    seen = Positions(scores, alike, middle=0.0, unit=1.0, faults=np.array([0.1, 3.0]))
    assert seen.foreign.tolist() == [False, True]


def test_what_no_position_undoes_is_named_by_the_lesion_network_if_it_is_sure() -> None:
    scores, alike = np.full((4, 7), 10.0), np.full((4, 7), UNLIKE + 1)
    alike[2] = 0.0
    own = [("cropped_or_misframed", 0.98), ("mirrored", 0.9), ("mirrored", 0.9), ("", 0.9)]
    seen = Positions(scores, alike, middle=0.0, unit=1.0, own_names=own)
    assert seen.foreign.tolist() == [False, True, False, True]
    assert seen.probable_faults == ["cropped_or_misframed", "mirrored", "mirrored", ""]
    scores[0, 4] = 0.0  # what lowers the score by chance names nothing
    assert Positions(scores, alike, middle=0.0, unit=1.0, own_names=own).corrections == [""] * 4
    scores[0, 4] = 10.0
    unsure = Positions(scores, alike, middle=0.0, unit=1.0, own_names=[(name, 0.4) for name, _ in own])
    assert unsure.foreign.tolist() == [True, True, False, True]
    assert unsure.probable_faults == [""] * 4
    assert {name for name in FAULTS if name} <= set(FaultName)


@pytest.mark.data
def test_misframed_and_wrongly_windowed_real_radiographs_are_named(medood_data: Path) -> None:
    detector = Detector.load(find_detector("cxr-small"))
    upright = radiographs(detector, medood_data / "in_distribution/test", 16)
    for name, fault, least in (("framing", FaultName.CROPPED_OR_MISFRAMED, 5), ("wrong_window", FaultName.WRONG_WINDOW, 9)):
        mixture = Mixture({name: 1.0})
        faulty = mixture.apply(upright, mixture.sample(16, upright.shape[-1], Generator().manual_seed(1)))
        assert name_faults(detector, faulty, [True] * 16).count(fault) >= least


def test_each_position_undoes_one_fault_and_each_fault_has_words() -> None:
    assert list(UNDOES) == list(POSITIONS)
    image = torch.rand(1, 8, 8)
    for name, fault in UNDOES.items():
        back = {"turned by 90 degrees clockwise": "turned by 90 degrees counter-clockwise"}
        back |= {value: key for key, value in back.items()}
        assert torch.allclose(POSITIONS[back.get(name, name)](POSITIONS[name](image)), image)
        assert fault in set(FaultName)
    words = [[Language(code).say(fault) for fault in FaultName] for code in LANGUAGES]
    assert all(len(set(texts)) == len(FaultName) for texts in words)


@pytest.mark.data
@pytest.mark.parametrize(("folder", "least"), [("in_distribution/test", 0.95), ("id_shift/openist_normal", 0.9)])
def test_faults_of_real_radiographs_are_named(medood_data: Path, folder: str, least: float) -> None:
    detector = Detector.load(find_detector("cxr-small"))
    upright = radiographs(detector, medood_data / folder, 12)
    opposite = {"turned by 90 degrees clockwise": "turned by 90 degrees counter-clockwise"}
    opposite |= {value: key for key, value in opposite.items()}
    right = []
    for name, fault in UNDOES.items():
        faulty = POSITIONS[opposite.get(name, name)](upright)
        right += [named == fault for named in name_faults(detector, faulty, [True] * len(faulty))]
    assert np.mean(right) >= least
    assert name_faults(detector, upright, [False] * 12) == [""] * 12


@pytest.mark.data
def test_a_planted_opacity_is_a_local_abnormality(medood_data: Path) -> None:
    detector = Detector.load(find_detector("cxr-small"))
    planted, _ = plant(
        "opacity", radiographs(detector, medood_data / "in_distribution/test", 24), Generator().manual_seed(0)
    )
    flagged = detector.p_values(planted) <= 0.05
    named = [name for name in name_faults(detector, planted, flagged.tolist()) if name]
    assert len(named) == flagged.sum() >= 5
    assert named.count(FaultName.LOCAL_ABNORMALITY) >= len(named) / 2


def test_other_objects_are_no_frontal_chest() -> None:
    detector = Detector.load(find_detector("cxr-small"))
    side = detector.preprocess.size
    objects = [OUTLIERS[kind](seed, side) for kind in ("ct_like", "lateral_like") for seed in range(4)]
    images = torch.stack([torch.from_numpy(np.asarray(image, dtype=np.float32))[None] for image in objects])
    named = name_faults(detector, images, [True] * len(images))
    assert named.count(FaultName.NOT_A_FRONTAL_CHEST_RADIOGRAPH) >= 7


def test_verdicts_name_the_fault_of_flagged_scans_alone(tiny_detector: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for seed in range(6):
        (archive / f"chest{seed}.dcm").write_bytes(dicom_bytes(frontal_chest(400 + seed, 64).image, f"c{seed}"))
        for kind in ("rotated", "inverted", "ct_like"):
            (archive / f"{kind}{seed}.dcm").write_bytes(dicom_bytes(OUTLIERS[kind](seed, 64), f"{kind}{seed}"))
    screen([archive], tiny_detector, tmp_path / "run", fpr=0.1)
    with (tmp_path / "run" / "verdicts.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0].keys() >= {"finding"}
    assert list(rows[0])[-1] == "finding"
    for row in rows:
        assert bool(row["finding"]) == (row["decision"] == "out_of_distribution")
        assert row["finding"] in {"", *FaultName}
    ledger = Ledger(tmp_path / "run")
    assert [row.finding for row in ledger.rows()] == [row["finding"] for row in rows]
    ledger.close()
    screen([archive], tiny_detector, tmp_path / "fdr", fdr=0.5)
    with (tmp_path / "fdr" / "verdicts.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            assert bool(row["finding"]) == (row["decision"] == "out_of_distribution")
