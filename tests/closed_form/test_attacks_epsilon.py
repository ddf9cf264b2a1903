"""Epsilon bounds against known values, their validity without a leak, and their power."""

import numpy as np
import pytest
from scipy import stats

from expunge.attacks import epsilon
from expunge.errors import BadInput


@pytest.mark.parametrize(("models", "value"), [(64, 2.82), (128, 3.53), (256, 4.23), (512, 4.93), (1000, 5.60), (10_000, 7.90)])
def test_ceilings(models, value):
    assert epsilon.ceiling(models, models) == pytest.approx(value, abs=5e-3)


def test_ceiling_by_hand():
    limit = 1 - 0.025 ** (1 / 512)
    assert epsilon.ceiling(512, 512) == pytest.approx(np.log(1 - limit - 1e-5) - np.log(limit), abs=1e-9)


@pytest.mark.parametrize(
    ("guesses", "correct", "value"), [(100, 60, 0.0519), (100, 75, 0.7022), (1000, 550, 0.0942), (1000, 700, 0.7320), (1000, 1000, 5.8091)]
)
def test_one_run(guesses, correct, value):
    assert epsilon.one_run(correct, guesses).value == pytest.approx(value, abs=1e-4)
    assert epsilon.one_run_p_value(value, correct, guesses) == pytest.approx(0.05, abs=5e-4)


def test_one_run_delta_by_hand():
    law = stats.binom(20, 1 / (1 + np.exp(-0.5)))
    worst = max((law.cdf(14) - law.cdf(15 - i - 1)) / i for i in range(1, 31))
    assert epsilon.one_run_p_value(0.5, 15, 20, 1e-3, 30) == pytest.approx(law.sf(14) + 2 * 30 * 1e-3 * worst, rel=1e-12)
    assert epsilon.one_run(90, 100, 1e-3, 200).value < epsilon.one_run(90, 100).value


def test_one_run_from_scores():
    made = np.random.default_rng(0)
    included = made.random(1000) < 0.5
    assert epsilon.one_run_from_scores(included + made.random(1000) / 2, included, 200).value == epsilon.one_run(200, 200).value
    hits = [epsilon.one_run_from_scores(made.normal(size=1000), made.random(1000) < 0.5, 200).value > 0 for _ in range(100)]
    assert np.mean(hits) < 0.1
    with pytest.raises(BadInput, match="even"):
        epsilon.one_run_from_scores(np.zeros(10), np.zeros(10, bool), 3)


@pytest.mark.parametrize(("mu", "values"), [(1, (2.3178, 3.1387, 4.3772)), (0.5, (0.9195, 1.3523, 1.9931)), (2, (5.9979, 7.5813, 9.9973))])
def test_gaussian_epsilon(mu, values):
    assert [epsilon.gaussian_epsilon(mu, delta) for delta in (1e-2, 1e-3, 1e-5)] == pytest.approx(values, abs=1e-4)


def test_gaussian_epsilon_at_its_ends():
    assert epsilon.gaussian_epsilon(0.0) == epsilon.gaussian_epsilon(1e-9) == 0
    assert epsilon.gaussian_delta(2.0, epsilon.gaussian_epsilon(2.0, 1e-5)) == pytest.approx(1e-5, rel=1e-6)
    with pytest.raises(BadInput):
        epsilon.gaussian_epsilon(1.0, 0.0)


@pytest.mark.parametrize("selection", ["split", "bonferroni", "multi_split"])
def test_no_leak_is_certified_where_there_is_none(selection):
    made = np.random.default_rng(0)
    pairs = [(made.normal(size=256), made.normal(size=256)) for _ in range(60)]
    assert np.mean([epsilon.clopper_pearson(*pair, selection=selection).value > 0 for pair in pairs]) < 0.05
    assert np.mean([epsilon.gaussian(*pair, selection=selection).value > 0 for pair in pairs[:30]]) < 0.1
    assert np.mean([epsilon.point(*pair) > 0 for pair in pairs]) > 0.9, "the point estimate is no bound"


def test_bounds_stay_below_the_truth_and_reach_a_useful_part_of_it():
    made = np.random.default_rng(1)
    pairs = [(made.normal(1, 1, 512), made.normal(size=512)) for _ in range(60)]
    truth = epsilon.gaussian_epsilon(1.0)
    split = [epsilon.clopper_pearson(*pair).value for pair in pairs]
    assert np.mean(split) == pytest.approx(0.81, abs=0.1)
    for selection in ("split", "bonferroni"):
        bounds = [epsilon.gaussian(*pair, selection=selection).value for pair in pairs]
        assert np.mean(np.array(bounds) > truth) < 0.05
        assert np.mean(bounds) > 2 * np.mean(split)


def test_a_perfect_attack_reaches_the_ceiling_of_its_half():
    for selection in ("split", "multi_split", "bonferroni"):
        bound = epsilon.clopper_pearson(np.full(100, 1.0), np.zeros(100), selection=selection)
        assert bound.value == pytest.approx(bound.ceiling, abs=0.8 if selection == "bonferroni" else 1e-12)
        assert bound.value <= bound.ceiling + 1e-12
    table = epsilon.convert(np.full(100, 1.0), np.zeros(100), one_run=epsilon.one_run(100, 100))
    assert table.point == np.inf and table.clopper_pearson.ceiling == epsilon.ceiling(50, 50)
    assert table.gaussian.value == table.gaussian.ceiling > table.clopper_pearson.value
    assert epsilon.convert(np.ones(10), np.zeros(10)).one_run is None


def test_a_rule_fixed_beforehand():
    assert epsilon.from_counts(0, 64, 0, 64) == epsilon.ceiling(64, 64)
    assert epsilon.from_counts(32, 64, 32, 64) == 0
    assert epsilon.from_counts(3, 500, 450, 500) == pytest.approx(epsilon.from_counts(450, 500, 3, 500))
    upper = stats.beta.ppf(0.975, 4, 497), stats.beta.ppf(0.975, 251, 250)
    assert epsilon.from_counts(3, 500, 250, 500) == pytest.approx(np.log((1 - 1e-5 - upper[1]) / upper[0]), rel=1e-12)
