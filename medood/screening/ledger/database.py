"""The ledger of a run: an SQLite file with one row per image or refused file, in listing order.

Each batch of rows is committed with its archive statistics; a resumed run continues after the last complete batch.
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
from medood.output_folder import atomic_write
from medood.reasons import Reason, both_reasons, from_stored
from medood.scans.scan import Identity, Status
from medood.screening.ledger.run_metadata import RunMetadata
from medood.screening.ledger.schema import MIGRATIONS, SCHEMA_VERSION
from medood.screening.ledger.statistics_tables import StatisticsTables
from medood.text import spreadsheet_cell

#: Folder in which ``medood merge`` assembles a run; not a valid run until the merge is complete.
UNFINISHED = ".merging"
#: Columns of ``verdicts.csv``; new ones are only ever added at the end.
VERDICT_COLUMNS = ("source", "member", "frame", "sha256", "status", "score", "p_value", "decision", "reason", "finding")


@dataclass(frozen=True)
class Row:
    """One image, or one file without an image.

    Attributes:
        source: path as given or found.
        member: name inside an archive, or empty.
        frame: frame number from 0.
        sha256: of the file or member, empty where its bytes could not be read.
        status: ``scored``, or the refusal's name.
        reason: why it was refused or flagged, in words; a :class:`medood.reasons.Reason`, but in rows of old versions text.
        score: raw score; ``None`` if not scored.
        p_value: conformal p-value; ``None`` if not scored.
        decision: ``in_distribution``, ``out_of_distribution``, or empty.
        metadata: grey scale, DICOM attributes, spacing, size, nearest in-distribution cosines.
        read_seconds: time for reading and decoding.
        score_seconds: its share of the batch's network time.
        file: the file's number in the listing, from 0.
        item: number of the source in that file, from 0; an archive holds several.
        host: the machine that read it.
        finding: what is wrong, one of :class:`medood.evidence.fault_codes.FaultName`; empty in runs of old versions.
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
    metadata: dict[str, Any] = field(default_factory=dict)
    read_seconds: float = 0.0
    score_seconds: float = 0.0
    file: int = 0
    item: int = 0
    host: str = ""
    finding: str = ""

    @property
    def key(self) -> str:
        """``SHA256:FRAME``, the key of a scan in a review."""
        return f"{self.sha256}:{self.frame}"


@dataclass(frozen=True)
class ResumePoint:
    """The source of the last row of an unfinished run.

    Attributes:
        file: its file's number in the listing.
        item: its number in that file.
        source: path or address.
        member: name inside an archive, or empty.
        sha256: of its last row.
        status: of its last row.
        rows: number of rows it has.
    """

    file: int
    item: int
    source: str
    member: str
    sha256: str
    status: str
    rows: int


_COLUMNS = tuple(item.name for item in fields(Row))
_STORED = (*_COLUMNS, "reason_code", "reason_values")


