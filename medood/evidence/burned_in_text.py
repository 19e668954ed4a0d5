"""Find text that is burnt into an image: names, numbers and dates, but not the markers of a radiograph.

Text is located and read by PP-OCR (Du et al., arXiv 2009.09941) through RapidOCR, whose models come inside its wheel: the
extra ``text``. What was read is compared with the markers and forgotten; nothing here returns it.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medood.errors import MedoodError

Picture = npt.NDArray[np.float32]
#: Longest side of the image in which text is looked for; smaller images are enlarged by at most this factor.
SIDE, _ENLARGED = 1024, 4.0
#: Words that mark a side, a projection or a position. They are no identifiers.
_SIDES = ("L", "R", "LT", "RT", "LEFT", "RIGHT", "LI", "RE", "LINKS", "RECHTS")
_PROJECTIONS = ("PA", "AP", "LAT", "LATERAL", "CHEST", "THORAX", "INSP", "EXP", "INSPIRATION", "EXPIRATION")
_POSITIONS = ("ERECT", "UPRIGHT", "STANDING", "SITTING", "SUPINE", "SEMI", "SEMIERECT", "SEMIUPRIGHT", "BED")
_DEVICES = ("PORT", "PORTABLE", "MOBILE", "KV", "MAS", "CM", "MM")
_MARKERS = frozenset((*_SIDES, *_PROJECTIONS, *_POSITIONS, *_DEVICES))
#: Least similarity (of ``difflib``) of a word to a marker of at least six letters, for letters that were misread.
_ALIKE = 0.8
#: Least confidence of what was read; below it markers are misread, and names illegible. Set on training radiographs.
_SURE = 0.75
#: Shorter texts, such as a technologist's initials or "2.0", name nobody.
_LEAST = 3
#: Share of a box's height by which it is widened before it is blanked.
_MARGIN = 0.25


@dataclass(frozen=True)
class Box:
    """A place of text, in fractions of the image's width and height."""

    left: float
    top: float
    right: float
    bottom: float


def is_available() -> bool:
    """Whether the extra ``text`` is installed."""
    return importlib.util.find_spec("rapidocr_onnxruntime") is not None


def check_text(wanted: bool) -> None:
    """Check that text can be looked for, if it is to be.

    Raises:
        MedoodError: the extra ``text`` is not installed.
    """
    if wanted and not is_available():
        raise MedoodError("--text needs the extra text: pip install 'medood[text]'.")


def find_text(image: Picture, side: int = SIDE) -> list[Box]:
    """Places of text other than markers, from top to bottom.

    Args:
        image: float32 ``[H, W]`` in [0, 1].
        side: longest side in pixels at which text is looked for.

    Raises:
        ImportError: the extra ``text`` is not installed.
    """
    height, width = image.shape
    factor = min(side / max(height, width), _ENLARGED)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    levels = Image.fromarray(np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8))
    grey = np.asarray(levels.resize(size, Image.Resampling.BICUBIC))
    lines, _ = _reader()(np.repeat(grey[..., None], 3, axis=2), use_cls=False)
    boxes = []
    for corners, text, _ in lines or ():
        if not _is_marker(text):
            columns, rows = np.array(corners, dtype=np.float64).T
            margin = _MARGIN * (rows.max() - rows.min())
            edges = (columns.min() - margin, rows.min() - margin, columns.max() + margin, rows.max() + margin)
            boxes.append(Box(*(float(min(1.0, max(0.0, edge / size[i % 2]))) for i, edge in enumerate(edges))))
    return sorted(boxes, key=lambda box: (box.top, box.left))


def blank(image: Picture, boxes: list[Box]) -> Picture:
    """The image ``[H, W]`` with the boxes in the median grey value of each one's rim."""
    blanked = image.copy()
    height, width = image.shape
    for box in boxes:
        top, bottom = int(box.top * height), max(int(np.ceil(box.bottom * height)), int(box.top * height) + 1)
        left, right = int(box.left * width), max(int(np.ceil(box.right * width)), int(box.left * width) + 1)
        place = blanked[top:bottom, left:right]
        rim = np.concatenate([place[0], place[-1], place[:, 0], place[:, -1]])
        place[...] = np.median(rim)
    return blanked


def _is_marker(text: str) -> bool:
    """Whether a text names nobody: too short, or nothing but markers, single letters and numbers of one or two digits."""
    words = re.findall(r"[^\W_]+", text.upper())
    return sum(map(len, words)) < _LEAST or all(_is_marker_word(word) for word in words)


def _is_marker_word(word: str) -> bool:
    if word in _MARKERS or len(word) == 1 or (len(word) == 2 and word.isdigit()):
        return True
    long = (marker for marker in _MARKERS if len(marker) >= 6)
    return any(SequenceMatcher(None, word, marker).ratio() >= _ALIKE for marker in long)


@lru_cache(maxsize=1)
def _reader() -> Any:
    module = importlib.import_module("rapidocr_onnxruntime")
    return module.RapidOCR(text_score=_SURE, intra_op_num_threads=1, inter_op_num_threads=1)
