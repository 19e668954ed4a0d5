from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from medood.evaluation.acquisition_faults import FAULTS
from medood.evaluation.baselines import pixel_knn
from medood.evaluation.metrics import FEWEST, FIGURES, Separation, difference, draw, draw_statistics, mean, separation, share

values = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=20)


def alone(count: int, side: str) -> npt.NDArray[np.str_]:
    """Every scan a patient of its own."""
    return np.array([f"{side}{i}" for i in range(count)])


def separated(positives: list[float], negatives: list[float], repeats: int = 10) -> Separation:
    draws = draw(alone(len(positives), "p"), alone(len(negatives), "n"), repeats, 0)
    return separation(np.array(positives), np.array(negatives), draws)


@given(positives=values, negatives=values)
@settings(max_examples=60, deadline=None)
def test_every_figure_against_a_count(positives: list[float], negatives: list[float]) -> None:
    result = separated(positives, negatives)
    wins = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    assert result.auroc.value == pytest.approx(np.mean(wins))
    truth = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
    assert result.aupr.value == pytest.approx(average_precision_score(truth, positives + negatives))
    cuts = [*sorted({*positives, *negatives}), np.inf]  # everything at or above a cut is flagged
    caught = [np.mean([p >= cut for p in positives]) for cut in cuts]
    alarms = [np.mean([n >= cut for n in negatives]) for cut in cuts]
    assert result.fpr95.value == pytest.approx(min(a for a, c in zip(alarms, caught, strict=True) if c >= 0.95))
    for figure, rate in ((result.detected_at_1, 0.01), (result.detected_at_5, 0.05)):
        assert figure.value == pytest.approx(max(c for a, c in zip(alarms, caught, strict=True) if a <= rate))
    for name in FIGURES:
        figure = getattr(result, name)
        assert min(len(positives), len(negatives)) < FEWEST or 0 <= figure.low <= figure.high <= 1
        assert np.isnan(figure.low) == (min(len(positives), len(negatives)) < FEWEST)


def test_the_interval_covers_and_widens_when_scans_share_patients() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20).astype(str), 10)
    positives = np.repeat(rng.normal(1, 1, 20), 10) + rng.normal(0, 0.05, 200)
    negatives = rng.normal(0, 1, 400)
    by_scan = separation(positives, negatives, draw(alone(200, "p"), alone(400, "n"), 1000, 0)).auroc
    by_patient = separation(positives, negatives, draw(patients, alone(400, "n"), 1000, 0)).auroc
    assert by_scan.low < by_scan.value < by_scan.high
    assert by_patient.high - by_patient.low > 1.5 * (by_scan.high - by_scan.low)


def test_the_bootstrap_agrees_with_a_slow_one() -> None:
    rng = np.random.default_rng(1)
    positives, negatives = rng.normal(0.7, 1, 60), rng.normal(0, 1, 80)
    slow = []
    for _ in range(2000):
        p, n = rng.choice(positives, 60), rng.choice(negatives, 80)
        truth = np.r_[np.ones(60), np.zeros(80)]
        slow.append([roc_auc_score(truth, np.r_[p, n]), average_precision_score(truth, np.r_[p, n])])
    result = separated(list(positives), list(negatives), 2000)
    for figure, column in ((result.auroc, 0), (result.aupr, 1)):
        expected = np.quantile(np.array(slow)[:, column], [0.025, 0.975])
        np.testing.assert_allclose([figure.low, figure.high], expected, atol=0.015)


def test_a_patient_on_both_sides_is_drawn_once() -> None:
    draws = draw(np.array(["a", "b", "c", "c"]), np.array(["c", "d"]), 50, 0)
    np.testing.assert_array_equal(draws.positives[0], 1)
    np.testing.assert_array_equal(draws.positives[:, 2], draws.negatives[:, 0])
    np.testing.assert_array_equal(draws.positives[:, :2].sum(axis=1), 2)
    assert draws.positives[1:, 0].std() > 0


def test_infinite_scores_are_the_highest() -> None:
    assert separated([np.inf, 2.0], [1.0, 0.0]).auroc.value == 1
    assert separated([0.5], [np.inf]).auroc.value == 0


def test_paired_differences_of_the_same_scores_are_nothing_and_of_others_what_they_are() -> None:
    rng = np.random.default_rng(0)
    p, n = rng.normal(1.5, 1, 150), rng.normal(0, 1, 150)
    draws = draw(alone(150, "p"), alone(150, "n"), 500, 0)
    same = difference((p, n), (p, n), draws)
    assert (same.auroc.value, same.auroc.low, same.auroc.high, same.p_value) == (0, 0, 0, 1)
    noisy = p + rng.normal(0, 3, 150), n + rng.normal(0, 3, 150)
    gap = difference((p, n), noisy, draws)
    assert gap.auroc.value == pytest.approx(separation(p, n, draws).auroc.value - separation(*noisy, draws).auroc.value)
    assert 0 < gap.auroc.low < gap.auroc.value < gap.auroc.high
    assert gap.p_value == pytest.approx(2 / 501)


def test_paired_intervals_are_narrower_than_unpaired_ones() -> None:
    rng = np.random.default_rng(1)
    p, n = rng.normal(1, 1, 150), rng.normal(0, 1, 150)
    other = p + rng.normal(0, 0.1, 150), n + rng.normal(0, 0.1, 150)
    first, second = (draw(alone(150, "p"), alone(150, "n"), 500, seed) for seed in (0, 1))
    paired = difference((p, n), other, first).auroc
    unpaired = np.quantile(draw_statistics(p, n, first)[1:, 0] - draw_statistics(*other, second)[1:, 0], [0.025, 0.975])
    assert paired.high - paired.low < 0.5 * (unpaired[1] - unpaired[0])


def test_the_mean_by_group() -> None:
    one_patient_each = mean(np.r_[np.ones(30), np.zeros(70)], alone(100, "a"), 1000, 0)
    assert one_patient_each.value == pytest.approx(0.3)
    assert one_patient_each.high - one_patient_each.low == pytest.approx(2 * 1.96 * (0.21 / 100) ** 0.5, abs=0.03)
    ten_patients = mean(np.r_[np.ones(30), np.zeros(70)], np.repeat(alone(10, "a"), 10), 1000, 0)
    assert ten_patients.high - ten_patients.low > 2 * (one_patient_each.high - one_patient_each.low)


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(ValueError, match="both sides"):
        draw(alone(0, "p"), alone(3, "n"), 10, 0)


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


def test_none_and_all_have_an_interval() -> None:
    groups = np.array([f"p{i}" for i in range(50)])
    none, everything = share(np.zeros(50, bool), groups, 20, 0), share(np.ones(50, bool), groups, 20, 0)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1.96**2 / (50 + 1.96**2), abs=1e-4)
    assert (everything.value, everything.high) == (1.0, 1.0)
    assert everything.low == pytest.approx(1 - none.high)
    assert np.isnan(share(np.zeros(4, bool), groups[:4], 20, 0).high)
    half = np.arange(50) < 25
    assert share(half, groups, 200, 0) == mean(half.astype(float), groups, 200, 0)
