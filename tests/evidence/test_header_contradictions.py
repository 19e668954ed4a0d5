"""A header is contradicted only by what is certain."""

from __future__ import annotations

from pathlib import Path

import pytest

from medood.evidence.header_contradictions import contradiction
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.workflows.clean import clean


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, ""),
        ({"BodyPartExamined": "CHEST", "ViewPosition": "PA", "Modality": "DX"}, ""),
        ({"BodyPartExamined": "", "ViewPosition": ""}, ""),
        ({"BodyPartExamined": "TORAX", "ViewPosition": "STANDING", "Modality": "OT"}, ""),  # unknown words
        ({"BodyPartExamined": "RIB", "Modality": "RG"}, ""),
        ({"BodyPartExamined": "Knee"}, "BodyPartExamined"),
        ({"BodyPartExamined": "C-SPINE"}, "BodyPartExamined"),
        ({"BodyPartExamined": "CHEST", "ViewPosition": "LATERAL"}, "ViewPosition"),
        (
            {"Modality": "CT", "BodyPartExamined": "HEAD", "ViewPosition": "LL"},
            "Modality and BodyPartExamined and ViewPosition",
        ),
    ],
)
def test_headers_of_what_passes_as_a_frontal_chest(attributes: dict[str, str], expected: str) -> None:
    assert contradiction(attributes, "", flagged=False) == expected
    assert contradiction(attributes, "burned_in_text", flagged=False) == expected
    assert contradiction(attributes, "local_abnormality", flagged=True) == expected


@pytest.mark.parametrize(
    ("part", "view", "finding", "expected"),
    [
        ("CHEST", "PA", "not_a_frontal_chest_radiograph", "BodyPartExamined and ViewPosition"),
        ("THORAX", "AP", "not_a_frontal_chest_radiograph", "BodyPartExamined and ViewPosition"),
        ("CHEST", "LL", "not_a_frontal_chest_radiograph", ""),  # as its header says
        ("CHEST", "", "not_a_frontal_chest_radiograph", ""),
        ("HAND", "PA", "not_a_frontal_chest_radiograph", ""),
        ("CHEST", "PA", "rotated_180", ""),
        ("HAND", "PA", "inverted", ""),
    ],
)
def test_headers_of_what_does_not(part: str, view: str, finding: str, expected: str) -> None:
    attributes = {"BodyPartExamined": part, "ViewPosition": view}
    assert contradiction(attributes, finding, flagged=True) == expected


def test_cleaning_lists_them_without_their_values(tmp_path: Path, tiny_detector: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number, part in enumerate(("CHEST", "CHEST", "ELBOW", "")):
        image = frontal_chest(number, 96).image
        (data / f"{number}.dcm").write_bytes(dicom_bytes(image, f"scan{number}", body_part=part))
    cleaning = clean([data], tmp_path / "out", tiny_detector, fpr=0.06)
    differing = [issue for issue in cleaning.issues if issue.issue == "header_differs"]
    assert [(Path(issue.file).name, issue.detail) for issue in differing] == [("2.dcm", "BodyPartExamined")]
    assert "2.dcm" not in {Path(file).name for file, _, _ in cleaning.clean}
    page = (tmp_path / "out" / "clean.html").read_text()
    assert "Header and image differ: 1" in page
    assert "ELBOW" not in page + (tmp_path / "out" / "issues.csv").read_text()
