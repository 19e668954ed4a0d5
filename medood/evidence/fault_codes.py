"""The findings as DICOM codes."""

from __future__ import annotations

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

#: Scheme of medood's own codes.
SCHEME = "99MEDOOD"
#: Findings that may be disease.
ABNORMALITIES = ("local_abnormality", "global_abnormality")
#: Every finding with its code; the meanings are those of a report in English.
FINDINGS = {
    name: Code(name, SCHEME, meaning)
    for name, meaning in (
        ("rotated_90_cw", "Rotated by 90 degrees clockwise"),
        ("rotated_90_ccw", "Rotated by 90 degrees counter-clockwise"),
        ("rotated_180", "Rotated by 180 degrees"),
        ("mirrored", "Mirrored"),
        ("upside_down", "Upside down"),
        ("inverted", "Inverted grey scale"),
        ("not_a_frontal_chest_radiograph", "Not a frontal chest radiograph"),
        ("local_abnormality", "Unusual at one place"),
        ("global_abnormality", "Unusual as a whole"),
    )
}
#: The code of CID 7011 (Rejected for Quality Reason), of which CID 6135 (Image Quality Finding) holds these too.
QUALITY = {
    "rotated_90_cw": codes.DCM.Positioning,
    "rotated_90_ccw": codes.DCM.Positioning,
    "rotated_180": codes.DCM.Positioning,
    "mirrored": codes.DCM.Positioning,
    "upside_down": codes.DCM.Positioning,
    "inverted": codes.DCM.InappropriateImageProcessing,
}
