"""Name what is wrong with a flagged scan, in a fixed vocabulary.

The deciding score itself tells how a scan was changed: it is computed again with the scan rotated, mirrored and inverted,
and the lowest wins. A scan that is no frontal chest radiograph scores about the same in every position. Where neither says
anything, a lesion network that has learned faults may.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medood.detection.detector import Detector
from medood.evidence.evidence_maps import joint_maps
from medood.evidence.fault_codes import FaultName
from medood.evidence.findings import standing_out
from medood.evidence.positions import positions

#: The fault that each correction undoes.
UNDOES = {
    "turned by 90 degrees clockwise": FaultName.ROTATED_90_CCW,
    "turned by 90 degrees counter-clockwise": FaultName.ROTATED_90_CW,
    "turned by 180 degrees": FaultName.ROTATED_180,
    "mirrored": FaultName.MIRRORED,
    "flipped upside down": FaultName.UPSIDE_DOWN,
    "inverted": FaultName.INVERTED,
}


def name_faults(detector: Detector, images: Tensor, flagged: Sequence[bool]) -> list[str]:
    """What is wrong with each flagged image, one of ``FaultName``; empty for the others.

    Args:
        detector: the detector.
        images: float32 ``[N, 1, S, S]`` as the detector prepares them.
        flagged: ``[N]``, which to name.
    """
    names = [""] * len(images)
    chosen = [i for i, is_flagged in enumerate(flagged) if is_flagged]
    if not chosen:
        return names
    is_chest = detector.metadata.is_chest
    stranger = FaultName.NOT_A_FRONTAL_CHEST_RADIOGRAPH if is_chest else FaultName.ANOTHER_KIND_OF_IMAGE
    seen = positions(detector, images[chosen])
    unclear: list[int] = []
    for i, correction, is_foreign, probable in zip(
        chosen, seen.corrections, seen.foreign, seen.probable_faults, strict=True
    ):
        if is_foreign:
            names[i] = stranger
        elif correction:
            names[i] = UNDOES[correction]
        elif probable:
            names[i] = stranger if probable == FaultName.NOT_A_FRONTAL_CHEST_RADIOGRAPH else FaultName(probable)
        else:
            unclear.append(i)
    for i in unclear:  # one at a time, so that no map depends on the others
        heat = joint_maps(detector, images[i : i + 1])[0]
        is_local = standing_out(heat)[0] == "one place"
        names[i] = FaultName.LOCAL_ABNORMALITY if is_local else FaultName.GLOBAL_ABNORMALITY
    return names
