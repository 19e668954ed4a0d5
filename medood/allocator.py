"""The memory allocator of this process."""

from __future__ import annotations

import ctypes
from functools import cache

#: Parameters of glibc's mallopt(3), and values that a C int holds.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**30


@cache
def keep_freed_memory() -> bool:
    """Keep the memory of freed tensors for the next ones; return whether the C library can.

    Otherwise glibc returns every large block to the system, which hands it out again page by page, each filled with zeros:
    a sixth of the time of scoring. Results do not change. The process keeps its largest size until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _LARGEST))
