"""A folder that a command fills: what fails before there is anything to keep leaves none behind."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from medood.errors import BusyError, MedoodError


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Callable[[], None]]:
    """Make a folder where there is none, and remove it with all that was written into it where the command fails early.

    A folder that was there before stays, and so does one that an interruption leaves.

    Args:
        folder: the one that will be written into.

    Yields:
        a function to call once there is something worth keeping.
    """
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True)
        made = True
    except FileExistsError:
        made = False
    worth_keeping: list[bool] = []
    try:
        yield lambda: worth_keeping.append(True)
    except BusyError:  # whoever came first works in it
        raise
    except (MedoodError, OSError):
        if made and not worth_keeping:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # something else lies there now
                for parent in absent[1:]:
                    parent.rmdir()
        raise
