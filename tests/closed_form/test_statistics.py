"""Intervals, bands and tests against known values and by simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from expunge import statistics
from expunge.statistics import NotEnoughEvidence


def test_mean_interval():
    interval = statistics.mean_interval([1.0, 2.0, 3.0])
    assert (interval.mean, interval.n) == (2, 3)
    assert interval.high - 2 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert interval.low + interval.high == pytest.approx(4)


def test_prediction_band():
    band = statistics.prediction_band([1.0, 2.0, 3.0])
    assert band.high - 2 == pytest.approx(4.302653 * np.sqrt(4 / 3), rel=1e-6)
    assert statistics.prediction_band([1.0, 2.0, 3.0], of_mean=4).high - 2 == pytest.approx(4.302653 * np.sqrt(1 / 4 + 1 / 3), rel=1e-6)
    assert band.p_value(band.high) == pytest.approx(0.05) and band.p_value(2) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: statistics.mean_interval([1.0]),
        lambda: statistics.prediction_band([1.0]),
        lambda: statistics.prediction_band([]),
        lambda: statistics.prediction_band([1.0, np.nan]),
        lambda: statistics.prediction_band([0.1 + 0.2, 0.3]),
        lambda: statistics.pair_band(np.zeros((2, 2))),
        lambda: statistics.pair_band(np.ones((4, 4))),
        lambda: statistics.clopper_pearson_upper(0, 0),
        lambda: statistics.sign_flip_test([]),
        lambda: statistics.bootstrap(np.array([1.0])),
        lambda: statistics.equivalence([0.1], -1, 1),
        lambda: statistics.equivalence([0.1, 0.1], -1, 1),
    ],
)
def test_thin_evidence_raises_and_never_gives_a_number(call):
    with pytest.raises(NotEnoughEvidence):
        call()


def test_equal_values_get_the_width_of_one_example():
    band = statistics.prediction_band([100.0, 100.0, 100.0], resolution=0.2)
    assert band.high - 100 == pytest.approx(4.302653 * 0.2 * np.sqrt(4 / 3), rel=1e-6)


@pytest.mark.parametrize(("models", "seeds"), [(2, 1), (4, 4), (8, 3)])
def test_prediction_band_covers_95_percent(models, seeds):
    made = np.random.default_rng(0)
    out = [statistics.prediction_band(made.normal(size=models), seeds).p_value(made.normal(size=seeds).mean()) < 0.05 for _ in range(1500)]
    assert np.mean(out) == pytest.approx(0.05, abs=0.017)


def absolute(a, b):
    return abs(a[0] - b[0])


def signed(a, b):
    return a[0] - b[0]


def euclidean(a, b):
    return np.linalg.norm(a - b)


@pytest.mark.parametrize("distance", [absolute, signed, euclidean])
def test_pair_band_does_not_raise_more_false_alarms_than_stated(distance):
    made, alarms = np.random.default_rng(0), []
    for _ in range(500):
        retrained, unlearned = made.normal(size=(4, 10)), made.normal(size=(4, 10))
        pairs = np.array([[distance(a, b) for b in retrained] for a in retrained])
        value = np.mean([distance(a, b) for a, b in zip(unlearned, retrained, strict=True)])
        alarms.append(statistics.pair_band(pairs, of_mean=4).p_value(value) < 0.05)
    assert np.mean(alarms) <= 0.06


def test_pair_band_ignores_the_diagonal_and_detects_a_gross_shift():
    pairs = np.random.default_rng(0).normal(1, 0.1, size=(5, 5))
    band = statistics.pair_band(pairs)
    np.fill_diagonal(pairs, np.nan)
    assert statistics.pair_band(pairs) == band
    assert band.p_value(3.0) < 0.001


def test_clopper_pearson():
    assert statistics.clopper_pearson_upper(0, 100, 0.05) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert statistics.clopper_pearson(0, 10).low == 0 and statistics.clopper_pearson(10, 10).high == 1
    ours, theirs = statistics.clopper_pearson(7, 20), stats.binomtest(7, 20).proportion_ci()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    with pytest.raises(ValueError, match="from 0 to 3"):
        statistics.clopper_pearson(4, 3)


@pytest.mark.parametrize(("pairs", "smallest"), [(3, 0.25), (5, 0.0625), (6, 0.03125), (8, 0.0078125), (10, 0.001953125)])
def test_smallest_sign_flip_p_value(pairs, smallest):
    assert statistics.sign_flip_test(np.arange(1.0, pairs + 1)) == pytest.approx(smallest)


def test_sign_flip_enumerates_and_samples_alike():
    x = np.random.default_rng(0).normal(0.4, 1, 9)
    naive = np.mean([abs(np.dot(signs, x)) >= abs(x.sum()) - 1e-12 for signs in itertools.product([-1, 1], repeat=9)])
    assert statistics.sign_flip_test(x) == pytest.approx(naive)
    many = np.random.default_rng(1).normal(0.3, 1, 20)
    exact = stats.permutation_test((many,), np.mean, permutation_type="samples", n_resamples=20_000, rng=0).pvalue
    assert statistics.sign_flip_test(many, 20_000) == pytest.approx(exact, abs=0.015)


def test_multiplicity_known_values():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.benjamini_hochberg([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert len(statistics.holm([])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_multiplicity_keeps_order_and_bounds(p_values):
    p = np.array(p_values)
    step_up, step_down = statistics.benjamini_hochberg(p), statistics.holm(p)
    assert np.all((p <= step_up + 1e-12) & (step_up <= step_down + 1e-12) & (step_down <= np.minimum(1, p * len(p)) + 1e-12))
    assert step_up == pytest.approx(stats.false_discovery_control(p))


def test_bootstrap_of_models_and_examples_is_wider_than_of_examples_alone():
    made = np.random.default_rng(0)
    values = made.normal(size=(8, 1)) + 0.1 * made.normal(size=(8, 500))
    both, examples = statistics.bootstrap(values), statistics.bootstrap(values.mean(axis=0))
    assert both.low < both.mean < both.high
    assert both.high - both.low > 10 * (examples.high - examples.low)
    normal = statistics.bootstrap(made.normal(size=400))
    assert normal.high - normal.low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_equivalence_needs_precision_and_not_a_missing_difference():
    made = np.random.default_rng(0)
    precise, noisy = made.normal(0, 0.1, 10), made.normal(0, 5, 10)
    assert statistics.equivalence(precise, -0.5, 0.5) < 0.001
    assert statistics.equivalence(noisy, -0.5, 0.5) > 0.05
    one_sided = [
        stats.ttest_1samp(precise, -0.5, alternative="greater").pvalue,
        stats.ttest_1samp(precise, 0.5, alternative="less").pvalue,
    ]
    assert statistics.equivalence(precise, -0.5, 0.5) == pytest.approx(max(one_sided))
    with pytest.raises(ValueError, match="low < high"):
        statistics.equivalence(precise, 1, -1)
