"""Split a finished run into lists of accepted and flagged files, optionally with copies of the files."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path, PurePosixPath

from medood.detection.conformal import Decision
from medood.errors import MedoodError
from medood.output_folder import new_folder
from medood.progress import Progress
from medood.reporting.original_scans import CHANGED, GONE, find_escaped
from medood.scans.scan import RefusedError, UnavailableError
from medood.scans.sources.dicomweb import is_dicomweb
from medood.scans.sources.source import Source, find_sources, read_bytes
from medood.screening.finished_run import finished_run
from medood.screening.ledger.database import Ledger, escape_name
from medood.screening.ledger.run_metadata import RunMetadata
from medood.text import spreadsheet_cell

#: The two lists, and the folders of copies, by decision.
PARTS = {Decision.IN_DISTRIBUTION: "accepted", Decision.OUT_OF_DISTRIBUTION: "flagged"}
#: Maximum length of a name in bytes, with room for a number.
_LONGEST = 240
COLUMNS = ("file", "member", "sha256", "frames", "score", "p_value", "copy")


@dataclass(frozen=True)
class _File:
    """A scored file or archive member; flagged if any of its frames is."""

    source: str
    member: str
    sha256: str
    frames: int
    score: float
    p_value: float
    part: str


@dataclass(frozen=True)
class Split:
    """Result of splitting a run.

    Attributes:
        files: number of files by ``accepted`` and ``flagged``.
        left: a message for each file that could not be copied.
    """

    files: dict[str, int]
    left: list[str]


def split(run: Path, out: Path, *, copy: bool = False, progress: Progress | None = None) -> Split:
    """Write ``accepted.csv`` and ``flagged.csv``, and optionally copy the files into folders of the same names.

    A file is flagged if any of its frames is. An archive member is copied out of its archive. Files without a score are in
    neither list; ``verdicts.csv`` gives the reason.

    Args:
        run: the folder that ``screen`` wrote.
        out: a new folder.
        copy: copy the files too.
        progress: the progress display; None is quiet.

    Raises:
        MedoodError: the run is missing or unfinished, or the folder already exists or cannot be written.
    """
    progress = progress or Progress(quiet=True)
    metadata = finished_run(run)
    if out.exists():
        raise MedoodError(f"--out: {out} is there already. Give a new folder.")
    result = Split(dict.fromkeys(PARTS.values(), 0), [])
    with closing(Ledger(run)) as ledger, new_folder(out), ExitStack() as stack:
        bar = stack.enter_context(progress.bar(ledger.count(), "copying" if copy else "listing"))
        writers = {}
        try:
            for part in PARTS.values():
                stream = stack.enter_context((out / f"{part}.csv").open("w", newline="", encoding="utf-8"))
                writers[part] = csv.writer(stream)
                writers[part].writerow(COLUMNS)
            files = stack.enter_context(closing(_files(ledger)))
            for source, of_source in groupby(files, key=lambda file: file.source):
                rows_of_source = list(of_source)
                copies = _copy_files(source, rows_of_source, out, metadata, result.left) if copy else {}
                for file in rows_of_source:
                    result.files[file.part] += 1
                    names = [spreadsheet_cell(text) for text in (file.source, file.member)]
                    target = spreadsheet_cell(copies.get((file.member, file.sha256), ""))
                    figures = [file.frames, f"{file.score:.6g}", f"{file.p_value:.6g}"]
                    writers[file.part].writerow([*names, file.sha256, *figures, target])
                    bar(file.frames, "")
        except OSError as error:
            raise MedoodError(f"{out} cannot be written: {error.strerror or error}. Free some space.") from error
    return result


def _files(ledger: Ledger) -> Generator[_File, None, None]:
    """The scored files in the order found; the frames of a file are consecutive in the ledger."""
    rows = ledger.scored_columns("source", "member", "sha256", "decision", "score", "p_value")
    for (source, member, _), file_rows in groupby(rows, key=lambda row: row[:3]):
        frames = list(file_rows)
        part = PARTS[
            Decision.OUT_OF_DISTRIBUTION
            if any(row[3] == Decision.OUT_OF_DISTRIBUTION for row in frames)
            else Decision.IN_DISTRIBUTION
        ]
        worst = max(frames, key=lambda row: float(row[4]))
        yield _File(source, member, frames[0][2], len(frames), worst[4], worst[5], part)


def _copy_files(
    source: str, files: list[_File], out: Path, metadata: RunMetadata, problems: list[str]
) -> dict[tuple[str, str], str]:
    """Copy members of one source; return the copies' paths by member and SHA-256, and add failures to ``problems``."""
    read = replace(metadata.read, select="")
    waiting, copies, reason = {(file.member, file.sha256): file for file in files}, dict[tuple[str, str], str](), GONE
    members = {member for member, _ in waiting}
    try:
        where = source if is_dicomweb(source) else find_escaped(Path(metadata.working_directory) / source)
        for item in find_sources(where, read):
            if not waiting:
                break
            if not isinstance(item, Source) or (name := escape_name(item.member)) not in members:
                continue
            content = read_bytes(item, read)
            file = waiting.get((name, hashlib.sha256(content).hexdigest()))
            if file is None:
                reason = CHANGED
                continue
            try:
                target = _write(content, out / file.part, _relative(file, metadata.sources))
                copies[name, file.sha256] = target.relative_to(out).as_posix()
            except OSError as error:
                problems.append(f"{source} {name}".strip() + f": {error.strerror or error}")
            del waiting[name, file.sha256]
    except (OSError, RefusedError, UnavailableError) as error:
        reason = GONE if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or str(error)
    problems += [f"{source} {member}".strip() + f": {reason}" for member, _ in waiting]
    return copies


def _write(content: bytes, folder: Path, inside: Path) -> Path:
    """Write a copy; if a file blocks a folder of its path, place it directly in ``folder`` under its last name part."""
    target = folder / inside
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        target = folder / inside.name
    target = _free(target)
    target.write_bytes(content)
    return target


def _relative(file: _File, sources: list[str]) -> Path:
    """Path of a copy, never outside the output: as below the screened folder, and below its archive's name."""
    inside = ""
    for root in (os.path.normpath(source) for source in sources):
        if root == "." and not Path(file.source).is_absolute():
            inside = file.source
        elif os.path.normpath(file.source).startswith(root + os.sep):
            inside = os.path.normpath(file.source)[len(root) + 1 :]
    parts = PurePosixPath(inside or Path(file.source).name).parts + PurePosixPath(file.member.replace("\\", "/")).parts
    plain = [_plain(part) for part in parts if part.strip("/.\\")]
    return Path(*plain) if plain and parts[-1].strip("/.\\") else Path(*plain, "file")


def _plain(part: str) -> str:
    """A name that every file system accepts."""
    plain = re.sub(r'[\x00-\x1f\x7f<>:"|?*\\/]', "_", part).encode("utf-8", "replace")[-_LONGEST:]
    return plain.decode("utf-8", "ignore")


def _free(target: Path) -> Path:
    """The path itself, or with a number if it already exists."""
    number, path = 1, target
    while path.exists():
        number += 1
        path = target.with_name(f"{target.stem}-{number}{target.suffix}")
    return path
