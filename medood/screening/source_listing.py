"""The sources of a run in a stable order: files as found on disk, and PACS instances as listed when the run started."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from medood.config.schema import ReadConfig
from medood.errors import MedoodError
from medood.output_folder import atomic_write
from medood.progress import Progress
from medood.scans.reader import DigestStore
from medood.scans.scan import Refusal, UnavailableError
from medood.scans.sources.csv_manifest import is_manifest, manifest_table
from medood.scans.sources.csv_table import TableError
from medood.scans.sources.dicomweb import check_address, find_instances, is_dicomweb
from medood.scans.sources.folder import File, check_there, find_files
from medood.scans.sources.source import Source, count_sources, open_file
from medood.screening.ledger.database import ResumePoint, escape_name

#: Minimum interval between two listings of a watched folder, in seconds.
_MIN_INTERVAL = 1.0


@dataclass(frozen=True)
class Shard:
    """One part of an archive that is screened in several parts; the SHA-256 of its contents assigns each file to a part.

    Attributes:
        index: number of this part, from 0.
        count: number of parts.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse ``I/N``; ``2/8`` is the second of eight parts.

        Raises:
            MedoodError: the text is malformed or out of range.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isascii() and count.isascii() and index.isdigit() and count.isdigit()):
            raise MedoodError(f"--shard is {text!r}; expected I/N, such as 2/8 for the second of eight parts.")
        if not 1 <= int(index) <= int(count):
            raise MedoodError(f"--shard is {text!r}; expected a part from 1 to {count}.")
        return cls(int(index) - 1, int(count))

    def holds(self, sha256: str) -> bool:
        """Whether contents with this digest belong to this part."""
        return int(sha256[:16], 16) % self.count == self.index

    def holds_unread(self, name: str) -> bool:
        """Whether a source without a digest belongs to this part, by its name, so that exactly one part has its row."""
        return self.holds(sha256(name.encode("utf-8", "backslashreplace")).hexdigest())


@dataclass(frozen=True)
class ListingPosition:
    """Position of a source in the listing of a run.

    Attributes:
        file: number of the file, from 0.
        item: number of the source in that file, from 0; an archive holds several.
    """

    file: int
    item: int


#: A source with its position in the listing.
IndexedSource = tuple[ListingPosition, Source | Refusal]
#: Item of a listing: a source, or ``None`` while a watched folder has no new file.
NextSource = IndexedSource | None


