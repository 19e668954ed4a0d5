from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import binom

from medood.detection.calibration import Calibration
from medood.detection.distribution_tests import drift, mmd
from medood.screening import archive_statistics as whole
from medood.screening.archive_statistics import ArchiveStatistics
from medood.screening.ledger.database import Ledger
from medood.screening.ledger.run_metadata import ArchiveFindings

HASHES = torch.zeros(0, 32, dtype=torch.uint8)
Fresh = Callable[[], ArchiveStatistics]


@pytest.fixture
def fresh(tmp_path: Path) -> Fresh:
    """Makes a gatherer on a ledger of its own."""
    runs = iter(range(100))
    return lambda: ArchiveStatistics(Ledger(tmp_path / str(next(runs)), create=True))


def test_the_statistic_against_a_double_loop() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(1.0, size=(9, 3))
    width = np.median(pdist(np.r_[x, y], "sqeuclidean"))

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.exp(-((u - v) ** 2).sum() / width) for u in a for v in b]))

    expected = mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
    found = mmd(x, y, permutations=19)
    assert found
    assert found.statistic == pytest.approx(expected)
    assert (found.archive, found.reference) == (7, 9)


def test_p_values_are_uniform_where_nothing_is_shifted_and_small_where_it_is() -> None:
    """300 pairs of samples of the same distribution: the share of p <= 0.1 lies in its binomial band."""
    rng = np.random.default_rng(1)
    p = [mmd(rng.normal(size=(20, 4)), rng.normal(size=(30, 4)), permutations=99, seed=i).p_value for i in range(300)]  # type: ignore[union-attr]
    assert binom.ppf(0.001, 300, 0.1) <= sum(v <= 0.1 for v in p) <= binom.ppf(0.999, 300, 0.1)
    shifted = mmd(rng.normal(0.7, size=(60, 4)), rng.normal(size=(60, 4)))
    assert shifted
    assert shifted.p_value == pytest.approx(0.001)


def test_what_cannot_be_told_is_none() -> None:
    assert mmd(np.zeros((1, 2)), np.zeros((5, 2))) is None
    same = mmd(np.zeros((3, 2)), np.zeros((5, 2)))
    assert same
    assert (same.statistic, same.p_value) == (0.0, 1.0)
    months = [f"2026-{m:02d}" for m in range(1, 13)]
    assert drift(months[:9], [0.1] * 9) is None
    assert drift(["2026-01"] * 12, list(np.linspace(0, 1, 12))) is None
    assert drift(months, [0.5] * 12) is None


def test_drift_is_the_rank_correlation_with_the_month() -> None:
    months = [f"2026-{m:02d}" for m in range(1, 13)]
    falling = drift(months, list(np.linspace(1.0, 0.1, 12)))
    assert falling
    assert falling.correlation == pytest.approx(-1.0)
    assert falling.p_value < 1e-6


def test_the_sample_does_not_depend_on_order_and_is_bounded(monkeypatch: pytest.MonkeyPatch, fresh: Fresh) -> None:
    monkeypatch.setattr(whole, "SAMPLE", 10)
    calibration = Calibration("c", np.arange(8.0), torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), HASHES, "")
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    keys = [f"{(i * 37) % 60:02x}" for i in range(60)]
    concluded = []
    for order in (range(60), reversed(range(60))):
        gathered = fresh()
        for i in order:
            gathered.add(keys[i], "", rows[i], "2026-01" if i < 56 else "2026-02", 0.5)
            assert gathered._tables._database.execute("SELECT COUNT(*) FROM sample").fetchone()[0] <= 20
        concluded.append(gathered.finalize(calibration, 0.5))
    assert concluded[0] == concluded[1]
    assert concluded[0].shift.archive == 10
    assert [line["month"] for line in concluded[0].months] == ["2026-01"], "4 scans in a month are too few to be told"
    assert fresh().finalize(calibration, 0.5) == ArchiveFindings()


def test_a_shifted_archive_is_told_and_a_broken_row_is_left_out(fresh: Fresh) -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(201, 4, generator=generator)
    known[7, 1] = float("nan")
    calibration = Calibration("c", np.arange(201.0), known, HASHES, "")
    gathered = fresh()
    for i in range(100):
        gathered.add(f"{i:03d}", "", torch.randn(4, generator=generator) + 1.5, "", 0.1)
    gathered.add("nan", "", torch.full((4,), float("nan")), "", 0.1)
    shift = gathered.finalize(calibration, 0.5).shift
    assert shift.p_value == pytest.approx(0.001)
    assert (shift.archive, shift.reference) == (100, 200)


def test_what_was_gathered_is_kept_and_forgotten(tmp_path: Path) -> None:
    """A run that goes on finds what it had gathered; one that is concluded keeps neither key nor digests of patients."""
    first = ArchiveStatistics(Ledger(tmp_path, create=True))
    for i in range(4):
        first.add(f"{i}", f"patient {i}", torch.zeros(3), "2026-05", 0.25)
    first._tables._database.commit()
    first._tables._database.close()
    again = ArchiveStatistics(Ledger(tmp_path))
    again.add("4", "patient 3", torch.zeros(3), "2026-05", 0.25)
    again.add("5", "patient 5", torch.zeros(3), "2026-05", 0.25)
    calibration = Calibration("c", np.arange(8.0), torch.zeros(8, 3), HASHES, "")
    month = {"month": "2026-05", "scans": 6, "mean_p_value": 0.25, "sampled": 6, "flagged": 6}
    assert again.finalize(calibration, 0.25).months == [month]
    again._tables.delete()
    query = "SELECT 1 FROM run WHERE name = 'patient_key'"
    assert again._tables._database.execute(query).fetchall() == []
    for query in ("SELECT * FROM sample", "SELECT * FROM months", "SELECT * FROM patients"):
        assert again._tables._database.execute(query).fetchall() == []


def test_a_month_is_told_by_its_patients_not_by_its_frames(fresh: Fresh) -> None:
    gathered = fresh()
    for i in range(20):
        gathered.add(f"{i:02d}", "one patient", torch.zeros(3), "2026-03", 0.5)
        gathered.add("one file", "", torch.zeros(3), "2026-04", 0.5)
        gathered.add(f"x{i:02d}", f"patient {i}", torch.zeros(3), "2026-05", 0.25 if i % 4 else 0.04)
        gathered.add(f"x{i:02d}", f"patient {i}", torch.zeros(3), "2026-05", 0.01)  # another frame of the file
    calibration = Calibration("c", np.arange(8.0), torch.zeros(8, 3), HASHES, "")
    (month,) = gathered.finalize(calibration, 0.05).months
    assert (month["month"], month["scans"], month["sampled"], month["flagged"]) == ("2026-05", 40, 20, 5)
    assert month["mean_p_value"] == pytest.approx((15 * 0.25 + 5 * 0.04 + 20 * 0.01) / 40, abs=1e-4)
