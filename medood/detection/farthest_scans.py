"""The highest-scoring calibration scans, for visual review: outliers in the calibration set hide outliers later on."""

from __future__ import annotations

import csv
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from medood.scans.scan import Identity
from medood.scans.transforms import to_levels
from medood.text import spreadsheet_cell, visible

#: Maximum number of scans on the contact sheet, and its number of columns.
MAX_SHOWN, _ACROSS = 48, 8
_CELL, _GAP, _LINE = 160, 8, 12
COLUMNS = ("rank", "source", "member", "frame", "sha256", "score", "p_value")


@dataclass(frozen=True, order=True)
class _Kept:
    score: float
    number: int
    identity: Identity
    image: Tensor


class FarthestScans:
    """Keeps the images with the highest scores, and the score of every scan."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        self._rows: list[tuple[float, Identity]] = []

    def add(self, identities: Sequence[Identity], images: Tensor, scores: Sequence[float]) -> None:
        """Add scans.

        Args:
            identities: identities of the scans.
            images: ``[N, 1, S, S]`` images in [0, 1].
            scores: ``[N]`` scores.
        """
        for identity, image, score in zip(identities, images, scores, strict=True):
            entry = _Kept(float(score), -len(self._rows), identity, image)  # ties keep the first scan
            self._rows.append((entry.score, identity))
            (heapq.heappush if len(self._kept) < MAX_SHOWN else heapq.heappushpop)(self._kept, entry)

    def highest(self, count: int) -> list[tuple[str, float]]:
        """Names and scores of the ``count`` highest-scoring scans, the highest first."""
        return [(visible(entry.identity.name), entry.score) for entry in sorted(self._kept, reverse=True)[:count]]

    def write(self, sheet: Path, p_values: Sequence[float]) -> None:
        """Write a PNG of the highest-scoring scans, and beside it a CSV of all scans.

        Args:
            sheet: path of the PNG.
            p_values: ``[N]`` p-values of all scans, in the order they were added.
        """
        sheet.parent.mkdir(parents=True, exist_ok=True)
        falling = sorted(range(len(self._rows)), key=lambda i: (-self._rows[i][0], i))
        with sheet.with_suffix(".csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for rank, i in enumerate(falling, start=1):
                score, identity = self._rows[i]
                names = [spreadsheet_cell(text) for text in (identity.source, identity.member)]
                writer.writerow([rank, *names, identity.frame, identity.sha256, f"{score:.6g}", f"{p_values[i]:.6g}"])
        highest = sorted(self._kept, reverse=True)
        height = _CELL + 2 * _LINE + _GAP
        mode = "RGB" if highest and len(highest[0].image) == 3 else "L"
        size = (_ACROSS * (_CELL + _GAP) + _GAP, -(-len(highest) // _ACROSS) * height + _GAP)
        canvas = Image.new(mode, size, "white")
        pen = ImageDraw.Draw(canvas)
        for place, entry in enumerate(highest):
            left, top = _GAP + place % _ACROSS * (_CELL + _GAP), _GAP + place // _ACROSS * height
            levels = to_levels(entry.image).permute(1, 2, 0).squeeze(-1).numpy()
            canvas.paste(Image.fromarray(levels).resize((_CELL, _CELL), Image.Resampling.BICUBIC), (left, top))
            name = Path(entry.identity.member or entry.identity.source).name
            pen.text((left, top + _CELL), f"{place + 1}  p {p_values[-entry.number]:.3g}", fill="black")
            pen.text((left, top + _CELL + _LINE), _ascii(name)[-26:], fill="black")
        canvas.save(sheet, "PNG")


def _ascii(name: str) -> str:
    """The name in ASCII, for the sheet's font; the CSV has the name itself."""
    return visible(name).encode("ascii", "replace").decode()
