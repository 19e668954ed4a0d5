"""Settings of other libraries that hold while medood reads, and not before or after."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from PIL import Image

T = TypeVar("T")

#: Loggers that are silent while files are read: they quote values of headers.
_LOGGERS = ("pydicom", "nibabel.global", "tifffile")
_lock = threading.Lock()
_depth = 0
_before: dict[str, int] = {}
_pixels_before: int | None = None


@contextmanager
def library_settings() -> Iterator[None]:
    """Silence libraries' loggers and lift Pillow's pixel limit; both are restored when the last user leaves.

    The limit on pixels is ``ReadConfig.max_pixels``, checked against the header before anything is decoded.
    """
    global _depth, _pixels_before
    with _lock:
        if not _depth:
            _before.update({name: logging.getLogger(name).level for name in _LOGGERS})
            _pixels_before = Image.MAX_IMAGE_PIXELS
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            Image.MAX_IMAGE_PIXELS = None
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                for name, level in _before.items():
                    logging.getLogger(name).setLevel(level)
                Image.MAX_IMAGE_PIXELS = _pixels_before


def with_library_settings(items: Iterator[T]) -> Iterator[T]:
    """Pass items on; the settings hold while each is produced, not while the caller uses it."""
    while True:
        with library_settings():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
