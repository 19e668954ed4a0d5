"""What a run screens, in an order that holds: files as they lie, and what a PACS has as it was when the run began."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from medood.config.schema import ReadConfig
from medood.errors import MedoodError
from medood.progress import Progress
from medood.scans.reader import Seen
from medood.scans.scan import Refusal, UnavailableError
from medood.scans.sources.csv_manifest import is_manifest, manifest_table
from medood.scans.sources.csv_table import TableError
from medood.scans.sources.dicomweb import check_address, find_instances, is_dicomweb
from medood.scans.sources.folder import File, check_there, find_files
from medood.scans.sources.source import count_sources, open_file
from medood.screening.ledger import End, spelled
from medood.screening.read_worker import Listed, Place, Placed

#: Seconds between two looks at a watched folder, at least.
_LOOK = 1.0


class Listing:
    """The sources of a run.

    Args:
        sources: files, folders, archives, lists and addresses of PACS.
        out: the run's folder; what a PACS has is noted there.
        options: limits of archives.
        digested: make a digest of what is found.

    Attributes:
        digest: number of files, and SHA-256 of their names and sizes, once :meth:`placed` has ended; empty before.
    """

    def __init__(self, sources: Sequence[str | Path], out: Path, options: ReadConfig, *, digested: bool = False) -> None:
        self._sources, self._out, self._options, self._digested = sources, out, options, digested
        self.digest = ""

    def check(self, *, empty: bool = False) -> int | None:
        """Find out early that a source is missing, or that all are empty; how many there are, where that can be told.

        Args:
            empty: they may be.

        Raises:
            MedoodError: nothing lies there.
        """
        counts: list[int | None] = []
        for source in self._sources:
            if is_dicomweb(source):
                check_address(str(source))
                counts.append(None)
                continue
            try:
                check_there(Path(source))
            except FileNotFoundError as error:
                raise MedoodError(f"{error}. Give a file, a folder or an archive that is there.") from error
            counts.append(count_sources(Path(source)))
        total = None if None in counts else sum(count or 0 for count in counts)
        if total == 0 and not empty:
            raise MedoodError(f"There is no file in {', '.join(map(str, self._sources))}. Give a folder that holds scans.")
        return None if empty else total

    def manifests(self) -> Iterator[str]:
        """A line on each source that is a CSV manifest: which of its columns are used."""
        for source in self._sources:
            if not is_dicomweb(source) and is_manifest(Path(source)):
                with contextlib.suppress(OSError, TableError):  # it will be a row
                    yield str(manifest_table(Path(source)))

    def freeze(self, progress: Progress, stopped: Callable[[], bool] = lambda: False) -> None:
        """Note what each PACS has, once: a run that goes on finds the same in the same order.

        Args:
            progress: where to draw.
            stopped: asked now and then; where it says yes, nothing is noted.

        Raises:
            MedoodError: a PACS does not answer, or nothing matches.
        """
        for source, noted in zip(self._sources, self._noted(), strict=True):
            if noted is None or noted.exists():
                continue
            partial, count = noted.with_suffix(".part"), 0
            with partial.open("w", encoding="utf-8") as stream, progress.bar(None, "asking the PACS") as bar:
                for address in find_instances(str(source)):
                    stream.write(address + "\n")
                    count += 1
                    bar(1, "")
                    if stopped():
                        raise UnavailableError("Asked to end while the PACS was still listing")
            if not count:
                partial.unlink()
                raise MedoodError(f"Nothing matches {source}.")
            partial.replace(noted)

    def placed(self, end: End | None = None) -> Iterator[Placed]:
        """Every source with its place, from where a run stopped on; files before that are not opened.

        Args:
            end: the source that the run stopped in.

        Raises:
            MedoodError: there is another source at that place.
        """
        first, found = end.file if end else 0, False
        names = _Names()
        files = map(names.noted, self._files()) if self._digested else self._files()
        for number, file in itertools.islice(enumerate(files), first, None):
            found = True
            if end and number == first:
                yield from self._continued(file, end)
                continue
            for item, source in enumerate(open_file(file, self._options)):
                yield Place(number, item), source
        if end and not found:
            raise MedoodError(_changed(first, end.source, "no longer there"))
        self.digest = names.told() if self._digested else ""

    def watched(self, end: End | None, known: Callable[[str], bool]) -> Iterator[Listed]:
        """Every file once it is complete, for ever; none where there is no new one at present.

        A file is complete when a second look finds its size and time of change as the first did.

        Args:
            end: the source that the run stopped in; what is left of its file comes first.
            known: whether a file is in the ledger.
        """
        number, handed, growing, then = end.file + 1 if end else 0, Seen(), dict[str, tuple[int, int]](), 0.0
        if end:
            for file in self._files():
                if _name(file) == end.source:
                    yield from self._continued(file, end)
        while True:
            if time.monotonic() < then:
                yield None
                continue
            began, seen, handing = time.monotonic(), dict[str, tuple[int, int]](), 0.0
            for file in self._files():
                name = _name(file)
                digest = sha256(name.encode()).hexdigest()
                if handed.has(digest) or known(name):
                    continue
                if isinstance(file, File):
                    try:
                        there = file.path.lstat()
                    except OSError:  # gone again
                        continue
                    seen[name] = (there.st_size, there.st_mtime_ns)
                    if growing.get(name) != seen[name]:
                        continue
                handed.first(digest, name)
                since = time.monotonic()
                for item, source in enumerate(open_file(file, self._options)):
                    yield Place(number, item), source
                handing += time.monotonic() - since  # until what was handed on has been read, which is no part of a look
                number += 1
            looked = time.monotonic() - began - handing
            growing, then = seen, time.monotonic() + max(_LOOK, 10 * looked)

    def _continued(self, file: File | Refusal, end: End) -> Iterator[Placed]:
        """The sources of the file that a run stopped in, from that source on."""
        if _name(file) != end.source:
            raise MedoodError(_changed(end.file, end.source, _name(file)))
        for item, source in enumerate(open_file(file, self._options)):
            if item == end.item and spelled(source.identity.member) != end.member:
                raise MedoodError(f"{end.source} has changed since the run stopped. Screen it anew, with another --out.")
            if item >= end.item:
                yield Place(end.file, item), source

    def _noted(self) -> list[Path | None]:
        """Where the instances of each source are noted, of those that are a PACS."""
        return [
            self._out / f"instances-{number}.txt" if is_dicomweb(source) else None
            for number, source in enumerate(self._sources)
        ]

    def _files(self) -> Iterator[File | Refusal]:
        for source, noted in zip(self._sources, self._noted(), strict=True):
            if noted is None:
                yield from find_files(source)
            else:
                with noted.open(encoding="utf-8") as stream:
                    for line in stream:
                        yield File("", url=line.rstrip("\n"))


class _Names:
    """A digest of files' names and sizes as they go by."""

    def __init__(self) -> None:
        self._count, self._digest = 0, sha256()

    def noted(self, file: File | Refusal) -> File | Refusal:
        self._count += 1
        size = 0
        if isinstance(file, File) and not file.url:
            with contextlib.suppress(OSError):
                size = os.stat(file.place).st_size  # noqa: PTH116 - see place
        self._digest.update(f"{_name(file)}\0{size}\0".encode())
        return file

    def told(self) -> str:
        return f"{self._count} files, {self._digest.hexdigest()}"


def _name(file: File | Refusal) -> str:
    return spelled(file.name if isinstance(file, File) else file.identity.source)


def _changed(number: int, expected: str, found: str) -> str:
    return (
        f"File {number + 1} was {expected} when the run stopped, now it is {found}: files were added or taken away. Screen "
        "them as a new run, with another --out."
    )
