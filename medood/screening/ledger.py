"""The ledger of a run: SQLite, one row a picture or refused file, in the order of the listing.

Rows are committed a batch at a time, each with what was gathered of the archive as a whole: whatever ends the process, the
ledger holds a whole number of batches, and a run goes on behind the last of them.
"""

from __future__ import annotations

import contextlib
import csv
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from medood.errors import MedoodError
from medood.scans.scan import Identity, Status
from medood.text import spreadsheet_cell

SCHEMA_VERSION = 2
#: What brings a ledger of one schema version to the next; version 0 is an empty file.
_MIGRATIONS = {
    0: (
        "CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE scans (id INTEGER PRIMARY KEY, source TEXT NOT NULL, member TEXT NOT NULL, "
        "frame INTEGER NOT NULL, sha256 TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, score REAL, "
        "p_value REAL, decision TEXT NOT NULL, facts TEXT NOT NULL, read_seconds REAL, score_seconds REAL)",
        "CREATE INDEX scans_by_decision ON scans (decision, score)",
    ),
    1: (
        "ALTER TABLE scans ADD COLUMN file INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE scans ADD COLUMN item INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE scans ADD COLUMN host TEXT NOT NULL DEFAULT ''",
        "UPDATE scans SET file = id",
        "CREATE INDEX scans_by_sha256 ON scans (sha256)",
        "CREATE INDEX scans_by_place ON scans (file, item)",
        "CREATE INDEX scans_by_source ON scans (source)",
        # What medood.screening.archive_statistics gathers while a run goes on.
        "CREATE TABLE sample (sha256 TEXT PRIMARY KEY, month TEXT NOT NULL, p_value REAL NOT NULL, features BLOB NOT NULL)",
        "CREATE TABLE months (month TEXT PRIMARY KEY, scans INTEGER NOT NULL, p_value REAL NOT NULL, "
        "patients INTEGER NOT NULL)",
        "CREATE TABLE patients (month TEXT NOT NULL, patient TEXT NOT NULL, PRIMARY KEY (month, patient))",
    ),
}
#: Folder in which a run is put together; it is none before it is whole.
UNFINISHED = ".merging"
#: Columns of ``verdicts.csv``; new ones are only ever added at the end.
VERDICT_COLUMNS = ("source", "member", "frame", "sha256", "status", "score", "p_value", "decision", "reason")


@dataclass(frozen=True)
class Row:
    """One picture, or one file without a picture.

    Attributes:
        source: path as given or found.
        member: name inside an archive, or empty.
        frame: frame number from 0.
        sha256: of the file or member, empty where its bytes could not be read.
        status: ``scored``, or the refusal's name.
        reason: a sentence: why it was refused, or why it was flagged.
        score: raw score; none where nothing was scored.
        p_value: conformal p-value; none where nothing was scored.
        decision: ``in_distribution``, ``out_of_distribution``, or empty.
        facts: grey scale, DICOM attributes, spacing, size, nearest in-distribution cosines.
        read_seconds: reading and decoding.
        score_seconds: share of the batch's network time.
        file: the file's number in the listing, from 0.
        item: number of the source in that file, from 0; an archive holds several.
        host: the machine that read it.
    """

    source: str
    member: str
    frame: int
    sha256: str
    status: str
    reason: str
    score: float | None = None
    p_value: float | None = None
    decision: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    read_seconds: float = 0.0
    score_seconds: float = 0.0
    file: int = 0
    item: int = 0
    host: str = ""


@dataclass(frozen=True)
class End:
    """The source that the rows of an unfinished run end with.

    Attributes:
        file: its file's number in the listing.
        item: its number in that file.
        source: path or address.
        member: name inside an archive, or empty.
        sha256: of its last row.
        status: likewise.
        rows: that it has.
    """

    file: int
    item: int
    source: str
    member: str
    sha256: str
    status: str
    rows: int


_COLUMNS = tuple(item.name for item in fields(Row))


