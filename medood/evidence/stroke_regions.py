"""Find the places of an image that can hold letters: thin strokes that stand out from what is beside them."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

#: Widest stroke in pixels; contrasts in grey levels of 255, of which the higher ones part letters from a tube or the rim of
#: the exposed field that they touch. Set on training radiographs; at 24 a sharp radiograph has strokes wherever ribs are.
WIDEST, CONTRASTS = 11, (32, 64, 96)
#: Gaps up to which letters belong together, across and down; tallest letter; least side of a place. In pixels.
_GAP_ACROSS, _GAP_DOWN, _TALLEST, _LEAST = 31, 9, 120, 5
#: Rim around the strokes, in pixels: what a detector of text wants to see.
_RIM = 24


def stroke_regions(grey: npt.NDArray[np.uint8]) -> list[tuple[slice, slice]]:
    """Rows and columns of every place with strokes, white on dark or black on light, and a rim around it.

    A stroke is what a white or a black top-hat leaves (Serra, Image Analysis and Mathematical Morphology, 1982). Places that
    overlap are one place.

    Args:
        grey: uint8 ``[H, W]``.

    Raises:
        ImportError: OpenCV is missing, which the extra ``text`` brings.
    """
    cv2 = importlib.import_module("cv2")
    square = np.ones((WIDEST, WIDEST), dtype=np.uint8)
    contrast = np.maximum(*(cv2.morphologyEx(grey, hat, square) for hat in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT)))
    contrast = cv2.dilate(contrast, np.ones((2, 2), dtype=np.uint8))[1::2, 1::2]  # the highest of four pixels
    strokes = np.zeros_like(contrast)
    for least in CONTRASTS:
        strokes |= _without_tall(cv2, (contrast >= least).astype(np.uint8))
    joined = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((_GAP_DOWN // 2, _GAP_ACROSS // 2), dtype=np.uint8))
    covered, rim = np.zeros_like(joined), _RIM // 2
    for left, top, width, height in _boxes(cv2, joined):
        if 2 * min(width, height) >= _LEAST:
            covered[max(0, top - rim) : top + height + rim, max(0, left - rim) : left + width + rim] = 1
    return [
        (slice(2 * top, 2 * (top + height)), slice(2 * left, 2 * (left + width)))
        for left, top, width, height in _boxes(cv2, covered)
    ]


def _without_tall(cv2: Any, mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The mask, at half the resolution, without what is taller than a letter: tubes, wires, rims of the exposed field."""
    _, numbers, sizes, _ = cv2.connectedComponentsWithStats(mask)
    for number in np.flatnonzero(2 * sizes[1:, cv2.CC_STAT_HEIGHT] > _TALLEST) + 1:
        left, top, width, height, _ = sizes[number]
        place = (slice(top, top + height), slice(left, left + width))
        mask[place][numbers[place] == number] = 0
    return mask


def _boxes(cv2: Any, mask: npt.NDArray[np.uint8]) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height of each connected component."""
    sizes = cv2.connectedComponentsWithStats(mask)[2]
    return [(int(left), int(top), int(width), int(height)) for left, top, width, height, _ in sizes[1:]]
