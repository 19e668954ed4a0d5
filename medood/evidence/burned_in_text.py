"""Find text that is burnt into an image: names, numbers and dates, but not the markers of a radiograph.

Where strokes are, text is located and read by PP-OCR (Du et al., arXiv 2009.09941) through RapidOCR, whose models come
inside its wheel: the extra ``text``. What was read is compared with the markers and forgotten; nothing here returns it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medood.errors import MedoodError
from medood.evidence.stroke_regions import stroke_regions

Picture = npt.NDArray[np.float32]
#: Longest side of the image in which text is looked for; smaller images are enlarged by at most this factor.
SIDE, _ENLARGED = 1024, 4.0
#: Narrowest strip, after enlarging, that can hold letters.
_NARROWEST = 12
#: Share of an image with strokes from which on the whole of it is looked at.
_CROWDED = 0.25
#: The detector resizes sides to a multiple of this, and puts flat strips (1 : 8) on black; both are prevented by padding.
_MULTIPLE, _FLATTEST = 32, 7
#: Words that mark a side, a projection or a position. They are no identifiers.
_SIDES = ("L", "R", "LT", "RT", "LEFT", "RIGHT", "LINKS", "RECHTS")
_PROJECTIONS = ("PA", "AP", "LAT", "LATERAL", "CHEST", "THORAX", "INSP", "EXP", "INSPIRATION", "EXPIRATION")
_POSITIONS = ("ERECT", "UPRIGHT", "STANDING", "SITTING", "SUPINE", "SEMI", "SEMIERECT", "SEMIUPRIGHT")
_DEVICES = ("PORTABLE", "MOBILE", "KV", "MAS", "CM", "MM")
_MARKERS = frozenset((*_SIDES, *_PROJECTIONS, *_POSITIONS, *_DEVICES))
#: Letters from which a marker of which one letter was misread still counts as one.
_LONG = 7
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
    """Whether the extra ``text`` is installed and works."""
    try:
        _reader()
    except Exception:  # a library of the system may be missing, which several packages report differently
        return False
    return True


def check_text(wanted: bool) -> None:
    """Check that text can be looked for, if it is to be.

    Raises:
        MedoodError: the extra ``text`` is not installed, or does not work here.
    """
    if wanted and not is_available():
        raise MedoodError(
            "--text needs the extra text: pip install 'medood[text]'. If it is installed, python -c 'import "
            "rapidocr_onnxruntime' says what it lacks; where that is libGL, install opencv-python-headless after it."
        )


def find_text(image: Picture, side: int = SIDE) -> list[Box]:
    """Places of upright text other than markers, from top to bottom.

    Args:
        image: float32 ``[H, W]`` in [0, 1].
        side: longest side in pixels at which text is looked for.

    Raises:
        ImportError: the extra ``text`` is not installed; see :func:`is_available`.
    """
    height, width = image.shape
    factor = min(side / max(height, width), _ENLARGED)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    levels = Image.fromarray(np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8))
    if min(size) < _NARROWEST:
        return []
    grey = np.asarray(levels.resize(size, Image.Resampling.BICUBIC))
    regions = stroke_regions(grey)
    if sum(grey[region].size for region in regions) > _CROWDED * grey.size:
        regions = [(slice(0, size[1]), slice(0, size[0]))]
    boxes = []
    for rows, columns in regions:
        lines, _ = _reader()(_padded(grey[rows, columns]), use_cls=False)
        for corners, text, _ in lines or ():
            if not _is_marker(text):
                x, y = np.add(corners, (columns.start, rows.start)).T
                margin = _MARGIN * (y.max() - y.min())
                edges = (x.min() - margin, y.min() - margin, x.max() + margin, y.max() + margin)
                boxes.append(Box(*(float(min(1.0, max(0.0, edge / size[i % 2]))) for i, edge in enumerate(edges))))
    return sorted(boxes, key=lambda box: (box.top, box.left))


def as_stored(boxes: list[Box], correction: str) -> list[Box]:
    """Boxes of a corrected image, in the image as it is.

    Args:
        boxes: as :func:`find_text` gives them for the corrected image.
        correction: its name in :data:`medood.evidence.positions.POSITIONS`.
    """
    moves: dict[str, Callable[[Box], Box]] = {
        "turned by 90 degrees clockwise": lambda b: Box(b.top, 1 - b.right, b.bottom, 1 - b.left),
        "turned by 90 degrees counter-clockwise": lambda b: Box(1 - b.bottom, b.left, 1 - b.top, b.right),
        "turned by 180 degrees": lambda b: Box(1 - b.right, 1 - b.bottom, 1 - b.left, 1 - b.top),
        "mirrored": lambda b: Box(1 - b.right, b.top, 1 - b.left, b.bottom),
        "flipped upside down": lambda b: Box(b.left, 1 - b.bottom, b.right, 1 - b.top),
        "inverted": lambda b: b,
    }
    return [moves[correction](box) for box in boxes]


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
    """Whether a text names nobody: too short, or markers, single letters and at most one number, of one or two digits."""
    words = re.findall(r"[^\W_]+", text.upper())
    numbers = [word for word in words if any(letter.isdigit() for letter in word)]
    if sum(map(len, words)) < _LEAST:
        return True
    return len(numbers) <= 1 and all(_is_marker_word(word) for word in words)


def _is_marker_word(word: str) -> bool:
    if word in _MARKERS or len(word) == 1 or (len(word) == 2 and word.isdigit()):
        return True
    alike = (marker for marker in _MARKERS if len(marker) == len(word) >= _LONG)
    return any(sum(a != b for a, b in zip(word, marker, strict=True)) == 1 for marker in alike)


def _padded(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A place of the image as the detector takes it: three channels, last row and column repeated at its end."""
    height, width = grey.shape
    least = max(height, -(-width // _FLATTEST))
    grey = np.pad(grey, ((0, -(-least // _MULTIPLE) * _MULTIPLE - height), (0, -width % _MULTIPLE)), mode="edge")
    return np.repeat(grey[..., None], 3, axis=2)


@lru_cache(maxsize=1)
def _reader() -> Any:
    module = importlib.import_module("rapidocr_onnxruntime")
    return module.RapidOCR(text_score=_SURE, det_limit_side_len=_MULTIPLE, intra_op_num_threads=1, inter_op_num_threads=1)