class Ledger:
    """The rows and the metadata of a run.

    Args:
        folder: the run's folder.
        create: start a new run; an existing ledger is an error.
        resume: with ``create``, open an existing ledger instead of failing.

    Raises:
        MedoodError: there is no ledger, one already exists, or it cannot be opened.
    """

    def __init__(self, folder: Path, *, create: bool = False, resume: bool = False) -> None:
        self.path = folder / "ledger.sqlite"
        if create and not resume:
            check_run_free(folder)
        if not create and not self.path.is_file():
            raise MedoodError(f"{folder} is not a run: it holds no ledger.sqlite. Give the folder of medood screen --out.")
        try:
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path)
            self._database.execute("PRAGMA secure_delete=ON")
            if create:
                self._database.execute("PRAGMA journal_mode=WAL")
            version = self._version()
            while version in MIGRATIONS and (version or create):
                self._migrate(version)
                version = self._version()
        except (OSError, sqlite3.Error) as error:
            raise MedoodError(
                f"{self.path} cannot be opened: {error}. Opening a ledger needs write access to its folder; copy the run "
                "to a writable folder."
            ) from error
        if version != SCHEMA_VERSION:
            raise MedoodError(f"{self.path} has schema version {version}; this version of medood reads {SCHEMA_VERSION}.")
        self.statistics = StatisticsTables(self._database, self.writing)

    def _version(self) -> int:
        return int(self._database.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self, version: int) -> None:
        """Migrate to the next schema version in one transaction."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            if self._version() == version:  # another process may have been faster
                for statement in MIGRATIONS[version]:
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version={version + 1}")

    def set_metadata(self, **values: Any) -> None:
        """Store metadata of the run by their names in :meth:`RunMetadata.to_dict`; values are JSON."""
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        with self.writing():
            self._database.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", rows)

    def metadata(self) -> RunMetadata:
        """The metadata of the run."""
        stored = self._database.execute("SELECT name, value FROM run")
        return RunMetadata.from_dict({name: json.loads(value) for name, value in stored})

    def delete_metadata(self, name: str) -> None:
        """Remove one item of the metadata."""
        with self.writing():
            self._database.execute("DELETE FROM run WHERE name = ?", (name,))

    @classmethod
    def read_metadata(cls, folder: Path) -> RunMetadata:
        """The metadata of the run in a folder."""
        with contextlib.closing(cls(folder)) as ledger:
            return ledger.metadata()

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows in one transaction."""
        query = f"INSERT INTO scans ({', '.join(_STORED)}) VALUES ({', '.join('?' * len(_STORED))})"  # noqa: S608
        with self.writing():
            self._database.executemany(
                query, ([*(_to_sql(getattr(row, name)) for name in _COLUMNS), *_reason_to_sql(row.reason)] for row in rows)
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Context manager that runs its writes in one transaction.

        Raises:
            MedoodError: the disk is full or cannot be written.
        """
        try:
            with self._database:
                yield
        except sqlite3.Error as error:
            raise MedoodError(
                f"{self.path} cannot be written: {error}. Free some space and resume with the same command and --resume."
            ) from error

    def first_occurrence(self, sha256: str) -> str | None:
        """Name of the first scan read from these bytes; ``None`` if no row has them yet."""
        query = "SELECT source, member FROM scans WHERE sha256 = ? AND status NOT IN (?, ?) ORDER BY id LIMIT 1"
        row = self._database.execute(query, (sha256, Status.DUPLICATE, Status.UNREADABLE)).fetchone()
        return None if row is None else Identity(*row).name

    def resume_point(self) -> ResumePoint | None:
        """The source of the last row; ``None`` if the ledger is empty."""
        query = "SELECT file, item, source, member, sha256, status FROM scans ORDER BY id DESC LIMIT 1"
        last = self._database.execute(query).fetchone()
        if last is None:
            return None
        count = self._database.execute("SELECT COUNT(*) FROM scans WHERE file = ? AND item = ?", last[:2]).fetchone()
        return ResumePoint(*(*last, int(count[0])))

    def rows(self) -> Iterator[Row]:
        """All rows, in the order in which they were found."""
        return self._rows()

    def scored(self, limit: int = -1) -> Iterator[Row]:
        """Scored rows, highest score first; at most ``limit`` where it is not negative."""
        return self._rows("status = 'scored'", "score DESC, id", limit)

    def flagged(self, limit: int = -1) -> Iterator[Row]:
        """Rows decided out of distribution, highest score first; at most ``limit`` where it is not negative."""
        return self._rows("decision = 'out_of_distribution'", "score DESC, id", limit)

    def accepted(self, limit: int = -1) -> Iterator[Row]:
        """Rows decided in distribution, highest score first; at most ``limit`` where it is not negative."""
        return self._rows("decision = 'in_distribution'", "score DESC, id", limit)

    def refused(self, limit: int = -1, *, not_selected: bool = False) -> Iterator[Row]:
        """Rows without a score.

        Args:
            limit: the largest number of rows; negative for all.
            not_selected: include the rows that the selection left out, after the others.
        """
        if not_selected:
            return self._rows("status != 'scored'", "status = 'not_selected', status, id", limit)
        return self._rows("status NOT IN ('scored', 'not_selected')", "status, id", limit)

    def scores(self) -> list[float]:
        """The scores of all scored rows, in the order in which they were found."""
        return [score for (score,) in self._columns(("score",), "status = 'scored'")]

    def p_values(self) -> list[float]:
        """The p-values of all scored rows, in the order in which they were found."""
        return [p_value for (p_value,) in self._columns(("p_value",), "status = 'scored'")]

    def keys(self, *, scored_only: bool = False) -> list[str]:
        """The keys ``SHA256:FRAME`` of all rows, or of the scored ones, in the order in which they were found."""
        where = "status = 'scored'" if scored_only else "1"
        return [f"{sha256}:{frame}" for sha256, frame in self._columns(("sha256", "frame"), where)]

    def scored_columns(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Columns of the scored rows, in the order in which they were found; several times as fast as whole rows."""
        return self._columns(names, "status = 'scored'")

    def _rows(self, where: str = "1", order: str = "id", limit: int = -1) -> Iterator[Row]:
        if limit >= 0:  # sorting whole rows is slow
            where = f"id IN (SELECT id FROM scans WHERE {where} ORDER BY {order} LIMIT {limit})"  # noqa: S608
        query = f"SELECT {', '.join(_STORED)} FROM scans WHERE {where} ORDER BY {order}"  # noqa: S608
        for values in self._database.execute(query):
            values_by_name = dict(zip(_STORED, values, strict=True))
            values_by_name["metadata"] = json.loads(values_by_name["metadata"])
            code, reason_values = values_by_name.pop("reason_code"), values_by_name.pop("reason_values")
            if code:
                values_by_name["reason"] = from_stored([code, json.loads(reason_values)])
            yield Row(**values_by_name)

    def _columns(self, names: Sequence[str], where: str = "1") -> Iterator[tuple[Any, ...]]:
        yield from self._database.execute(f"SELECT {', '.join(names)} FROM scans WHERE {where} ORDER BY id")  # noqa: S608

    def unreadable_sources(self, sources: Iterable[str]) -> list[str]:
        """The given sources that could not be read completely."""
        fine = (Status.SCORED, Status.NOT_SELECTED, Status.DUPLICATE)
        query = "SELECT 1 FROM scans WHERE source = ? AND member = '' AND status NOT IN (?, ?, ?) LIMIT 1"
        return [name for name in sources if self._database.execute(query, (escape_name(str(Path(name))), *fine)).fetchone()]

    def scored_among(self, digests: Iterable[str]) -> int:
        """Number of scored files whose SHA-256 is among ``digests``."""
        with self.writing():
            self._database.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (sha256 TEXT PRIMARY KEY)")
            self._database.execute("DELETE FROM wanted")
            self._database.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((digest,) for digest in digests))
        query = "SELECT COUNT(DISTINCT scans.sha256) FROM wanted JOIN scans USING (sha256) WHERE status = 'scored'"
        return int(self._database.execute(query).fetchone()[0])

    def uncalibrated(self) -> int:
        """Number of scored scans whose stratum has no calibration scans."""
        query = "SELECT COUNT(*) FROM scans WHERE status = 'scored' AND json_extract(metadata, '$.uncalibrated') IS NOT NULL"
        return int(self._database.execute(query).fetchone()[0])

    def decide(self, limit: float, fdr: float, scans: int) -> None:
        """Flag every scored scan whose p-value is at most the limit of the Benjamini-Hochberg procedure.

        Args:
            limit: the largest p-value that is flagged.
            fdr: false-discovery rate.
            scans: number of scored scans.
        """

        def words(p_value: float, flagged: int, note: str | None, stratum: str | None) -> str:
            above = Reason("flagged_at_fdr", p_value=p_value, fdr=fdr, scans=scans, limit=limit) if flagged else None
            reason = both_reasons(above, Reason("uncalibrated", stratum=stratum or "") if note is not None else None)
            return json.dumps([reason, *_reason_to_sql(reason)])

        self._database.create_function("words", 4, words)
        with self.writing():
            self._database.execute(
                "UPDATE scans SET decision = CASE WHEN p_value <= ? THEN 'out_of_distribution' ELSE 'in_distribution' END, "
                "finding = CASE WHEN p_value <= ? THEN finding WHEN json_array_length(metadata, '$.text') > 0 "
                "THEN 'burned_in_text' ELSE '' END, "
                "reason = '', reason_code = '', reason_values = '{}' WHERE status = 'scored'",
                (limit, limit),
            )
            self._database.execute(
                "WITH worded AS (SELECT id, words(p_value, decision = 'out_of_distribution', "
                "json_extract(metadata, '$.uncalibrated'), json_extract(metadata, '$.stratum')) AS words FROM scans "
                "WHERE status = 'scored' "
                "AND (decision = 'out_of_distribution' OR json_extract(metadata, '$.uncalibrated') IS NOT NULL)) "
                "UPDATE scans SET reason = json_extract(words, '$[0]'), reason_code = json_extract(words, '$[1]'), "
                "reason_values = json_extract(words, '$[2]') FROM worded WHERE worded.id = scans.id"
            )

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of rows by (status, decision)."""
        query = "SELECT status, decision, COUNT(*) FROM scans GROUP BY status, decision ORDER BY status, decision"
        return {(status, decision): count for status, decision, count in self._database.execute(query)}

    def has_source(self, source: str) -> bool:
        """Whether a source has rows."""
        return self._database.execute("SELECT 1 FROM scans WHERE source = ? LIMIT 1", (source,)).fetchone() is not None

    def count(self) -> int:
        """Number of rows."""
        return int(self._database.execute("SELECT COUNT(*) FROM scans").fetchone()[0])

    def write_csv(self, target: Path) -> None:
        """Write ``verdicts.csv`` atomically; :func:`medood.text.spreadsheet_cell` escapes its text."""
        try:
            with (
                atomic_write(target) as partial,
                partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
            ):
                writer = csv.writer(stream)
                writer.writerow(VERDICT_COLUMNS)
                for row in self._columns(VERDICT_COLUMNS):
                    writer.writerow([spreadsheet_cell(value) if isinstance(value, str) else value for value in row])
        except OSError as error:
            raise MedoodError(f"{target} cannot be written: {error.strerror or error}. Give a writable location.") from error

    def merge_write_ahead_log(self) -> None:
        """Merge the write-ahead log into the database file, so that the file can be moved.

        Raises:
            MedoodError: another process is reading it.
        """
        try:
            (mode,) = self._database.execute("PRAGMA journal_mode=DELETE").fetchone()
        except sqlite3.OperationalError:
            mode = "wal"
        if mode != "delete":
            raise MedoodError(f"{self.path} is being read by another process. Stop that process and try again.")

    def close(self) -> None:
        """Close the database; SQLite merges the write-ahead log."""
        self._database.close()


def check_run_free(folder: Path) -> None:
    """Refuse a folder that already holds a run.

    Raises:
        MedoodError: it does.
    """
    if (folder / "ledger.sqlite").exists():
        raise MedoodError(
            f"{folder} already holds a run. Give another folder with --out, resume it with --resume, or remove it."
        )


def _to_sql(value: Any) -> Any:
    """A field value for SQLite: dictionaries as JSON, text with bytes that are not valid UTF-8 escaped."""
    if isinstance(value, dict):
        return json.dumps(value)
    return escape_name(value) if isinstance(value, str) else value


def escape_name(text: str) -> str:
    """Text with bytes that are not valid UTF-8 escaped, as the ledger stores it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _reason_to_sql(reason: str) -> tuple[str, str]:
    """The code and the values of a reason as columns."""
    if not isinstance(reason, Reason):
        return "", "{}"
    code, values = reason.stored()
    return code, json.dumps(values)
