"""Read CSV tables as people and spreadsheets write them: one reader, with the same error messages, for every command."""

from __future__ import annotations

import codecs
import csv
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from medood.reasons import Reason

#: Columns and the names that each may have; case, spaces, ``_`` and ``-`` are ignored.
COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "path", "filename", "filepath", "image", "imagepath"),
    "patient_id": ("patientid", "patient", "subjectid"),
    "sha256": ("sha256",),
    "split": ("split",),
    "group": ("group",),
    "dataset": ("dataset",),
    "pair": ("pair",),
    "severity": ("severity",),
}
_DELIMITERS = ",;\t|"
#: Characters stripped around a value; Ctrl-Z once marked the end of files.
_SPACE = " \t\r\n\x1a\0\ufeff"


class TableError(ValueError):
    """An unusable table; the message says what is wrong and what was expected."""


class CsvTable:
    """A CSV table: UTF-8 or UTF-16, with or without byte-order mark, else Latin-1; separated by commas, semicolons or tabs.

    Spreadsheets' ``sep=`` line, lines that begin with ``#`` before the header, blank lines and a Ctrl-Z at the end are
    skipped. Rows are read lazily, so that a table can have any length.

    Args:
        path: path of the file.
        wanted_columns: keys of ``COLUMN_NAMES`` to find columns for.
        needed: those of them that must be present.

    Attributes:
        columns: column names as spelled in the first line, stripped of surrounding space.
        used: the column found for each wanted key; keys without a column are omitted.
        notes: the detected encoding and separator, if not UTF-8 and comma.

    Raises:
        TableError: the file is not a table, a needed column is missing, or a used column occurs twice.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, wanted_columns: Sequence[str] = (), needed: Sequence[str] = ()) -> None:
        self._path, self._separator = path, ","
        self._encoding, self.notes = _encoding(path)
        with self._open() as stream:
            self._skipped = self._skip(stream)
            self.columns = self._header(stream)
        if self._separator != ",":
            self.notes.append(f"values are separated by {'tabs' if self._separator == chr(9) else repr(self._separator)}")
        self.used = _columns(self.columns, wanted_columns)
        _check(self.columns, self.used, needed)

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield line numbers and values by column, stripped of surrounding space, in the order of the file.

        Raises:
            TableError: a line is not valid CSV.
        """
        with self._open() as stream:
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
                problem = "a quote is not closed, or a field is too long"
                raise TableError(f"it cannot be read beyond line {line}: {problem}") from error

    def value(self, row: Mapping[str, str], name: str) -> str:
        """Return the value for a wanted key; empty if the table has no such column."""
        return row.get(self.used[name], "") if name in self.used else ""

    def __str__(self) -> str:
        """One readable line on the columns used."""
        columns = ", ".join(f"{name} from the column {column!r}" for name, column in self.used.items())
        return f"{self._path}: {columns}{''.join(f'; {note}' for note in self.notes)}"

    def _open(self) -> TextIO:
        return self._path.open(newline="", encoding=self._encoding, errors="replace")

    def _skip(self, stream: TextIO) -> int:
        """Count the lines before the header; a ``sep=`` line among them sets the separator."""
        skipped = 0
        while True:
            place = stream.tell()
            line = stream.readline()
            match = re.fullmatch(r"sep=(.)\s*", line, re.IGNORECASE)
            if match:
                self._separator, self._stated = match[1], True
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
            raise TableError("its first line is not valid CSV: a quote is not closed, or a field is too long") from error

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
            return "latin-1", ["the file is not UTF-8 and was read as Latin-1"]
    return "utf-8-sig", []


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name).casefold()


def _columns(columns: Sequence[str], wanted_columns: Sequence[str]) -> dict[str, str]:
    assigned = {}
    for name in wanted_columns:
        for spelling in COLUMN_NAMES[name]:
            matches = [column for column in columns if _plain(column) == spelling]
            if matches:
                assigned[name] = matches[0]
                break
    return assigned


def _check(columns: Sequence[str], assigned: Mapping[str, str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in assigned]
    if missing:
        raise TableError(f"the column {missing[0]!r} is missing; expected {', '.join(needed)} in its first line")
    plain = [_plain(column) for column in columns]
    twice = [column for column in assigned.values() if plain.count(_plain(column)) > 1]
    if twice:
        raise TableError(f"two columns are named {twice[0]!r}; name each once")


def find_listed(folder: Path, name: str) -> Path | None:
    """Return the file that a row names, relative to the table's folder; None if it does not exist.

    If the name as written does not exist, Windows separators and both Unicode forms of accented letters are tried.
    """
    spellings = [name, name.replace("\\", "/")]
    if name.isascii() is False and all(ord(c) < 256 for c in name):
        spellings.append(os.fsdecode(name.encode("latin-1")))  # the original bytes of a table that is not UTF-8
    for spelling in [*spellings, *(unicodedata.normalize(form, n) for form in ("NFC", "NFD") for n in spellings)]:
        try:
            if (folder / spelling).exists():
                return folder / spelling
        except (OSError, ValueError):  # a name that no file system accepts
            continue
    return None


def why_not_there(name: str) -> Reason:
    """Explain why a row's file was not found."""
    if "://" in name:
        return Reason("manifest_url")
    if re.match(r"[A-Za-z]:[\\/]", name):
        return Reason("manifest_foreign_path")
    return Reason("manifest_file_missing")
