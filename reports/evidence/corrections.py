"""How often a report names the right correction of a fault, and one where there is none. Prints CSV.

Flagged scans alone count. The thresholds of ``medood.evidence.positions`` were set on training radiographs; test
radiographs and those of other hospitals were looked at once, afterwards.

Usage: MEDOOD_DATA=FOLDER python -m reports.evidence.corrections > reports/evidence/corrections.csv
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Generator, Tensor

from medood.detection.detector import Detector
from medood.evaluation.acquisition_faults import KINDS, plant
from medood.evidence.findings import corrections
from medood.scans.reader import read_scans
from medood.scans.scan import Scan

DATA = Path(os.environ.get("MEDOOD_DATA", ""))
PHOTOGRAPHS = 40
#: Where the share was set: the folder, how many radiographs to pass over, and how many to take.
SET_ON = ("in_distribution/calibration", 50, 40)
#: Where it was looked at afterwards.
LOOKED_AT = [
    (name, 0, 24)
    for name in ("in_distribution/test", *(f"id_shift/{hospital}_normal" for hospital in ("nih", "openist", "pk")))
]


def films(detector: Detector, source: Path, count: int, skip: int = 0) -> Tensor:
    found: list[Tensor] = []
    for scan in read_scans(source):
        if isinstance(scan, Scan):
            found.append(detector.prepare(scan))
        if len(found) == skip + count:
            break
    return torch.stack(found[skip:])


def faults(plain: Tensor) -> dict[str, tuple[Tensor, str]]:
    """Radiographs with a fault, and the correction that is right; none where no correction is."""
    quarters = plain.roll((plain.shape[2] // 2, plain.shape[3] // 2), dims=(2, 3))
    return {
        "turned clockwise": (torch.rot90(plain, -1, (-2, -1)), "turned by 90 degrees counter-clockwise"),
        "turned counter-clockwise": (torch.rot90(plain, 1, (-2, -1)), "turned by 90 degrees clockwise"),
        "turned by 180 degrees": (plain.flip(-2, -1), "turned by 180 degrees"),
        "mirrored": (plain.flip(-1), "mirrored"),
        "upside down": (plain.flip(-2), "flipped upside down"),
        "inverted": (1.0 - plain, "inverted"),
        **{f"planted {kind}": (plant(kind, plain, Generator().manual_seed(3))[0], "") for kind in KINDS},
        "quarters permuted": (quarters, ""),
        "two radiographs blended": ((plain + plain.roll(1, 0)) / 2, ""),
        "noise": (torch.rand(plain.shape, generator=Generator().manual_seed(4)), ""),
    }


def main() -> None:
    detector = Detector.load("cxr-small")
    print("radiographs,fault,flagged,named right,named wrong")
    for folder, skip, count in [SET_ON, *LOOKED_AT]:
        made = faults(films(detector, DATA / folder, count, skip))
        if (folder, skip, count) == SET_ON:
            made["photographs"] = (films(detector, DATA / "cifar10" / "train.zip", PHOTOGRAPHS), "")
        for name, (images, right) in made.items():
            if not right and (folder, skip, count) != SET_ON:
                continue
            verdicts = detector.judge(detector.embed(images), 0.05)
            flagged = [i for i, verdict in enumerate(verdicts) if verdict.decision == "out_of_distribution"]
            named = [
                found.done if found else ""
                for i in flagged
                for found in corrections(detector, images[i : i + 1], [verdicts[i].score])
            ]
            hits = sum(bool(right) and one == right for one in named)
            print(f"{folder},{name},{len(flagged)},{hits},{sum(one not in ('', right) for one in named)}", flush=True)


if __name__ == "__main__":
    main()
