"""CSV tables as people and spreadsheets write them: one reader and one set of sentences for every command that takes one."""

from __future__ import annotations

import codecs
import csv
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

#: Columns by what they hold, and the names that each may have; case, spaces, ``_`` and ``-`` do not count.
COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "path", "filename", "filepath", "image", "imagepath"),
    "patient_id": ("patientid", "patient", "subjectid"),
    "sha256": ("sha256",),
    "split": ("split",),
    "group": ("group",),
    "dataset": ("dataset",),
}
_DELIMITERS = ",;\t|"
#: What may stand around a value and is none of it; Ctrl-Z ended files once.
_SPACE = " \t\r\n\x1a\0\ufeff"


class TableError(ValueError):
    """A table that cannot be used; the sentence says what is wrong and what was expected."""


class CsvTable:
    """A CSV table: UTF-8 or UTF-16, with or without byte-order mark, else Latin-1; separated by commas, semicolons or tabs.

    Spreadsheets' ``sep=`` line, lines that begin with ``#`` before the header, blank lines and a Ctrl-Z at the end are
    passed over. Rows are read when they are asked for, so that a table may have any length.

    Args:
        path: of the file.
        asked: keys of ``COLUMN_NAMES`` to find columns for.
        needed: those of them without which the table is of no use.

    Attributes:
        columns: names as the first line spells them, without space around them.
        used: the column taken for each of the asked names; those without one are left out.
        notes: what the reader took the file to be, where that is not a comma-separated file in UTF-8.

    Raises:
        TableError: it is no table, or a needed column is missing or twice there.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, asked: Sequence[str] = (), needed: Sequence[str] = ()) -> None:
        self._path, self._separator = path, ","
        self._encoding, self.notes = _encoding(path)
        with self._opened() as stream:
            self._skipped = self._skip(stream)
            self.columns = self._header(stream)
        if self._separator != ",":
            self.notes.append(f"values are separated by {'tabs' if self._separator == chr(9) else repr(self._separator)}")
        self.used = _columns(self.columns, asked)
        _check(self.columns, self.used, needed)

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Line numbers and values by column, without space around them, in the order of the file.

        Raises:
            TableError: a line is no CSV.
        """
        with self._opened() as stream:
            for _ in range(self._skipped):
                stream.readline()
            reader = self._reader(stream)
            line = self._skipped
            try:
                next(reader, None)
                line += 1
                for values in reader:
                    line = self._skipped + reader.line_num
                    stripped = [value.strip(_SPACE) for value in values]
                    if len(stripped) > 1 or any(stripped):
                        yield line, dict(zip(self.columns, stripped, strict=False))
            except csv.Error as error:
                why = "a quote is not closed, or a field is too long"
                raise TableError(f"it cannot be read beyond line {line}: {why}") from error

    def value(self, row: Mapping[str, str], name: str) -> str:
        """The value of an asked name; empty where the table has no such column."""
        return row.get(self.used[name], "") if name in self.used else ""

    def __str__(self) -> str:
        """One line on which columns are used, for a person."""
        columns = ", ".join(f"{name} from the column {column!r}" for name, column in self.used.items())
        return f"{self._path}: {columns}{''.join(f'; {note}' for note in self.notes)}"

    def _opened(self) -> TextIO:
        return self._path.open(newline="", encoding=self._encoding, errors="replace")

    def _skip(self, stream: TextIO) -> int:
        """Lines before the header; a ``sep=`` line among them says what separates values."""
        skipped = 0
        while True:
            place = stream.tell()
            line = stream.readline()
            found = re.fullmatch(r"sep=(.)\s*", line, re.IGNORECASE)
            if found:
                self._separator, self._stated = found[1], True
            elif not line or (line.strip() and not line.lstrip().startswith("#")):
                stream.seek(place)
                return skipped
            skipped += 1

    def _header(self, stream: TextIO) -> list[str]:
        place = stream.tell()
        header = stream.readline()
        if not self._stated:
            self._separator = max(_DELIMITERS, key=header.count)
        stream.seek(place)
        try:
            return [name.strip(_SPACE) for name in next(self._reader(stream), [])]
        except csv.Error as error:
            raise TableError("its first line is no CSV: a quote is not closed, or a field is too long") from error

    _stated = False

    def _reader(self, stream: TextIO) -> Any:
        return csv.reader(stream, delimiter=self._separator, skipinitialspace=True, strict=True)


def _encoding(path: Path) -> tuple[str, list[str]]:
    with path.open("rb") as stream:
        start = stream.read(200)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            return "utf-16", ["the file is UTF-16"]
        if b"\0" in start:
            return "utf-16-be" if start[:1] == b"\0" else "utf-16-le", ["the file is UTF-16"]
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            stream.seek(0)
            while piece := stream.read(1024**2):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1", ["the file is no UTF-8 and was read as Latin-1"]
    return "utf-8-sig", []


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name).casefold()


def _columns(columns: Sequence[str], asked: Sequence[str]) -> dict[str, str]:
    used = {}
    for name in asked:
        for spelling in COLUMN_NAMES[name]:
            found = [column for column in columns if _plain(column) == spelling]
            if found:
                used[name] = found[0]
                break
    return used


def _check(columns: Sequence[str], used: Mapping[str, str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in used]
    if missing:
        raise TableError(f"the column {missing[0]!r} is missing; expected {', '.join(needed)} in its first line")
    plain = [_plain(column) for column in columns]
    twice = [column for column in used.values() if plain.count(_plain(column)) > 1]
    if twice:
        raise TableError(f"two columns are named {twice[0]!r}; name each once")


def find_listed(folder: Path, name: str) -> Path | None:
    """The file that a row names, relative to the table's folder; none where nothing lies there.

    Windows' separators and both Unicode spellings of accented letters are tried where the name as it stands names nothing.
    """
    spellings = [name, name.replace("\\", "/")]
    if name.isascii() is False and all(ord(c) < 256 for c in name):
        spellings.append(os.fsdecode(name.encode("latin-1")))  # the bytes as they stand in a table that is no UTF-8
    for spelling in [*spellings, *(unicodedata.normalize(form, n) for form in ("NFC", "NFD") for n in spellings)]:
        try:
            if (folder / spelling).exists():
                return folder / spelling
        except (OSError, ValueError):  # a name that no file system takes
            continue
    return None


def why_not_there(name: str) -> str:
    """Why a row's file was not found, in words."""
    if "://" in name:
        return "the manifest names an address; expected a path, relative to the manifest's folder"
    if re.match(r"[A-Za-z]:[\\/]", name):
        return "the manifest lists this file by a path of another machine; expected one relative to the manifest's folder"
    return "the manifest lists this file, it is not there"
