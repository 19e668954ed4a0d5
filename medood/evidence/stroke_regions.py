"""Find the places of an image that can hold letters: thin strokes that stand out from what is beside them."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]
#: Widest stroke in pixels; contrasts in grey levels of 255, of which the higher ones part letters from a tube or the rim of
#: the exposed field that they touch. Set on training radiographs; at 24 a sharp radiograph has strokes wherever ribs are.
WIDEST, CONTRASTS = 13, (32, 64, 96)
#: Letters are where so many edges, two a stroke, lie in a row within so many pixels.
_EDGES, _WITHIN = 6, 128
#: Gaps up to which letters belong together, across and down; least side of a place. In pixels.
_GAP_ACROSS, _GAP_DOWN, _LEAST = 31, 9, 5
#: Rim around the strokes, in pixels: what a detector of text wants to see.
_RIM = 24


def stroke_regions(grey: Mask) -> list[tuple[slice, slice]]:
    """Rows and columns of every place with strokes, white on dark or black on light, and a rim around it.

    A stroke is what a white or a black top-hat leaves (Serra, Image Analysis and Mathematical Morphology, 1982), at the
    image's resolution and, for letters twice as large, at half of it. Only three of them side by side count: tubes, ribs
    and rims of the exposed field seldom lie so, the letters of a name do. Places that overlap are one place.

    Args:
        grey: uint8 ``[H, W]``.

    Raises:
        ImportError: OpenCV is missing, which the extra ``text`` brings.
    """
    cv2 = importlib.import_module("cv2")
    fine = _strokes(cv2, grey)
    size = (max(1, grey.shape[1] // 2), max(1, grey.shape[0] // 2))
    coarse = _strokes(cv2, cv2.resize(grey, size, interpolation=cv2.INTER_AREA))
    strokes = fine | cv2.resize(coarse, fine.shape[::-1], interpolation=cv2.INTER_NEAREST)
    joined = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((_GAP_DOWN // 2, _GAP_ACROSS // 2), dtype=np.uint8))
    covered, rim = np.zeros_like(joined), _RIM // 2
    for left, top, width, height in _boxes(cv2, joined):
        if 2 * min(width, height) >= _LEAST:
            covered[max(0, top - rim) : top + height + rim, max(0, left - rim) : left + width + rim] = 1
    return [
        (slice(2 * top, 2 * (top + height)), slice(2 * left, 2 * (left + width)))
        for left, top, width, height in _boxes(cv2, covered)
    ]


def _strokes(cv2: Any, grey: Mask) -> Mask:
    """Where three strokes or more lie side by side, at half the resolution: uint8 ``[(H + 1) // 2, (W + 1) // 2]``."""
    square = np.ones((WIDEST, WIDEST), dtype=np.uint8)
    strokes, edges = np.zeros_like(grey), np.zeros_like(grey)
    for hat in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):  # apart: what lies between white letters is a black stroke
        contrast = cv2.morphologyEx(grey, hat, square)
        for least in CONTRASTS:
            mask = (contrast >= least).view(np.uint8)
            edges[:, 1:] = mask[:, 1:] ^ mask[:, :-1]
            counts = cv2.boxFilter(edges, cv2.CV_8U, (_WITHIN, 1), normalize=False, borderType=cv2.BORDER_CONSTANT)
            strokes |= mask & (counts >= _EDGES).view(np.uint8)
    return _halved(strokes)


def _halved(values: Mask) -> Mask:
    """The highest of each four pixels; a last odd row or column stands for itself."""
    height, width = values.shape
    even = np.pad(values, ((0, height % 2), (0, width % 2)))
    return np.asarray(even.reshape(-(-height // 2), 2, -(-width // 2), 2).max(axis=(1, 3)))


def _boxes(cv2: Any, mask: Mask) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height of each connected component."""
    sizes = cv2.connectedComponentsWithStats(mask)[2]
    return [(int(left), int(top), int(width), int(height)) for left, top, width, height, _ in sizes[1:]]
