"""The tables of a ledger that hold statistics of the archive while a run goes on: a sample, months and patients."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager


class StatisticsTables:
    """Statistics of the archive, written in the transaction of the rows that they belong to.

    Args:
        database: the ledger's connection.
        writing: begins a transaction of the ledger.
    """

    def __init__(self, database: sqlite3.Connection, writing: Callable[[], AbstractContextManager[None]]) -> None:
        self._database, self._writing = database, writing

    def add_to_month(self, month: str, p_value: float) -> None:
        """Count a scored scan for its month, ``YYYY-MM``; call inside :meth:`writing`."""
        self._database.execute(
            "INSERT INTO months VALUES (?, 1, ?, 0) ON CONFLICT DO UPDATE SET scans = scans + 1, "
            "p_value = p_value + excluded.p_value",
            (month, p_value),
        )

    def add_patient(self, month: str, digest: str, limit: int) -> None:
        """Note a patient's digest for a month that has fewer than ``limit``; call inside :meth:`writing`."""
        self._database.execute(
            "INSERT OR IGNORE INTO patients SELECT ?1, ?2 WHERE (SELECT COUNT(*) FROM patients WHERE month = ?1) < ?3",
            (month, digest, limit),
        )

    def add_to_sample(self, sha256: str, month: str, p_value: float, features: bytes) -> bool:
        """Add a scan to the sample; false where its file is in it already. Call inside :meth:`writing`."""
        row = (sha256, month, p_value, features)
        return bool(self._database.execute("INSERT OR IGNORE INTO sample VALUES (?, ?, ?, ?)", row).rowcount)

    def sample(self) -> list[tuple[bytes, str, float]]:
        """Features, month and p-value of the sample, in the order of the files' SHA-256."""
        return list(self._database.execute("SELECT features, month, p_value FROM sample ORDER BY sha256"))

    def thin_sample(self, limit: int, size: int) -> None:
        """Where the sample has more than ``limit`` rows, keep the ``size`` with the smallest SHA-256."""
        if self._database.execute("SELECT COUNT(*) FROM sample").fetchone()[0] > limit:
            query = "DELETE FROM sample WHERE sha256 NOT IN (SELECT sha256 FROM sample ORDER BY sha256 LIMIT ?)"
            self._database.execute(query, (size,))

    def months(self, fewest: int) -> list[tuple[str, int, float]]:
        """Month, scans and sum of p-values of each month with at least ``fewest`` patients."""
        query = "SELECT month, scans, p_value FROM months WHERE patients >= ? ORDER BY month"
        return list(self._database.execute(query, (fewest,)))

    def patient_key(self, new: str) -> str:
        """The key of patients' digests; ``new`` is stored where there is none. Call inside :meth:`writing`."""
        query = "SELECT value FROM run WHERE name = 'patient_key'"
        stored = self._database.execute(query).fetchone()
        if stored is None:
            self._database.execute("INSERT INTO run VALUES ('patient_key', ?)", (json.dumps(new),))
            return new
        return str(json.loads(stored[0]))

    def count_patients(self) -> None:
        """Replace patients' digests by their number in each month, and delete the digests and their key."""
        with self._writing():
            self._database.execute(
                "UPDATE months SET patients = "
                "max(patients, (SELECT COUNT(*) FROM patients AS p WHERE p.month = months.month))"
            )
            self._database.execute("DELETE FROM patients")
            self._database.execute("DELETE FROM run WHERE name = 'patient_key'")

    def add_shard(self, shard: StatisticsTables) -> None:
        """Add the months and the sample of a shard."""
        with self._writing():
            self._database.executemany(
                "INSERT INTO months VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET scans = scans + excluded.scans, "
                "p_value = p_value + excluded.p_value, patients = max(patients, excluded.patients)",
                shard._database.execute("SELECT * FROM months"),
            )
            self._database.executemany(
                "INSERT OR IGNORE INTO sample VALUES (?, ?, ?, ?)", shard._database.execute("SELECT * FROM sample")
            )

    def delete(self) -> None:
        """Delete the months, patients and sample."""
        with self._writing():
            for table in ("sample", "months", "patients"):
                self._database.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
