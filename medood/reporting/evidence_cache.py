"""Evidence that was drawn once, kept in the run's folder: a report made again reads no scan again.

One SQLite file. What was drawn by another detector, calibration or version of medood is thrown away; the scans are named by
their SHA-256, so that what is kept stays right wherever the files go.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.evidence.findings import Finding
from medood.reporting.renderings import Drawn

NAME = "evidence.sqlite"
#: Changes where what is drawn changes.
_FORMAT = 1
_FACTS, _HASH, _THUMBNAIL = "facts", "hash", "thumbnail"


class EvidenceCache:
    """The pictures of a run's scans, by scan and kind.

    Args:
        run: the run's folder.
        detector: the one that scored it.
        facts: of the run; pictures depend on how it was read.

    Raises:
        MedoodError: the folder cannot be written.
    """

    def __init__(self, run: Path, detector: Detector, facts: dict[str, Any]) -> None:
        stated = [
            _FORMAT,
            version("medood"),
            detector.sha256,
            detector.calibration.sha256,
            facts["started"],
            facts.get("read"),
        ]
        self._stamp = hashlib.sha256(json.dumps(stated).encode()).hexdigest()
        path = run / NAME
        try:
            self._database = self._opened(path)
        except sqlite3.OperationalError as error:
            raise MedoodError(
                f"{path} cannot be written: {error}. Free some space, or report on a copy of the run."
            ) from error
        except sqlite3.DatabaseError:  # damaged, or of another kind: it is made anew
            for name in (NAME, f"{NAME}-journal"):
                (run / name).unlink(missing_ok=True)
            self._database = self._opened(path)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def thumbnail(self, key: str) -> tuple[bytes, bytes] | None:
        """The JPEG and the difference hash of a scan, where they are kept."""
        kept = self._kept(key, (_THUMBNAIL, _HASH))
        return (kept[_THUMBNAIL], kept[_HASH]) if len(kept) == 2 else None

    def keep_thumbnail(self, key: str, jpeg: bytes, look: bytes) -> None:
        """Keep the JPEG and the difference hash of a scan."""
        self._keep(key, {_THUMBNAIL: jpeg, _HASH: look})

    def evidence(self, key: str) -> Drawn | None:
        """The evidence of a scan, where it is kept."""
        kept = self._kept(key)
        try:
            facts = json.loads(kept.pop(_FACTS))
        except (KeyError, ValueError):
            return None
        pictures = {name: content for name, content in kept.items() if name not in (_THUMBNAIL, _HASH)}
        said = tuple(Finding(name, values) for name, values in facts["findings"])
        return Drawn(pictures, tuple(facts["peak"]) if facts["peak"] else None, facts["correction"], said)

    def keep_evidence(self, key: str, drawn: Drawn) -> None:
        """Keep the evidence of a scan."""
        facts = {
            "findings": [[finding.name, finding.values] for finding in drawn.findings],
            "peak": drawn.peak,
            "correction": drawn.correction,
        }
        self._keep(key, {**drawn.pictures, _FACTS: json.dumps(facts).encode()})

    def _opened(self, path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(path)
        try:
            database.execute("PRAGMA synchronous = OFF")  # what is lost is drawn again
            with database:
                database.execute("CREATE TABLE IF NOT EXISTS stamp (value TEXT PRIMARY KEY)")
                if database.execute("SELECT value FROM stamp").fetchall() != [(self._stamp,)]:
                    database.execute("DROP TABLE IF EXISTS pictures")
                    database.execute("DELETE FROM stamp")
                    database.execute("INSERT INTO stamp VALUES (?)", (self._stamp,))
                database.execute(
                    "CREATE TABLE IF NOT EXISTS pictures "
                    "(scan TEXT, name TEXT, content BLOB NOT NULL, PRIMARY KEY (scan, name))"
                )
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _kept(self, key: str, names: tuple[str, ...] = ()) -> dict[str, bytes]:
        query = "SELECT name, content FROM pictures WHERE scan = ?"
        if names:
            query += f" AND name IN ({', '.join('?' * len(names))})"
        try:
            return dict(self._database.execute(query, (key, *names)).fetchall())
        except sqlite3.DatabaseError:  # what is damaged is drawn again
            return {}

    def _keep(self, key: str, contents: dict[str, bytes]) -> None:
        rows = [(key, name, content) for name, content in contents.items()]
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise MedoodError(
                f"{NAME} in the run's folder cannot be written: {error}. Delete it, free some space, or report on a copy."
            ) from error
