"""The findings, and their DICOM codes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medood.errors import MedoodError


class FaultName(StrEnum):
    """What is wrong with a flagged scan; ``BURNED_IN_TEXT`` with any scan."""

    ROTATED_90_CW = "rotated_90_cw"
    ROTATED_90_CCW = "rotated_90_ccw"
    ROTATED_180 = "rotated_180"
    MIRRORED = "mirrored"
    UPSIDE_DOWN = "upside_down"
    INVERTED = "inverted"
    WRONG_WINDOW = "wrong_window"
    CROPPED_OR_MISFRAMED = "cropped_or_misframed"
    NOT_A_FRONTAL_CHEST_RADIOGRAPH = "not_a_frontal_chest_radiograph"
    ANOTHER_KIND_OF_IMAGE = "another_kind_of_image"
    LOCAL_ABNORMALITY = "local_abnormality"
    GLOBAL_ABNORMALITY = "global_abnormality"
    BURNED_IN_TEXT = "burned_in_text"


#: Scheme of medood's own codes.
SCHEME = "99MEDOOD"
#: Findings that may be disease.
ABNORMALITIES = (FaultName.LOCAL_ABNORMALITY, FaultName.GLOBAL_ABNORMALITY)
#: Every finding with its code; the meanings are those of a report in English.
FINDINGS: dict[str, Code] = {
    name.value: Code(name.value, SCHEME, meaning)
    for name, meaning in (
        (FaultName.ROTATED_90_CW, "Rotated by 90 degrees clockwise"),
        (FaultName.ROTATED_90_CCW, "Rotated by 90 degrees counter-clockwise"),
        (FaultName.ROTATED_180, "Rotated by 180 degrees"),
        (FaultName.MIRRORED, "Mirrored"),
        (FaultName.UPSIDE_DOWN, "Upside down"),
        (FaultName.INVERTED, "Inverted grey scale"),
        (FaultName.WRONG_WINDOW, "Wrong window"),
        (FaultName.CROPPED_OR_MISFRAMED, "Cropped or misframed"),
        (FaultName.NOT_A_FRONTAL_CHEST_RADIOGRAPH, "Not a frontal chest radiograph"),
        (FaultName.ANOTHER_KIND_OF_IMAGE, "Another kind of image"),
        (FaultName.LOCAL_ABNORMALITY, "Unusual at one place"),
        (FaultName.GLOBAL_ABNORMALITY, "Unusual as a whole"),
        (FaultName.BURNED_IN_TEXT, "Text burnt into the image"),
    )
}
#: The code of CID 7011 (Rejected for Quality Reason), of which CID 6135 (Image Quality Finding) holds these too.
QUALITY: dict[str, Code] = {
    FaultName.ROTATED_90_CW: codes.DCM.Positioning,
    FaultName.ROTATED_90_CCW: codes.DCM.Positioning,
    FaultName.ROTATED_180: codes.DCM.Positioning,
    FaultName.MIRRORED: codes.DCM.Positioning,
    FaultName.UPSIDE_DOWN: codes.DCM.Positioning,
    FaultName.INVERTED: codes.DCM.InappropriateImageProcessing,
    FaultName.WRONG_WINDOW: codes.DCM.InappropriateImageProcessing,
    FaultName.CROPPED_OR_MISFRAMED: codes.DCM.Positioning,
}
#: Findings that can be rejected.
REJECTABLE = tuple(name for name in FINDINGS if name not in (*ABNORMALITIES, FaultName.BURNED_IN_TEXT))


def check_rejectable(findings: Sequence[str]) -> None:
    """Check what is to be rejected.

    Raises:
        MedoodError: a finding is unknown, or is an abnormality: it may be disease, which nobody may hide.
    """
    for name in findings:
        if name in ABNORMALITIES:
            raise MedoodError(
                f"--reject {name}: an abnormality may be disease, and a rejected scan is hidden. Reject such a scan in the "
                "archive itself, if it is to be."
            )
        if name == FaultName.BURNED_IN_TEXT:
            raise MedoodError(f"--reject {name}: such scans are not flagged, and only flagged scans are rejected.")
        if name not in REJECTABLE:
            raise MedoodError(f"--reject is {name!r}; expected one of {', '.join(REJECTABLE)}.")
