"""How far a linear probe tells negatives from originals of synthetic chests: ``python -m reports.training.probe FOLDER``."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import torch

from tests.negatives.test_shifts import border, chests, histogram, probed, shifted


def main(folder: Path) -> None:
    """Write ``probe.csv``."""
    first, second = chests(150)
    with (folder / "probe.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["negative", "grey histogram", "border pixels"])
        for name in ("rot", "mirror", "perm4", "perm16"):
            moved = shifted(name, 7, second)
            figures = [probed(torch.cat([what(first), what(moved)]), len(first)) for what in (histogram, border)]
            writer.writerow([name, *(round(figure, 3) for figure in figures)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
