"""The model card that ``medood train`` puts into a detector's folder, in the layout of the Hugging Face Hub."""

from __future__ import annotations

import statistics
from pathlib import Path

import yaml

from medood.detection.detector import Detector
from medood.detection.detector_folder import CARD
from medood.output_folder import atomic_write

#: A card without this line has been edited by a person, and is kept.
_MARK = "<!-- written by medood train; remove this line to keep your own text when it runs again -->"


def write_card(detector: Detector, folder: Path) -> None:
    """Write the card, unless the folder holds one that a person has taken over.

    Args:
        detector: the trained detector.
        folder: its folder.
    """
    target = folder / CARD
    if target.exists() and _MARK not in target.read_text(encoding="utf-8", errors="replace"):
        return
    with atomic_write(target) as partial:
        partial.write_text(card(detector), encoding="utf-8")


def card(detector: Detector) -> str:
    """The card's text: front matter, what is known of the detector, and what its owner has to add."""
    metadata = detector.metadata
    data, training = metadata.data, metadata.training
    front = {
        "library_name": "medood",
        "tags": ["out-of-distribution-detection", "medical-imaging", "self-distillation"],
        "license": "other",
    }
    preprocess = detector.preprocess
    choice = metadata.score_choice.get(detector.score_name, {})
    shifts = ", ".join(f"{name} {value:.3f}" for name, value in choice.items())
    seen = f" Their mean is {statistics.fmean(choice.values()):.3f}." if choice else ""
    rows = [
        ("networks", f"{detector.network.describe()}, input {preprocess.size} x {preprocess.size} pixels, {preprocess.fit}"),
        ("score", f"`{detector.score_name}`"),
        ("training scans", f"{data.get('training_scans', '?')}; {data.get('development_scans', '?')} more chose the score"),
        ("calibration scans", f"{data.get('calibration_scans', '?')}"),
        ("digest of the training scans", f"`{data.get('training_sha256', '')}`"),
        (
            "training",
            f"{training.get('steps', '?')} steps on {training.get('device', '?')}, {training.get('precision', '?')}",
        ),
        ("detector", f"`{detector.sha256}`"),
    ]
    table = "".join(f"| {name} | {text} |\n" for name, text in rows)
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---
{_MARK}

# {metadata.name or "A detector"}

A detector of scans that do not belong, made by `medood train`. It gives a score and a conformal p-value; it names no
disease.

| | |
|---|---|
{table}
## Use

```
medood screen ARCHIVE --detector THIS_FOLDER --out RUN
medood calibrate THIS_FOLDER --data NORMAL_SCANS --name SITE
```

At another site, calibrate it with that site's own normal scans first: the stated false-alarm rate holds for scans like those
that it was calibrated with, and for no others.

## What was measured

AUROC of scans of the development set against the same scans after each shift: {shifts or "not measured"}.{seen} These chose
the score and say nothing about disease or other sites; `medood benchmark` measures those.

## For its owner to add

- What the training scans are, where they come from, their licence, and which patients are not among them.
- What the detector must not be used for.

### Known failures

Not examined yet. Reports show the list that is written here.
"""
