"""Statistics of the whole archive, gathered during screening: a bounded sample of features, and counts per month."""

from __future__ import annotations

import hmac
import secrets
from functools import cached_property

import numpy as np
from torch import Tensor

from medood.detection.calibration import Calibration
from medood.detection.distribution_tests import drift, mmd
from medood.screening.ledger.database import Ledger
from medood.screening.ledger.run_metadata import ArchiveFindings

#: Number of scans compared, from the archive and from the calibration set each.
SAMPLE = 1000
#: Months with fewer patients are left out, so that no line describes a single patient.
_FEWEST = 5


class ArchiveStatistics:
    """Samples the files with the smallest SHA-256, one scan each, so that the sample does not depend on order or sharding.

    The data are stored in the ledger, in the same transaction as the rows they come from, until the run is finalized.
    Patients are distinguished by digests keyed with a secret of the run; finalizing deletes both.

    Args:
        ledger: the run's ledger.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._tables = ledger.statistics

    @cached_property
    def _key(self) -> bytes:
        """The key of patients' digests, stored with the rows that it is first needed for."""
        return bytes.fromhex(self._tables.patient_key(secrets.token_hex(32)))

    def add(self, sha256: str, patient: str, features: Tensor, month: str, p_value: float) -> None:
        """Add a scored scan; its month is ``YYYY-MM`` or empty, its patient a hash or empty."""
        if month:
            self._tables.add_to_month(month, p_value)
            digest = hmac.digest(self._key, (patient or sha256).encode(), "sha256").hex()
            self._tables.add_patient(month, digest, _FEWEST)
        if self._tables.add_to_sample(sha256, month, p_value, features.numpy().astype("<f4").tobytes()):
            self._tables.thin_sample(2 * SAMPLE, SAMPLE)

    def finalize(self, calibration: Calibration, limit: float) -> ArchiveFindings:
        """Test the archive against the calibration set and for a drift over time; count what is flagged at ``limit``."""
        self._tables.thin_sample(SAMPLE, SAMPLE)
        rows = [
            (np.frombuffer(features, "<f4").astype(np.float64), month, p_value)
            for features, month, p_value in self._tables.sample()
        ]
        sample = [row for row in rows if bool(np.isfinite(row[0]).all())]
        features = np.array([row for row, _, _ in sample])
        calibration_features = calibration.features[calibration.features.isfinite().all(dim=1)]
        step = -(-len(calibration_features) // SAMPLE) or 1
        shift = mmd(features, calibration_features[::step].double().numpy()) if sample else None
        dated = [(month, p_value) for _, month, p_value in sample if month]
        trend = drift([month for month, _ in dated], [p_value for _, p_value in dated])
        self._tables.count_patients()
        months = [
            {
                "month": month,
                "scans": count,
                "mean_p_value": round(total / count, 4),
                "sampled": sum(own == month for own, _ in dated),
                "flagged": sum(own == month and p_value <= limit for own, p_value in dated),
            }
            for month, count, total in self._tables.months(_FEWEST)
        ]
        return ArchiveFindings(shift, trend, months)
