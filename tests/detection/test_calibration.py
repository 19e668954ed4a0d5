from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from medood.detection.calibration import check_fpr, p_values, threshold
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
    check_fpr(0.05, 19)
    with pytest.raises(MedoodError, match=r"no rate below 0\.053"):
        check_fpr(0.05, 18)
    for rate in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(MedoodError, match="expected a rate"):
            check_fpr(rate, 100)
