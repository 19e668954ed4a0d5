"""Output folders that a failed command takes away again, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from medood.errors import BusyError, MedoodError


def check_empty(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        MedoodError: it is a file, or not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MedoodError(f"{folder} exists and is not an empty folder. Name another one.")


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


@contextlib.contextmanager
def atomic_write(target: Path, beside: Path | None = None) -> Iterator[Path]:
    """Replace ``target`` in one step, so that no reader ever sees half a file.

    Several processes and threads may write the same target; each replaces the whole file.

    Args:
        target: the file to write; it need not exist.
        beside: a folder on the same file system for the unfinished file; by default the target's.

    Yields:
        the path to write to. It becomes ``target`` when the block ends, and is removed if the block raises.
    """
    partial = (beside or target.parent) / f".{target.name}.{os.getpid()}.{threading.get_ident()}.part"
    try:
        yield partial
        partial.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
