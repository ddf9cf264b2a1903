"""Operating points of Gaussian pairs, without noise: samples are quantiles of the law."""

import numpy as np
import pytest
from scipy import integrate, stats

from expunge.attacks import epsilon, per_example, roc
from expunge.attacks.gaussian import kl_of_moments
from expunge.attacks.lira import log_ratio
from expunge.attacks.moments import Moments

GRID = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
RATES = (0.001, 0.01, 0.05, 0.1)


@pytest.mark.parametrize(
    ("shift", "rates", "area", "advantage"),
    [
        (0.5, (0.0048, 0.0339, 0.1261, 0.2172), 0.6382, 0.1974),
        (1, (0.0183, 0.0924, 0.2595, 0.3891), 0.7602, 0.3829),
        (2, (0.1378, 0.3721, 0.6388, 0.7638), 0.9214, 0.6827),
        (3, (0.4641, 0.7497, 0.9123, 0.9571), 0.9831, 0.8664),
    ],
)
def test_normal_shift(shift, rates, area, advantage):
    found = [roc.tpr_at_fpr(GRID + shift, GRID, at).value for at in RATES]
    assert found == pytest.approx(rates, abs=6e-4)
    assert roc.auc(GRID + shift, GRID) == pytest.approx(area, abs=1e-4)
    assert roc.advantage(GRID + shift, GRID) == pytest.approx(advantage, abs=1e-4)
    known = roc.normal_areas(shift)
    assert (known["auc"], known["advantage"]) == pytest.approx((area, advantage), abs=1e-4)


@pytest.mark.parametrize(
    ("scale", "rates"),
    [(0.25, (0.0040, 0.0400, 0.1981)), (0.5, (0.0020, 0.0200, 0.0998)), (2, (0.0999, 0.1978, 0.3271)), (3, (0.2727, 0.3906, 0.5136))],
)
def test_change_of_spread_is_invisible_to_a_monotone_score_and_visible_to_the_likelihood_ratio(scale, rates):
    inside, outside = (Moments(np.array([1e9]), np.array([0.0]), np.array([(1e9 - 1) * v])) for v in (scale**2, 1.0))
    scores = [log_ratio(x[:, None], inside, outside, inside.variance, outside.variance)[:, 0] for x in (GRID * scale, GRID)]
    assert [roc.tpr_at_fpr(*scores, at).value for at in RATES[:3]] == pytest.approx(rates, abs=6e-4)
    assert roc.auc(GRID * scale, GRID) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize(("spread", "area", "rate"), [(1, 0.6915, 0.0527), (3, 0.5885, 0.0222), (5, 0.5551, 0.0166)])
def test_a_population_attack_is_weak_where_examples_differ(spread, area, rate):
    scale = np.sqrt(1 + spread**2)
    assert roc.auc(GRID * scale + 1, GRID * scale) == pytest.approx(area, abs=1e-4)
    assert roc.tpr_at_fpr(GRID * scale + 1, GRID * scale, 0.01).value == pytest.approx(rate, abs=2e-4)


def test_all_measures_of_one_normal_shift_agree():
    def mean_of(function):
        return integrate.quad(function, -12, 13)[0]

    def p(x):
        return stats.norm.pdf(x, 1)

    def q(x):
        return stats.norm.pdf(x)

    jensen = mean_of(lambda x: (p(x) * np.log(2 * p(x) / (p(x) + q(x))) + q(x) * np.log(2 * q(x) / (p(x) + q(x)))) / 2)
    assert jensen == pytest.approx(0.11142, abs=1e-5) and jensen / np.log(2) == pytest.approx(0.16075, abs=1e-5)
    assert mean_of(lambda x: abs(p(x) - q(x)) / 2) == pytest.approx(roc.normal_areas(1)["advantage"], abs=1e-8)
    assert 1 - mean_of(lambda x: np.sqrt(p(x) * q(x))) == pytest.approx(roc.normal_areas(1)["squared_hellinger"], abs=1e-8)
    assert roc.normal_areas(1)["squared_hellinger"] == pytest.approx(0.1175, abs=1e-4)
    moments = [Moments(np.array([2.0]), np.array([m]), np.array([1.0])) for m in (1.0, 0.0)]
    assert kl_of_moments(*moments)[0] == roc.normal_areas(1)["kl"] == 0.5
    assert epsilon.gaussian_epsilon(1, 1e-5) == pytest.approx(4.3772, abs=1e-4)
    distance = per_example.kolmogorov_smirnov((GRID + 1)[:, None], GRID[:, None]).statistic[0]
    assert distance == pytest.approx(0.38292, abs=1e-5)


