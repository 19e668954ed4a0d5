from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from medood.detection.conformal import check_rate, flagged_at_fdr, fpr_interval, p_values, reachable, threshold
from medood.errors import MedoodError

numbers = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@given(scores=numbers, calibration=numbers)
def test_p_values_against_a_count(scores: list[float], calibration: list[float]) -> None:
    expected = [(1 + sum(c >= s for c in calibration)) / (len(calibration) + 1) for s in scores]
    np.testing.assert_allclose(p_values(np.array(scores), np.array(calibration)), expected)


@given(scores=numbers, calibration=numbers, fpr=st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5, 0.9]))
def test_above_the_threshold_is_flagged_and_nothing_else(scores: list[float], calibration: list[float], fpr: float) -> None:
    flagged = p_values(np.array(scores), np.array(calibration)) <= fpr + 1e-12
    np.testing.assert_array_equal(flagged, np.array(scores) > threshold(np.array(calibration), fpr))


@pytest.mark.parametrize("fpr", [0.05, 0.1])
def test_the_false_alarm_rate_holds_on_exchangeable_scans(fpr: float) -> None:
    """1000 repetitions of 99 calibration scans and one new scan: the rate is within its binomial band."""
    rng = np.random.default_rng(0)
    flagged = sum(bool(p_values(x[:1], x[1:])[0] <= fpr) for x in rng.normal(size=(1000, 100)))
    low, high = binom.ppf([0.001, 0.999], 1000, fpr)
    assert low <= flagged <= high


def test_rates_that_cannot_be_stated_are_refused() -> None:
    check_rate(0.05, 19)
    with pytest.raises(MedoodError, match=r"no rate below 0\.053"):
        check_rate(0.05, 18)
    for rate in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(MedoodError, match="expected a rate"):
            check_rate(rate, 100)


def test_a_false_discovery_rate_is_checked_too() -> None:
    check_rate(0.001, 5, "--fdr")
    with pytest.raises(MedoodError, match="--fdr is 1"):
        check_rate(1.0, 100, "--fdr")


def test_realised_rates_follow_the_stated_distribution() -> None:
    """Given one calibration, the true rate is a draw of the stated Beta: 90 % of 1000 calibrations lie in its interval."""
    rng = np.random.default_rng(1)
    low, high = fpr_interval(99, 0.05)
    rates = np.array([1.0 - threshold(rng.uniform(size=99), 0.05) for _ in range(1000)])  # of uniform scores
    inside = int(((rates >= low) & (rates <= high)).sum())
    assert binom.ppf(0.001, 1000, 0.9) <= inside <= binom.ppf(0.999, 1000, 0.9)
    assert rates.mean() == pytest.approx(0.05, abs=3 * 0.022 / 1000**0.5)
    assert fpr_interval(10, 0.05) == (0.0, 0.0)


@given(p=st.lists(st.integers(1, 20).map(lambda v: v / 20), min_size=0, max_size=30), fdr=st.sampled_from([0.05, 0.2, 0.5]))
def test_benjamini_hochberg_against_its_definition(p: list[float], fdr: float) -> None:
    ordered = sorted(p)
    passing = [k for k in range(1, len(p) + 1) if ordered[k - 1] <= k * fdr / len(p) + 1e-12]
    limit = ordered[passing[-1] - 1] if passing else -1.0
    np.testing.assert_array_equal(flagged_at_fdr(np.array(p), fdr), np.array(p) <= limit)


def test_the_false_discovery_rate_holds_over_1000_archives() -> None:
    """80 scans that belong and 20 that do not: over 1000 calibrations the mean share of false ones is at most 0.1 x 0.8."""
    rng = np.random.default_rng(2)
    shares = []
    for _ in range(1000):
        scores = np.r_[rng.normal(size=80), rng.normal(4.0, size=20)]
        flagged = flagged_at_fdr(p_values(scores, rng.normal(size=200)), 0.1)
        shares.append(flagged[:80].sum() / max(flagged.sum(), 1))
    assert np.mean(shares) <= 0.08 + 3 * np.std(shares) / 1000**0.5


@pytest.mark.parametrize(("scans", "count", "fdr"), [(100, 99, 0.1), (1000, 850, 0.05), (5, 999, 0.2), (30, 19, 0.15)])
def test_what_can_be_reached_is_the_least_number(scans: int, count: int, fdr: float) -> None:
    least = reachable(scans, count, fdr)
    for number, found in ((least, True), (least - 1, False)):
        p = np.r_[np.full(max(number, 0), 1 / (count + 1)), np.ones(scans - max(number, 0))]
        assert bool(flagged_at_fdr(p, fdr).any()) is (found and number > 0)


def test_one_calibration_may_exceed_the_false_discovery_rate_that_holds_on_average() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(80):
        calibration = rng.normal(size=200)
        by_archive = []
        for _ in range(20):
            scores = np.r_[rng.normal(4, 1, 100), rng.normal(size=900)]
            flagged = flagged_at_fdr(p_values(scores, calibration), 0.1)
            by_archive.append(flagged[100:].sum() / max(flagged.sum(), 1))
        shares.append(np.mean(by_archive))
    assert np.mean(shares) < 0.1
    assert 0.12 < np.mean(np.array(shares) > 0.1) < 0.42, "about a quarter, as docs/explanation/decisions.md says"
