from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medood.evaluation.baselines import pixel_knn
from medood.evaluation.faults import FAULTS
from medood.evaluation.metrics import separation

values = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=20)


@given(positives=values, negatives=values)
@settings(max_examples=60, deadline=None)
def test_auroc_and_fpr95_against_a_count(positives: list[float], negatives: list[float]) -> None:
    result = separation(np.array(positives), np.array(negatives), repeats=10)
    wins = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    assert result.auroc == pytest.approx(np.mean(wins))
    cuts = [cut for cut in positives if np.mean([p >= cut for p in positives]) >= 0.95]
    rates = [np.mean([n >= cut for n in negatives]) for cut in cuts]  # everything at or above the cut is flagged
    assert result.fpr95 == pytest.approx(min(rates))
    assert 0 <= result.low <= result.high <= 1


def test_the_interval_covers_and_widens_when_scans_share_patients() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20).astype(str), 10)
    positives = np.repeat(rng.normal(1, 1, 20), 10) + rng.normal(0, 0.05, 200)
    negatives = rng.normal(0, 1, 400)
    by_scan = separation(positives, negatives)
    by_patient = separation(positives, negatives, positive_groups=patients)
    assert by_scan.low < by_scan.auroc < by_scan.high
    assert by_patient.high - by_patient.low > 1.5 * (by_scan.high - by_scan.low)


def test_the_bootstrap_agrees_with_a_slow_one() -> None:
    rng = np.random.default_rng(1)
    positives, negatives = rng.normal(0.7, 1, 60), rng.normal(0, 1, 80)
    slow = []
    for _ in range(2000):
        p, n = rng.choice(positives, 60), rng.choice(negatives, 80)
        slow.append((p[:, None] > n).mean() + 0.5 * (p[:, None] == n).mean())
    result = separation(positives, negatives, repeats=2000)
    np.testing.assert_allclose([result.low, result.high], np.quantile(slow, [0.025, 0.975]), atol=0.012)


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(ValueError, match="both sides"):
        separation(np.zeros(0), np.ones(3))


def test_pixel_knn_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    queries, reference = (rng.random((n, 32, 32)).astype(np.float32) for n in (3, 5))
    for query, value in zip(queries, pixel_knn(queries, reference), strict=True):
        correlations = [np.corrcoef(query.ravel(), other.ravel())[0, 1] for other in reference]
        assert value == pytest.approx(-max(correlations), abs=1e-5)
    assert pixel_knn(reference[:1], reference)[0] == pytest.approx(-1, abs=1e-5)


@pytest.mark.parametrize("name", FAULTS)
def test_faults_change_the_picture_and_stay_pictures(name: str) -> None:
    pixels = np.random.default_rng(0).random((41, 30)).astype(np.float32)
    faulty = FAULTS[name](pixels, np.random.default_rng(3))
    assert faulty.shape != pixels.shape or np.abs(faulty - pixels).max() > 0.1
    assert 0 <= faulty.min() <= faulty.max() <= 1


def test_rot90_is_counter_clockwise_and_crop_is_the_upper_left_quarter() -> None:
    pixels = np.arange(16, dtype=np.float32).reshape(4, 4)
    rng = np.random.default_rng(0)
    assert FAULTS["rot90"](pixels, rng)[0, 0] == 3
    np.testing.assert_array_equal(FAULTS["crop_quarter"](pixels, rng), pixels[:2, :2])
    assert sorted(FAULTS["perm4"](pixels, rng).ravel()) == sorted(pixels.ravel())
