"""A reader for worker processes that does what damaged files make decoders do, by the file's name."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

from medood.scans.scan import Refusal
from medood.scans.sources.source import Source
from medood.screening.read_worker import ReadSpec, Result, read_results, results_to_parts, source_from_bytes


def read(source: Source | Refusal, reading: ReadSpec) -> list[Result]:
    """Read as ever, but for the files named after a fault."""
    name = Path(source.identity.source).stem
    if "segfault" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "exit" in name:
        os._exit(3)
    if "forever" in name:
        while True:
            pass
    if "keeps_the_lock" in name:
        ctypes.PyDLL(None).sleep(40)
    if "oom" in name:
        raise MemoryError
    if "once" in name:  # dies the first time alone
        flag = Path(source.identity.source).with_suffix(".flag")
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if "slow" in name:
        time.sleep(0.05)
    return read_results(source, reading)


def read_on_a_cluster(source: tuple[bytes, bytes | None], reading: ReadSpec) -> list[bytes]:
    """The same, for a Dask worker."""
    message, content = source
    return list(results_to_parts(read(source_from_bytes(message, lambda: content), reading)))


def read_where_something_is_missing(source: tuple[bytes, bytes | None], reading: ReadSpec) -> bytes:
    """On a Dask worker without what is needed."""
    raise ModuleNotFoundError("No module named 'something'")


def read_later(source: Source | Refusal, reading: ReadSpec) -> list[Result]:
    """Hang on the files named so."""
    while "later" in source.identity.source:
        pass
    return read_results(source, reading)
