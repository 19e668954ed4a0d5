"""Create a command's output folder, and remove it if the command fails before there is anything worth keeping."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from medood.errors import BusyError, MedoodError


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Callable[[], None]]:
    """Create ``folder`` if it does not exist, and remove it with its contents if the command fails early.

    A folder that existed before is kept, and so is the folder of an interrupted command.

    Args:
        folder: the folder to write to.

    Yields:
        a function to call once there is something worth keeping.
    """
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True)
        created = True
    except FileExistsError:
        created = False
    worth_keeping: list[bool] = []
    try:
        yield lambda: worth_keeping.append(True)
    except BusyError:  # another process is using the folder
        raise
    except (MedoodError, OSError):
        if created and not worth_keeping:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # the parent holds something else now
                for parent in absent[1:]:
                    parent.rmdir()
        raise
