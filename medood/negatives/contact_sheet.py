"""A contact sheet: originals beside their negatives, one column per shifting transformation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from medood.negatives.mixture import Mixture
from medood.scans.transforms import to_levels

_LABEL, _GAP = 16, 4


def contact_sheet(images: Tensor, mixture: dict[str, float], seed: int, auxiliary: bool = False) -> Image.Image:
    """Draw the sheet.

    Args:
        images: ``[N, C, S, S]`` in [0, 1]; one row per image.
        mixture: weights by shift; each shift with a weight above 0 becomes a column after the original.
        seed: seed of the parameters.
        auxiliary: label the first column ``auxiliary``.
    """
    count, _, side, _ = images.shape
    columns = {"auxiliary" if auxiliary else "original": images}
    for name in (name for name, weight in mixture.items() if weight > 0):
        alone = Mixture({name: 1.0})
        draw = alone.sample(count, side, torch.Generator().manual_seed(seed))
        columns[name] = alone.apply(images, draw)
    cell = max(side, 96)
    size = (len(columns) * (cell + _GAP) - _GAP, count * (cell + _GAP) - _GAP + _LABEL)
    mode = "RGB" if images.shape[1] == 3 else "L"
    sheet = Image.new(mode, size, "white")
    draw_text = ImageDraw.Draw(sheet)
    for column, (name, batch) in enumerate(columns.items()):
        left = column * (cell + _GAP)
        draw_text.text((left + 2, 2), name, fill="black")
        for row, image in enumerate(batch):
            levels = to_levels(image).permute(1, 2, 0).squeeze(-1).numpy()
            thumbnail = Image.fromarray(np.ascontiguousarray(levels)).resize((cell, cell), Image.Resampling.BICUBIC)
            sheet.paste(thumbnail, (left, _LABEL + row * (cell + _GAP)))
    return sheet


def save_sheet(sheet: Image.Image, target: Path) -> Path:
    """Write the sheet as PNG and return its path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target)
    return target
