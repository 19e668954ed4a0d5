"""Writes the manifest of the study: the knees of MEDOOD_DATA, and as far sets its chests and all else that is no knee.

Usage: python -m reports.knee.manifest FOLDER/manifest.csv
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

FIELDS = ("file", "split", "group", "dataset", "patient_id")
#: Kellgren-Lawrence grades 3 and 4 are one set.
NAMES = {"knee_kl3": "knee_kl34", "knee_kl4": "knee_kl34"}
#: Chest radiographs, of two sources.
CHESTS = ("rsna_normal", "nih_pneumonia")


def main() -> None:
    data, target = Path(os.environ["MEDOOD_DATA"]), Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in read(data / "knee" / "manifest.csv"):
        row["dataset"] = NAMES.get(row["dataset"], row["dataset"])
        rows.append(row | {"file": located(data / "knee" / row["file"], target)})
    others = [row for row in read(data / "manifest.csv") if row["split"] == "test"]
    others = [row for row in others if row["group"] == "far" or row["dataset"] in CHESTS]
    rows += [row | {"group": "far", "file": located(data / row["file"], target)} for row in others]
    with target.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def located(path: Path, target: Path) -> str:
    """The path relative to the manifest's folder."""
    return os.path.relpath(path, target.parent.resolve())


if __name__ == "__main__":
    main()
