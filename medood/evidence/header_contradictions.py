"""Where a DICOM header says something else than the image shows: for detectors of frontal chest radiographs only.

Only what contradicts for certain counts. An empty or unknown value contradicts nothing, and neither does a header that
names the chest in other words; body parts are those of PS3.16, annex L, modalities those of PS3.3, C.7.3.1.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from medood.evidence.fault_codes import ABNORMALITIES, FaultName

#: Body parts of which no radiograph is a frontal chest.
_ELSEWHERE = frozenset(
    {
        *("ABDOMEN", "ANKLE", "ARM", "BLADDER", "BRAIN", "BREAST", "BUTTOCK", "CALCANEUS", "CERVIX", "COCCYX"),
        *("COLON", "CSPINE", "DUODENUM", "EAR", "ELBOW", "EXTREMITY", "EYE", "EYELID", "FACE", "FEMUR", "FINGER"),
        *("FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE"),
        *("MANDIBLE", "MAXILLA", "NECK", "NOSE", "ORBIT", "PANCREAS", "PATELLA", "PELVIS", "PENIS", "PROSTATE"),
        *("RADIUS", "RECTUM", "SCROTUM", "SELLA", "SHOULDER", "SINUS", "SKULL", "SSPINE", "STOMACH", "TESTIS"),
        *("THIGH", "THUMB", "TIBIA", "TOE", "TONGUE", "UTERUS", "WRIST", "ZYGOMA"),
    }
)
_CHEST = frozenset({"CHEST", "THORAX", "LUNG"})
#: Modalities whose images are no projection radiographs.
_NO_RADIOGRAPHS = frozenset(
    {"CT", "MR", "US", "NM", "PT", "MG", "ES", "GM", "SM", "OP", "OPT", "IVUS", "IVOCT", "BMD", "ECG"}
)
_LATERAL, _FRONTAL = frozenset({"LL", "RL", "LAT", "LATERAL", "LLD", "RLD"}), frozenset({"PA", "AP"})


def contradiction(attributes: Mapping[str, str], finding: str, *, flagged: bool) -> str:
    """The attributes of a header that the image contradicts, joined by `` and ``; empty if none does.

    Args:
        attributes: attributes of the header, as :attr:`medood.scans.scan.Scan.attributes` holds them.
        finding: what the detector calls wrong with the scan.
        flagged: whether it is out of distribution.
    """
    modality, part, view = (_value(attributes, name) for name in ("Modality", "BodyPartExamined", "ViewPosition"))
    if not flagged or finding in ABNORMALITIES:  # it shows a frontal chest, of a patient who may be ill
        contradictions = {
            "Modality": modality in _NO_RADIOGRAPHS,
            "BodyPartExamined": part in _ELSEWHERE,
            "ViewPosition": view in _LATERAL,
        }
    else:
        is_frontal_chest = part in _CHEST and view in _FRONTAL
        shows_another = is_frontal_chest and finding == FaultName.NOT_A_FRONTAL_CHEST_RADIOGRAPH
        contradictions = {"BodyPartExamined": shows_another, "ViewPosition": shows_another}
    return " and ".join(name for name, is_contradicted in contradictions.items() if is_contradicted)


def _value(attributes: Mapping[str, str], name: str) -> str:
    return re.sub(r"[\s_-]", "", attributes.get(name, "")).upper()
