"""A finished run taken apart: lists of what was accepted and what was flagged, and copies of the files where asked for."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from medood.config.schema import ReadConfig
from medood.errors import MedoodError
from medood.output_folder import new_folder
from medood.progress import Progress
from medood.reporting.original_scans import CHANGED, GONE, spelled_out
from medood.scans.scan import RefusedError, UnavailableError
from medood.scans.sources.dicomweb import is_dicomweb
from medood.scans.sources.source import Source, find_sources, read_bytes
from medood.screening.ledger import Ledger, spelled
from medood.text import spreadsheet_cell

#: The two lists, and the folders of copies, by decision.
PARTS = {"in_distribution": "accepted", "out_of_distribution": "flagged"}
#: Bytes of a name, with room for a number.
_LONGEST = 240
COLUMNS = ("file", "member", "sha256", "frames", "score", "p_value", "copy")


@dataclass(frozen=True)
class _File:
    """A file or member with a score: flagged where any frame of it is."""

    source: str
    member: str
    sha256: str
    frames: int
    score: float
    p_value: float
    part: str


@dataclass(frozen=True)
class Split:
    """What became of a run's files.

    Attributes:
        files: number of files by ``accepted`` and ``flagged``.
        left: a sentence for each file that could not be copied.
    """

    files: dict[str, int]
    left: list[str]


def split(run: Path, out: Path, *, copy: bool = False, progress: Progress | None = None) -> Split:
    """Write ``accepted.csv`` and ``flagged.csv``, and copy the files into folders of the same names where asked for.

    A file is flagged where any of its frames is. A member of an archive is copied out of it. Files without a score are in
    neither list; ``verdicts.csv`` says why.

    Args:
        run: the folder that ``screen`` wrote.
        out: a new folder.
        copy: copy the files too.
        progress: where to draw; none is quiet.

    Raises:
        MedoodError: there is no finished run, the folder is there already, or it cannot be written.
    """
    progress = progress or Progress(quiet=True)
    facts = Ledger.facts_of(run)
    if "finished" not in facts:
        raise MedoodError(f"{run} was not finished. Finish it with medood screen --resume first.")
    if out.exists():
        raise MedoodError(f"--out: {out} is there already. Give a new folder.")
    found = Split(dict.fromkeys(PARTS.values(), 0), [])
    with closing(Ledger(run)) as ledger, new_folder(out), ExitStack() as stack:
        bar = stack.enter_context(progress.bar(ledger.size(), "copying" if copy else "listing"))
        writers = {}
        try:
            for part in PARTS.values():
                stream = stack.enter_context((out / f"{part}.csv").open("w", newline="", encoding="utf-8"))
                writers[part] = csv.writer(stream)
                writers[part].writerow(COLUMNS)
            files = stack.enter_context(closing(_files(ledger)))
            for source, of_source in groupby(files, key=lambda file: file.source):
                some = list(of_source)
                copies = _copied(source, some, out, facts, found.left) if copy else {}
                for file in some:
                    found.files[file.part] += 1
                    names = [spreadsheet_cell(text) for text in (file.source, file.member)]
                    target = spreadsheet_cell(copies.get((file.member, file.sha256), ""))
                    figures = [file.frames, f"{file.score:.6g}", f"{file.p_value:.6g}"]
                    writers[file.part].writerow([*names, file.sha256, *figures, target])
                    bar(file.frames, "")
        except OSError as error:
            raise MedoodError(f"{out} cannot be written: {error.strerror or error}. Free some space.") from error
    return found


def _files(ledger: Ledger) -> Generator[_File, None, None]:
    """The files with a score, in the order in which they were found; frames of one follow each other."""
    rows = ledger.columns(["source", "member", "sha256", "decision", "score", "p_value"], "status = 'scored'")
    for (source, member, _), some in groupby(rows, key=lambda row: row[:3]):
        frames = list(some)
        part = PARTS["out_of_distribution" if any(row[3] == "out_of_distribution" for row in frames) else "in_distribution"]
        worst = max(frames, key=lambda row: float(row[4]))
        yield _File(source, member, frames[0][2], len(frames), worst[4], worst[5], part)


def _copied(
    source: str, files: list[_File], out: Path, facts: dict[str, Any], left: list[str]
) -> dict[tuple[str, str], str]:
    """Copy the wanted members of one source; their new names by member and SHA-256. What cannot be copied is said."""
    read = ReadConfig(**facts.get("read", {}) | {"select": ""})
    waiting, made, why = {(file.member, file.sha256): file for file in files}, dict[tuple[str, str], str](), GONE
    wanted = {member for member, _ in waiting}
    try:
        where = source if is_dicomweb(source) else spelled_out(Path(facts.get("working_directory", ".")) / source)
        for item in find_sources(where, read):
            if not waiting:
                break
            if not isinstance(item, Source) or (name := spelled(item.member)) not in wanted:
                continue
            content = read_bytes(item, read)
            file = waiting.get((name, hashlib.sha256(content).hexdigest()))
            if file is None:
                why = CHANGED
                continue
            try:
                target = _write(content, out / file.part, _relative(file, facts["sources"]))
                made[name, file.sha256] = target.relative_to(out).as_posix()
            except OSError as error:
                left.append(f"{source} {name}".strip() + f": {error.strerror or error}")
            del waiting[name, file.sha256]
    except (OSError, RefusedError, UnavailableError) as error:
        why = GONE if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or str(error)
    left += [f"{source} {member}".strip() + f": {why}" for member, _ in waiting]
    return made


def _write(content: bytes, folder: Path, inside: Path) -> Path:
    """Write a copy; where a file stands in the place of a folder of its path, under the last part of its name alone."""
    target = folder / inside
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        target = folder / inside.name
    target = _free(target)
    target.write_bytes(content)
    return target


def _relative(file: _File, sources: list[str]) -> Path:
    """Where a copy lies: as below the folder that was screened, and below its archive's name. Never outside."""
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
    """A name that every file system takes."""
    kept = re.sub(r'[\x00-\x1f\x7f<>:"|?*\\/]', "_", part).encode("utf-8", "replace")[-_LONGEST:]
    return kept.decode("utf-8", "ignore")


def _free(target: Path) -> Path:
    """The path itself, or with a number where something lies there."""
    number, path = 1, target
    while path.exists():
        number += 1
        path = target.with_name(f"{target.stem}-{number}{target.suffix}")
    return path