def test_standard_error_of_the_rate():
    made = np.random.default_rng(0)
    found = [roc.tpr_at_fpr(made.normal(1, 1, 10_000), made.normal(0, 1, 10_000), 0.01) for _ in range(300)]
    assert np.std([rate.value for rate in found]) == pytest.approx(0.0069, abs=0.0007)
    assert np.mean([rate.standard_error for rate in found]) == pytest.approx(0.0068, abs=0.0005)
    ratio = np.exp(stats.norm.isf(0.01) - 0.5)
    assert roc.true_positive_rate_error(0.0924, ratio, 0.01, 10_000, 10_000) == pytest.approx(0.0068, abs=5e-5)


@pytest.mark.parametrize(("n", "error"), [(50, 0.058), (100, 0.041), (200, 0.029), (512, 0.018), (1000, 0.013), (10_000, 0.0041)])
def test_null_standard_error(n, error):
    assert roc.null_standard_error(n, n) == pytest.approx(error, rel=0.02)


def test_a_rate_with_too_few_negatives_has_a_reason_and_no_value():
    rate = roc.tpr_at_fpr(GRID[:500], GRID[:999], 0.01)
    assert rate.value is None and "n = 999" in rate.reason and "1000 negatives" in rate.reason
    assert roc.calibrated_rate(GRID, GRID, GRID[:999], 0.01) is None


def test_the_advantage_at_a_threshold_from_other_scores_is_unbiased():
    made = np.random.default_rng(1)
    groups = [(made.normal(size=60), made.normal(size=60)) for _ in range(400)]
    assert np.mean([roc.advantage(*pair) for pair in groups]) > 0.1
    assert np.mean([roc.held_out_advantage(*pair) for pair in groups]) == pytest.approx(0, abs=0.02)
    assert roc.held_out_advantage(GRID + 1, GRID) == pytest.approx(0.3829, abs=0.01)


def test_a_rate_at_a_calibrated_threshold_measures_both_errors():
    made = np.random.default_rng(2)
    same = roc.calibrated_rate(made.normal(1, 1, 4000), made.normal(size=4000), made.normal(size=4000), 0.05)
    assert same.false_positive.low < 0.05 < same.false_positive.high
    other = roc.calibrated_rate(made.normal(1, 1, 4000), made.normal(0.5, 1, 4000), made.normal(size=4000), 0.05)
    assert other.false_positive.low > 0.05


def test_critical_distance_of_the_distribution_test():
    for n, critical in ((50, 0.272), (100, 0.192), (200, 0.136), (512, 0.085)):
        made = np.random.default_rng(n)
        tests = per_example.kolmogorov_smirnov(made.normal(size=(n, 4000)), made.normal(size=(n, 4000)))
        assert np.mean(tests.statistic > critical) == pytest.approx(0.04, abs=0.02)


def test_per_example_tests_hold_their_level_and_find_a_shift():
    made = np.random.default_rng(3)
    for models in (8, 32):
        pair = made.normal(size=(models, 4000)), made.normal(size=(models, 4000))
        assert np.mean(per_example.mann_whitney(*pair).p_value < 0.05) == pytest.approx(0.045, abs=0.012)
        assert per_example.mann_whitney(*pair).rejected().mean() < 0.01
    shifted = per_example.mann_whitney(pair[0] + (np.arange(4000) < 400) * 2, pair[1]).rejected()
    assert shifted[:400].mean() > 0.99 and shifted[400:].sum() < 0.1 * shifted.sum()
