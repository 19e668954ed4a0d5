"""The archive as a whole, gathered while it is screened: a bounded sample of its features, and its months."""

from __future__ import annotations

import hmac
import json
import secrets
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from medood.detection.calibration import Calibration
from medood.detection.distribution_tests import drift, mmd
from medood.screening.ledger import Ledger

#: Scans of the archive, and of the calibration, that are compared.
SAMPLE = 1000
#: Months with fewer patients are left out, so that no line speaks of one.
_FEWEST = 5
#: The fact of an unfinished run that its patients' digests are made with.
_KEY = "patient_key"


class Whole:
    """Keeps the files with the smallest SHA-256, one scan each: a sample that order and sharding do not change.

    What is gathered lies in the ledger, in the transaction of the rows that it is of, until the run is concluded. Patients
    are told apart by digests under a key of the run, and both are gone then.

    Args:
        ledger: of the run.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._database = ledger, ledger.database

    @cached_property
    def _key(self) -> bytes:
        """What patients' digests are made with; it is noted with the rows that it is first needed for."""
        key = self._ledger.run().get(_KEY)
        if key is None:
            key = secrets.token_hex(32)
            self._database.execute("INSERT INTO run VALUES (?, ?)", (_KEY, json.dumps(key)))
        return bytes.fromhex(key)

    def add(self, sha256: str, patient: str, features: Tensor, month: str, p_value: float) -> None:
        """Take a scored scan in; its month is ``YYYY-MM`` or empty, its patient a hash or empty."""
        if month:
            self._database.execute(
                "INSERT INTO months VALUES (?, 1, ?, 0) ON CONFLICT DO UPDATE SET scans = scans + 1, "
                "p_value = p_value + excluded.p_value",
                (month, p_value),
            )
            who = hmac.digest(self._key, (patient or sha256).encode(), "sha256").hex()
            self._database.execute(
                "INSERT OR IGNORE INTO patients SELECT ?1, ?2 WHERE (SELECT COUNT(*) FROM patients WHERE month = ?1) < ?3",
                (month, who, _FEWEST),
            )
        row = (sha256, month, p_value, features.numpy().astype("<f4").tobytes())
        if self._database.execute("INSERT OR IGNORE INTO sample VALUES (?, ?, ?, ?)", row).rowcount:
            self._thin(2 * SAMPLE)

    def conclude(self, calibration: Calibration) -> dict[str, Any]:
        """``shift`` and ``drift`` (none where they cannot be told) and ``months``, for the ledger."""
        self._thin(SAMPLE)
        rows = [
            (np.frombuffer(features, "<f4").astype(np.float64), month, p_value)
            for features, month, p_value in self._database.execute(
                "SELECT features, month, p_value FROM sample ORDER BY sha256"
            )
        ]
        sample = [row for row in rows if bool(np.isfinite(row[0]).all())]
        features = np.array([row for row, _, _ in sample])
        known = calibration.features[calibration.features.isfinite().all(dim=1)]
        step = -(-len(known) // SAMPLE) or 1
        shift = mmd(features, known[::step].double().numpy()) if sample else None
        dated = [(month, p_value) for _, month, p_value in sample if month]
        trend = drift([month for month, _ in dated], [p_value for _, p_value in dated])
        self.count_patients()
        months = self._database.execute(
            "SELECT month, scans, p_value FROM months WHERE patients >= ? ORDER BY month", (_FEWEST,)
        )
        return {
            "shift": asdict(shift) if shift else None,
            "drift": asdict(trend) if trend else None,
            "months": [
                {"month": month, "scans": count, "mean_p_value": round(total / count, 4)} for month, count, total in months
            ],
        }

    def count_patients(self) -> None:
        """Put numbers of patients in the place of their digests, and forget these with their key."""
        with self._ledger.writing():
            self._database.execute(
                "UPDATE months SET patients = "
                "max(patients, (SELECT COUNT(*) FROM patients AS p WHERE p.month = months.month))"
            )
            self._database.execute("DELETE FROM patients")
            self._database.execute("DELETE FROM run WHERE name = ?", (_KEY,))

    def take(self, shard: Ledger) -> None:
        """Add what another part of the archive has gathered. A month is told where one part alone has enough patients."""
        with self._ledger.writing():
            self._database.executemany(
                "INSERT INTO months VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET scans = scans + excluded.scans, "
                "p_value = p_value + excluded.p_value, patients = max(patients, excluded.patients)",
                shard.database.execute("SELECT * FROM months"),
            )
            self._database.executemany(
                "INSERT OR IGNORE INTO sample VALUES (?, ?, ?, ?)", shard.database.execute("SELECT * FROM sample")
            )

    def forget(self) -> None:
        """Remove what was gathered."""
        with self._ledger.writing():
            for table in ("sample", "months", "patients"):
                self._database.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names

    def _thin(self, limit: int) -> None:
        """Where there are more than ``limit``, keep a sample."""
        if self._database.execute("SELECT COUNT(*) FROM sample").fetchone()[0] > limit:
            query = "DELETE FROM sample WHERE sha256 NOT IN (SELECT sha256 FROM sample ORDER BY sha256 LIMIT ?)"
            self._database.execute(query, (SAMPLE,))