class SourceListing:
    """The sources of a run.

    Args:
        sources: files, folders, archives, manifests and PACS addresses.
        out: the run's folder; the instance list of each PACS is stored there.
        options: limits for archives.
        digested: compute a digest of the files found.

    Attributes:
        digest: number of files and SHA-256 of their names and sizes, set once :meth:`enumerate_sources` is exhausted.
    """

    def __init__(self, sources: Sequence[str | Path], out: Path, options: ReadConfig, *, digested: bool = False) -> None:
        self._sources, self._out, self._options, self._digested = sources, out, options, digested
        self.digest = ""

    def count(self) -> int | None:
        """The number of sources, or ``None`` if it is unknown before they are read."""
        counts = [None if is_dicomweb(source) else count_sources(Path(source)) for source in self._sources]
        return None if None in counts else sum(count or 0 for count in counts)

    def manifests(self) -> Iterator[str]:
        """One line per CSV manifest that states which of its columns are used."""
        for source in self._sources:
            if not is_dicomweb(source) and is_manifest(Path(source)):
                with contextlib.suppress(OSError, TableError):  # the run reports it as a row
                    yield str(manifest_table(Path(source)))

    def freeze(self, progress: Progress, stopped: Callable[[], bool] = lambda: False) -> None:
        """Store the instance list of each PACS once, so that a resumed run finds the same instances in the same order.

        Args:
            progress: progress display.
            stopped: polled regularly; once it returns true, the list in progress is discarded.

        Raises:
            MedoodError: a PACS does not answer, or nothing matches.
        """
        for source, snapshot in zip(self._sources, self._snapshots(), strict=True):
            if snapshot is None or snapshot.exists():
                continue
            count = 0
            with (
                atomic_write(snapshot) as partial,
                partial.open("w", encoding="utf-8") as stream,
                progress.bar(None, "querying the PACS") as bar,
            ):
                for address in find_instances(str(source)):
                    stream.write(address + "\n")
                    count += 1
                    bar(1, "")
                    if stopped():
                        raise UnavailableError("Stopped while the PACS was still listing its instances")
                if not count:
                    raise MedoodError(f"Nothing matches {source}.")

    def enumerate_sources(self, end: ResumePoint | None = None) -> Iterator[IndexedSource]:
        """All sources with their positions, starting where the run stopped; earlier files are not opened.

        Args:
            end: the source in which the run stopped.

        Raises:
            MedoodError: another source is at that position now.
        """
        first, resumed = end.file if end else 0, False
        names = _Names()
        files = map(names.add, self._files()) if self._digested else self._files()
        for number, file in itertools.islice(enumerate(files), first, None):
            resumed = True
            if end and number == first:
                yield from self._resume_file(file, end)
                continue
            for item, source in enumerate(open_file(file, self._options)):
                yield ListingPosition(number, item), source
        if end and not resumed:
            raise MedoodError(_change_message(first, end.source, "no longer there"))
        self.digest = names.summary() if self._digested else ""

    def watch_sources(self, end: ResumePoint | None, has_rows: Callable[[str], bool]) -> Iterator[NextSource]:
        """Yield the sources of each new file once it is complete, indefinitely; yield ``None`` while there is no new file.

        A file is complete when two successive scans find the same size and modification time.

        Args:
            end: the source in which the run stopped; the rest of its file comes first.
            has_rows: whether a file is in the ledger.
        """
        number, yielded, unstable, next_listing = (
            end.file + 1 if end else 0,
            DigestStore(),
            dict[str, tuple[int, int]](),
            0.0,
        )
        if end:
            for file in self._files():
                if _name(file) == end.source:
                    yield from self._resume_file(file, end)
        while True:
            if time.monotonic() < next_listing:
                yield None
                continue
            began, sizes, handing = time.monotonic(), dict[str, tuple[int, int]](), 0.0
            for file in self._files():
                name = _name(file)
                digest = sha256(name.encode()).hexdigest()
                if yielded.has(digest) or has_rows(name):
                    continue
                if isinstance(file, File):
                    try:
                        stat = file.path.lstat()
                    except OSError:  # deleted meanwhile
                        continue
                    sizes[name] = (stat.st_size, stat.st_mtime_ns)
                    if unstable.get(name) != sizes[name]:
                        continue
                yielded.first(digest, name)
                since = time.monotonic()
                for item, source in enumerate(open_file(file, self._options)):
                    yield ListingPosition(number, item), source
                handing += time.monotonic() - since  # the consumer's time, not part of the scan
                number += 1
            listing_seconds = time.monotonic() - began - handing
            unstable, next_listing = sizes, time.monotonic() + max(_MIN_INTERVAL, 10 * listing_seconds)

    def _resume_file(self, file: File | Refusal, end: ResumePoint) -> Iterator[IndexedSource]:
        """The remaining sources of the file in which the run stopped, starting with the source it stopped in."""
        if _name(file) != end.source:
            raise MedoodError(_change_message(end.file, end.source, _name(file)))
        for item, source in enumerate(open_file(file, self._options)):
            if item == end.item and escape_name(source.identity.member) != end.member:
                raise MedoodError(f"{end.source} has changed since the run stopped. Screen it again with another --out.")
            if item >= end.item:
                yield ListingPosition(end.file, item), source

    def _snapshots(self) -> list[Path | None]:
        """Path of each source's stored instance list; ``None`` for sources that are not a PACS."""
        return [
            self._out / f"instances-{number}.txt" if is_dicomweb(source) else None
            for number, source in enumerate(self._sources)
        ]

    def _files(self) -> Iterator[File | Refusal]:
        for source, snapshot in zip(self._sources, self._snapshots(), strict=True):
            if snapshot is None:
                yield from find_files(source)
            else:
                with snapshot.open(encoding="utf-8") as stream:
                    for line in stream:
                        yield File("", url=line.rstrip("\n"))


class _Names:
    """Computes a digest of file names and sizes while files are listed."""

    def __init__(self) -> None:
        self._count, self._digest = 0, sha256()

    def add(self, file: File | Refusal) -> File | Refusal:
        self._count += 1
        size = 0
        if isinstance(file, File) and not file.url:
            with contextlib.suppress(OSError):
                size = os.stat(file.place).st_size  # noqa: PTH116 - see place
        self._digest.update(f"{_name(file)}\0{size}\0".encode())
        return file

    def summary(self) -> str:
        return f"{self._count} files, {self._digest.hexdigest()}"


def _name(file: File | Refusal) -> str:
    return escape_name(file.name if isinstance(file, File) else file.identity.source)


def _change_message(number: int, expected: str, actual: str) -> str:
    return (
        f"File {number + 1} was {expected} when the run stopped, now it is {actual}: files were added or removed. Screen "
        "them as a new run, with another --out."
    )


def check_sources(sources: Sequence[str | Path], *, empty: bool = False) -> None:
    """Check that the sources exist and are not all empty.

    Args:
        sources: files, folders, archives, manifests and PACS addresses.
        empty: whether the sources may be empty.

    Raises:
        MedoodError: a source is missing, or no source holds a file.
    """
    for source in sources:
        if is_dicomweb(source):
            check_address(str(source))
            continue
        try:
            check_there(Path(source))
        except FileNotFoundError as error:
            raise MedoodError(f"{error}. Give an existing file, folder or archive.") from error
    if not empty and not any(is_dicomweb(source) or _holds_file(Path(source)) for source in sources):
        raise MedoodError(f"There is no file in {', '.join(map(str, sources))}. Give a folder that holds scans.")


def _holds_file(path: Path) -> bool:
    return not path.is_dir() or any(names for _, _, names in os.walk(path))
