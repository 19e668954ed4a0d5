"""Freed memory stays in the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

TOUCH = """
import resource, sys
import numpy as np
from medood.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
np.ones(4_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(4_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_memory_is_reused_without_new_pages() -> None:
    """32 MB ten times are 78,000 pages of 4 KiB, unless they stay; the system may take larger pages."""
    faults = {
        way: int(subprocess.run([sys.executable, "-c", TOUCH, way], capture_output=True, check=True).stdout)
        for way in ("keep", "return")
    }
    assert faults["keep"] < 100 < faults["return"]
