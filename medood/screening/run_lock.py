"""Lock on a run's folder: a second process gets an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from medood.errors import BusyError


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Context manager that locks a run's folder. The lock is released when the process ends, even by a crash.

    Raises:
        BusyError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BusyError(f"{folder} is in use by another process. Wait until it ends, or give another folder.") from error
    try:
        yield
    finally:
        lock.release()
