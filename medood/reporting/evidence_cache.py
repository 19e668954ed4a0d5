"""Cache of drawn evidence in the run's folder, so that a second report need not read the scans again.

The cache is one SQLite file. Evidence drawn with another detector, calibration or version of medood is discarded. Scans are
keyed by their SHA-256, so that the cache stays valid when files move.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.evidence.burned_in_text import is_available
from medood.evidence.findings import Finding
from medood.reporting.renderings import RenderedEvidence
from medood.screening.ledger.run_metadata import RunMetadata

NAME = "evidence.sqlite"
#: Version of the drawings; change it when they change.
_FORMAT = 2
_FACTS, _HASH, _THUMBNAIL = "facts", "hash", "thumbnail"


class EvidenceCache:
    """Cached images of a run's scans, by scan and kind.

    Args:
        run: the run's folder.
        detector: the detector that scored the run.
        metadata: the run's metadata; images depend on its reading options.

    Raises:
        MedoodError: the folder cannot be written.
    """

    def __init__(self, run: Path, detector: Detector, metadata: RunMetadata) -> None:
        stamp_values = [
            _FORMAT,
            version("medood"),
            detector.sha256,
            detector.calibration.sha256,
            metadata.started,
            asdict(metadata.read),
            is_available(),
        ]
        self._stamp = hashlib.sha256(json.dumps(stamp_values).encode()).hexdigest()
        path = run / NAME
        try:
            self._database = self._open(path)
        except sqlite3.OperationalError as error:
            raise MedoodError(
                f"{path} cannot be written: {error}. Free some space, or report on a copy of the run."
            ) from error
        except sqlite3.DatabaseError:  # damaged, or not SQLite: create it anew
            for name in (NAME, f"{NAME}-journal"):
                (run / name).unlink(missing_ok=True)
            self._database = self._open(path)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def thumbnail(self, key: str) -> tuple[bytes, bytes] | None:
        """A scan's JPEG thumbnail and difference hash; None if not cached."""
        cached = self._kept(key, (_THUMBNAIL, _HASH))
        return (cached[_THUMBNAIL], cached[_HASH]) if len(cached) == 2 else None

    def keep_thumbnail(self, key: str, jpeg: bytes, image_hash: bytes) -> None:
        """Cache a scan's JPEG thumbnail and difference hash."""
        self._keep(key, {_THUMBNAIL: jpeg, _HASH: image_hash})

    def evidence(self, key: str) -> RenderedEvidence | None:
        """A scan's evidence; None if not cached."""
        cached = self._kept(key)
        try:
            stored = json.loads(cached.pop(_FACTS))
        except (KeyError, ValueError):
            return None
        images = {name: content for name, content in cached.items() if name not in (_THUMBNAIL, _HASH)}
        findings = tuple(Finding(name, values) for name, values in stored["findings"])
        return RenderedEvidence(images, tuple(stored["peak"]) if stored["peak"] else None, stored["correction"], findings)

    def keep_evidence(self, key: str, evidence: RenderedEvidence) -> None:
        """Cache a scan's evidence."""
        stored = {
            "findings": [[finding.name, finding.values] for finding in evidence.findings],
            "peak": evidence.peak,
            "correction": evidence.correction,
        }
        self._keep(key, {**evidence.images, _FACTS: json.dumps(stored).encode()})

    def _open(self, path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(path)
        try:
            database.execute("PRAGMA synchronous = OFF")  # lost images are drawn again
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
        except sqlite3.DatabaseError:  # damaged images are drawn again
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