class Ledger:
    """A run's rows and what is known of the run.

    Args:
        folder: the run's folder.
        create: begin a new run; an old ledger there is an error.
        resume: with ``create``, take the old ledger instead where there is one.

    Raises:
        MedoodError: there is no ledger, there is one already, or it cannot be opened.
    """

    def __init__(self, folder: Path, *, create: bool = False, resume: bool = False) -> None:
        self.path = folder / "ledger.sqlite"
        if create and not resume and self.path.exists():
            raise taken(folder)
        if not create and not self.path.is_file():
            raise MedoodError(f"{folder} is not a run: it holds no ledger.sqlite. Give the folder of medood screen --out.")
        try:
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(self.path)
            self.database.execute("PRAGMA secure_delete=ON")
            if create:
                self.database.execute("PRAGMA journal_mode=WAL")
            version = self._version()
            while version in _MIGRATIONS and (version or create):
                self._migrate(version)
                version = self._version()
        except (OSError, sqlite3.Error) as error:
            raise MedoodError(
                f"{self.path} cannot be opened: {error}. A ledger is opened where its folder can be written; copy the run "
                "there."
            ) from error
        if version != SCHEMA_VERSION:
            raise MedoodError(f"{self.path} has the schema version {version}; this medood reads {SCHEMA_VERSION}.")

    def _version(self) -> int:
        return int(self.database.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self, version: int) -> None:
        """To the next schema, all or nothing."""
        with self.database:
            self.database.execute("BEGIN IMMEDIATE")
            if self._version() == version:  # another process may have been faster
                for statement in _MIGRATIONS[version]:
                    self.database.execute(statement)
                self.database.execute(f"PRAGMA user_version={version + 1}")

    def state(self, **values: Any) -> None:
        """Note facts of the run, as JSON."""
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        with self.writing():
            self.database.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", rows)

    def run(self) -> dict[str, Any]:
        """The facts of the run."""
        return {name: json.loads(value) for name, value in self.database.execute("SELECT name, value FROM run")}

    def forget(self, name: str) -> None:
        """Remove a fact of the run."""
        with self.writing():
            self.database.execute("DELETE FROM run WHERE name = ?", (name,))

    @classmethod
    def facts_of(cls, folder: Path) -> dict[str, Any]:
        """The facts of the run in a folder."""
        ledger = cls(folder)
        try:
            return ledger.run()
        finally:
            ledger.close()

    def add(self, rows: Iterable[Row]) -> None:
        """Write rows, all or none."""
        marks = ", ".join("?" * len(_COLUMNS))
        query = f"INSERT INTO scans ({', '.join(_COLUMNS)}) VALUES ({marks})"  # noqa: S608 - names of our own fields
        with self.writing():
            self.database.executemany(query, ([_stored(getattr(row, name)) for name in _COLUMNS] for row in rows))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Commit what is written inside, all or nothing.

        Raises:
            MedoodError: the disk is full or cannot be written.
        """
        try:
            with self.database:
                yield
        except sqlite3.Error as error:
            raise MedoodError(
                f"{self.path} cannot be written: {error}. Free some space and go on with the same command and --resume."
            ) from error

    def first(self, sha256: str) -> str | None:
        """The place of the row that these bytes were first read for; none where there is no row of theirs yet."""
        query = "SELECT source, member FROM scans WHERE sha256 = ? AND status NOT IN (?, ?) ORDER BY id LIMIT 1"
        found = self.database.execute(query, (sha256, Status.DUPLICATE, Status.UNREADABLE)).fetchone()
        return None if found is None else Identity(*found).name

    def end(self) -> End | None:
        """Where the rows end; none without rows."""
        query = "SELECT file, item, source, member, sha256, status FROM scans ORDER BY id DESC LIMIT 1"
        found = self.database.execute(query).fetchone()
        if found is None:
            return None
        counted = self.database.execute("SELECT COUNT(*) FROM scans WHERE file = ? AND item = ?", found[:2]).fetchone()
        return End(*(*found, int(counted[0])))

    def rows(self, where: str = "1", order: str = "id", limit: int = -1) -> Iterator[Row]:
        """Rows in the order they were found, or another order of columns; ``where`` and ``order`` are our own SQL."""
        if limit >= 0:  # whole rows are slow to sort
            where = f"id IN (SELECT id FROM scans WHERE {where} ORDER BY {order} LIMIT {limit})"  # noqa: S608
        query = f"SELECT {', '.join(_COLUMNS)} FROM scans WHERE {where} ORDER BY {order}"  # noqa: S608
        for values in self.database.execute(query):
            named = dict(zip(_COLUMNS, values, strict=True))
            named["facts"] = json.loads(named["facts"])
            yield Row(**named)

    def columns(self, names: Sequence[str], where: str = "1") -> Iterator[tuple[Any, ...]]:
        """Some columns of rows in the order they were found, as they are stored: several times as fast as whole rows."""
        yield from self.database.execute(f"SELECT {', '.join(names)} FROM scans WHERE {where} ORDER BY id")  # noqa: S608

    def unread(self, sources: Iterable[str]) -> list[str]:
        """Of the sources that were named, those that could not be read, or not to their end."""
        fine = (Status.SCORED, Status.NOT_SELECTED, Status.DUPLICATE)
        query = "SELECT 1 FROM scans WHERE source = ? AND member = '' AND status NOT IN (?, ?, ?) LIMIT 1"
        return [name for name in sources if self.database.execute(query, (spelled(str(Path(name))), *fine)).fetchone()]

    def scored_among(self, digests: Iterable[str]) -> int:
        """Scored files whose SHA-256 is one of these."""
        with self.writing():
            self.database.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (sha256 TEXT PRIMARY KEY)")
            self.database.execute("DELETE FROM wanted")
            self.database.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((digest,) for digest in digests))
        query = "SELECT COUNT(DISTINCT scans.sha256) FROM wanted JOIN scans USING (sha256) WHERE status = 'scored'"
        return int(self.database.execute(query).fetchone()[0])

    def uncalibrated(self) -> int:
        """Scored scans of a stratum that was not calibrated."""
        query = "SELECT COUNT(*) FROM scans WHERE status = 'scored' AND json_extract(facts, '$.uncalibrated') IS NOT NULL"
        return int(self.database.execute(query).fetchone()[0])

    def decide(self, limit: float, rule: str) -> None:
        """Decide every scored scan by a limit on its p-value; ``rule`` ends the sentence of those flagged."""
        with self.writing():
            self.database.execute(
                "UPDATE scans SET decision = 'in_distribution', reason = '' WHERE status = 'scored'",
            )
            self.database.execute(
                "UPDATE scans SET decision = 'out_of_distribution', "
                "reason = printf('at most %.2g of in-distribution scans score this high; %s', p_value, :rule) "
                "WHERE status = 'scored' AND p_value <= :limit",
                {"limit": limit, "rule": rule},
            )
            self.database.execute(
                "UPDATE scans SET reason = reason || CASE WHEN reason = '' THEN '' ELSE '; ' END || "
                "json_extract(facts, '$.uncalibrated') "
                "WHERE status = 'scored' AND json_extract(facts, '$.uncalibrated') IS NOT NULL"
            )

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of rows by (status, decision)."""
        query = "SELECT status, decision, COUNT(*) FROM scans GROUP BY status, decision ORDER BY status, decision"
        return {(status, decision): count for status, decision, count in self.database.execute(query)}

    def knows(self, source: str) -> bool:
        """Whether a source has rows."""
        return self.database.execute("SELECT 1 FROM scans WHERE source = ? LIMIT 1", (source,)).fetchone() is not None

    def size(self) -> int:
        """Number of rows."""
        return int(self.database.execute("SELECT COUNT(*) FROM scans").fetchone()[0])

    def write_csv(self, target: Path) -> None:
        """Write ``verdicts.csv`` whole or not at all; see :func:`medood.text.spreadsheet_cell` for its text."""
        partial = target.with_name(f".{target.name}.part")
        try:
            with partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
                writer = csv.writer(stream)
                writer.writerow(VERDICT_COLUMNS)
                for row in self.columns(VERDICT_COLUMNS):
                    writer.writerow([spreadsheet_cell(value) if isinstance(value, str) else value for value in row])
            partial.replace(target)
        except OSError as error:
            raise MedoodError(
                f"{target} cannot be written: {error.strerror or error}. Name a place that can be written to."
            ) from error

    def fold(self) -> None:
        """Make the file whole without its write-ahead log, so that it can be moved.

        Raises:
            MedoodError: another process reads it.
        """
        try:
            (mode,) = self.database.execute("PRAGMA journal_mode=DELETE").fetchone()
        except sqlite3.OperationalError:
            mode = "wal"
        if mode != "delete":
            raise MedoodError(f"{self.path} is being read by another process. End that one and try again.")

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in."""
        self.database.close()


def taken(folder: Path) -> MedoodError:
    """What is said where a folder holds a run."""
    return MedoodError(
        f"{folder} already holds a run. Give another folder with --out, go on with it by --resume, or remove it."
    )


def _stored(value: Any) -> Any:
    """A field as SQLite takes it: facts as JSON, and file names that are not UTF-8 with their odd bytes spelled out."""
    if isinstance(value, dict):
        return json.dumps(value)
    return spelled(value) if isinstance(value, str) else value


def spelled(text: str) -> str:
    """Text in which bytes that are no UTF-8 are spelled out, as the ledger keeps it."""
    return text.encode("utf-8", "backslashreplace").decode()
