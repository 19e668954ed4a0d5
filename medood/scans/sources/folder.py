"""List files one at a time, in a fixed order, and without opening any but lists of files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medood.reasons import Reason
from medood.scans.scan import Identity, Refusal, Status
from medood.scans.sources.compression import PEEK
from medood.scans.sources.csv_manifest import is_manifest, read_manifest
from medood.scans.sources.dicomdir import is_file_set, read_file_set
from medood.scans.sources.dicomweb import find_instances, is_dicomweb
from medood.scans.sources.listed_file import ListedFile


def check_there(path: Path) -> None:
    """Check early that a path exists.

    Raises:
        FileNotFoundError: the path does not exist, or cannot be looked up.
    """
    try:
        is_there = path.exists() or path.is_symlink()
    except OSError as error:
        raise FileNotFoundError(f"{str(path)[:200]} cannot be looked up: {error.strerror}") from error
    if not is_there:
        raise FileNotFoundError(f"{path} does not exist")


@dataclass(frozen=True)
class File:
    """A file that was found but not yet opened.

    Attributes:
        place: its path as a string, because ``Path`` objects for a million skipped files would be slow.
        root: the folder that it was found in and must not lead out of; None for a file that was given or listed.
        listed: its entry in a list of files; None if it is on none.
        url: address of an instance in a PACS, with an empty ``place``.
    """

    place: str
    root: Path | None = None
    listed: ListedFile | None = None
    url: str = ""

    @property
    def name(self) -> str:
        """The name in the ledger's rows."""
        return self.url or self.place

    @property
    def path(self) -> Path:
        """The path; empty for an instance in a PACS."""
        return Path(self.place)


def find_files(source: str | Path) -> Iterator[File | Refusal]:
    """Yield the files of a source, in the order of ``find_sources``; only lists of files are opened."""
    if is_dicomweb(source):
        yield from (File("", url=address) for address in find_instances(str(source)))
        return
    path = Path(source)
    if path.is_dir():
        closed: list[OSError] = []
        root = path.resolve()
        for folder, folders, names in os.walk(path, onerror=closed.append):
            folders.sort()
            linked = [name for name in folders if (Path(folder) / name).is_symlink()]
            before = "" if (folder_name := str(Path(folder))) == "." else os.path.join(folder_name, "")  # noqa: PTH118 - see place
            for name in sorted([*names, *linked]):
                yield File(before + name, root)
        for denied in closed:
            yield Refusal(
                Identity(str(denied.filename)),
                Status.UNREADABLE,
                Reason("folder_not_opened", problem=denied.strerror or "a system error"),
            )
        return
    start = b""
    with contextlib.suppress(OSError):  # an unreadable file is refused when it is opened for reading
        if path.is_file():  # reading a pipe would block
            with path.open("rb") as stream:
                start = stream.read(PEEK)
    if is_file_set(path, start) or is_manifest(path):
        for entry in read_file_set(path) if is_file_set(path, start) else read_manifest(path):
            yield entry if isinstance(entry, Refusal) else File(str(entry.path), listed=entry)
    else:
        yield File(str(path))
