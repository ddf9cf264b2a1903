"""Games with disjoint models, tests on whole sets, the swap test, quantile regression, completeness and dose-response."""

import numpy as np
import pytest
from scipy import stats
from threadpoolctl import threadpool_limits

from expunge.attacks import epsilon, lira, margins, quantile, roc, set_level, swap, ulira
from expunge.attacks.completeness import completeness
from expunge.attacks.dose import dose_response
from expunge.errors import BadInput
from expunge.statistics import NotEnoughEvidence

EXAMPLES = 1500


@pytest.fixture(autouse=True)
def one_thread():
    """Small matrices on shared cores: threads that wait for each other cost more than they bring."""
    with threadpool_limits(1):
        yield


def pool(models, forget=0.0, kept=0.0, seed=0, narrow=1.0):
    """Return margins ``[models, n]`` and states of a balanced design; forgotten examples are shifted by ``forget``, others by ``kept``."""
    made, states = np.random.default_rng(seed), margins.design(models, EXAMPLES, 3, seed)
    noise = made.normal(size=states.shape) * np.where(states == margins.FORGET, narrow, 1.0)
    x = made.normal(0, 3, EXAMPLES) + noise + forget * (states == margins.FORGET) + kept * (states == margins.IN)
    return x.astype(np.float32), states


def attack(x, states, **options):
    return ulira.cross_fit(ulira.privacy_game(x, states), **{"folds": 3, "block": 3, **options})


@pytest.mark.parametrize("models", [9, 18, 36, 96])
def test_no_leak_gives_one_half_at_every_number_of_models(models):
    attacked = attack(*pool(models, seed=models))
    found = attacked.mean_auc()
    assert found.value == pytest.approx(0.5, abs=0.015)
    assert abs(found.value - 0.5) < 4 * found.standard_error
    assert attacked.concatenated_auc() == pytest.approx(0.5, abs=0.015)
    assert attacked.balanced_accuracy() == pytest.approx(0.5, abs=0.015)
    assert attacked.true_positive_rate(0.01).value == pytest.approx(0.01, abs=0.005)
    assert epsilon.clopper_pearson(*ulira.independent_trials(attacked)).value == 0


@pytest.mark.parametrize("models", [9, 18, 36, 96])
def test_a_leak_is_seen_as_the_likelihood_ratio_attack_sees_it(models):
    found = attack(*pool(models, forget=1.0, seed=models))
    assert found.mean_auc().value == pytest.approx({9: 0.68, 18: 0.722, 36: 0.745, 96: 0.756}[models], abs=0.02)
    if models == 96:
        assert found.true_positive_rate(0.01).value == pytest.approx(0.09, abs=0.012)
        assert found.balanced_accuracy() == pytest.approx(0.6915, abs=0.01)


def test_standard_error_over_models_covers():
    """Models with a shift of their own: examples share it, so that an error over examples alone would be far too small."""
    made, hits, narrow = np.random.default_rng(0), [], []
    for _ in range(60):
        x, y = ((made.normal(size=(24, 200)) + made.normal(size=(24, 1)) * 0.5).astype(np.float32) for _ in range(2))
        found = ulira.cross_fit(ulira.fixed_efficacy_game(x, y), folds=3).mean_auc()
        hits.append(abs(found.value - 0.5) < 1.96 * found.standard_error)
        narrow.append(abs(found.value - 0.5) < 1.96 * found.examples_error)
    assert len(hits) == 60 and np.mean(hits) > 0.85 > np.mean(narrow)


def test_games_pick_their_entries():
    x, states = pool(6)
    privacy, membership = ulira.privacy_game(x, states), ulira.membership_game(x, states)
    assert (privacy.positive_mask == (states == 2)).all() and (privacy.negative_mask == (states == 0)).all()
    assert (membership.positive_mask == (states != 0)).all() and (membership.negative_mask == (states == 0)).all()
    efficacy = ulira.efficacy_game(x, x + 1, states)
    assert (efficacy.negative_mask == (states != 1)).all() and efficacy.negative is not x
    after, before = ulira.collateral_games(x, x + 1, states)
    assert after.positive is x and (before.negative == x + 1).all() and (after.positive_mask == (states == 1)).all()


def test_collateral_risk_is_the_difference_of_two_games():
    original, states = pool(96, forget=1.0, kept=1.0)
    unlearned, _ = pool(96, forget=0.0, kept=2.0)
    after, before = (ulira.cross_fit(game, 3, block=3).mean_auc().value for game in ulira.collateral_games(unlearned, original, states))
    assert (before, after) == pytest.approx((0.7602, 0.9214), abs=0.01)


def test_a_change_of_spread_alone_is_seen_from_64_models_a_side():
    narrowed = attack(*pool(360, narrow=0.3, seed=1)).mean_auc().value
    assert narrowed > 0.7
    assert attack(*pool(360, narrow=0.3, seed=1), sides="equal").mean_auc().value == pytest.approx(0.5, abs=0.02)


def test_calibrated_scores_have_one_law_for_all_examples():
    made, states = np.random.default_rng(0), margins.design(198, EXAMPLES, 3)
    scale = np.where(np.arange(EXAMPLES) % 2, 0.1, 5.0)
    x = (made.normal(size=states.shape) * scale).astype(np.float32)
    folds = attack(x, states).folds
    rates = [np.mean(np.concatenate([f.calibrated[1][:, k::2][f.masks[1][:, k::2]] for f in folds]) > 1.645) for k in (0, 1)]
    assert rates[0] == pytest.approx(rates[1], abs=0.005) and rates[0] == pytest.approx(0.055, abs=0.01)


def test_forgetting_again_what_was_retrained_is_no_leak_and_doing_nothing_is_membership():
    states = margins.design(48, EXAMPLES, 3, 4)
    made = np.random.default_rng(4)
    center = made.normal(0, 3, EXAMPLES)

    def models(trained):
        return (center + trained + made.normal(size=states.shape)).astype(np.float32)

    original, retrained, fresh = models(states != 0), models(states == 1), models(states == 1)
    exact = ulira.cross_fit(ulira.efficacy_game(retrained, fresh, states), 4, block=3).mean_auc()
    identity = ulira.cross_fit(ulira.efficacy_game(original, fresh, states), 4, block=3).mean_auc()
    membership = ulira.cross_fit(ulira.membership_game(original, states), 4, block=3).mean_auc()
    assert exact.value == pytest.approx(0.5, abs=0.01)
    assert identity.value == pytest.approx(0.7602, abs=0.02) and membership.value == pytest.approx(0.7602, abs=0.02)


def test_one_trial_a_model():
    x, states = pool(30, seed=2)
    positive, negative = ulira.independent_trials(attack(x, states))
    assert len(positive) == len(negative) == 30
    sizes = [[len(side) for side in ulira.independent_trials(attack(x, states), fold)] for fold in range(3)]
    assert sorted(sizes) == [[9, 9], [9, 9], [12, 12]]


def test_thin_games_say_what_is_missing():
    x, states = pool(6)
    with pytest.raises(BadInput, match="folds"):
        ulira.cross_fit(ulira.privacy_game(x, states), folds=7)
    with pytest.raises(BadInput, match="targets"):
        ulira.cross_fit(ulira.privacy_game(x, states), folds=1)
    with pytest.raises(NotEnoughEvidence, match="no inside model"):
        ulira.cross_fit(ulira.privacy_game(x, np.where(states == 2, 1, states).astype(np.uint8)), folds=2)
    assert attack(*pool(9)).true_positive_rate(0.001).value is None


def test_classifier_on_whole_sets_sees_diffuse_shifts():
    assert set_level.optimal_auc(np.full(500, 0.1)) == pytest.approx(0.943, abs=5e-4)
    made = np.random.default_rng(0)
    pair = [(made.normal(size=(4000, 500)) + step) @ np.full(500, 0.1) for step in (0.1, 0)]
    assert roc.auc(*pair) == pytest.approx(0.943, abs=0.006)
    found = [
        set_level.classifier_test(made.normal(size=(512, 10)) + np.sqrt(0.5), made.normal(size=(512, 10)), permutations=5) for _ in range(4)
    ]
    assert np.mean([each.auc for each in found]) == pytest.approx(0.943, abs=0.012)
    diffuse = set_level.classifier_test(made.normal(size=(512, 500)) + 0.1, made.normal(size=(512, 500)), permutations=200)
    noise = 500 * 2 / (512 * 0.8)  # of the estimated direction
    assert diffuse.auc == pytest.approx(stats.norm.cdf(5 / np.sqrt(5 + noise) / np.sqrt(2)), abs=0.03)
    assert diffuse.p_value == 1 / 201 and 0 < diffuse.standard_error < diffuse.null_standard_error
    assert epsilon.clopper_pearson(diffuse.unlearned, diffuse.retrained).value > 0.5


@pytest.mark.parametrize("classifier", ["lda", "logistic"])
def test_whole_set_tests_hold_their_level(classifier):
    made, runs = np.random.default_rng(1), 40 if classifier == "lda" else 6
    found = [
        set_level.classifier_test(made.normal(size=(24, 40)), made.normal(size=(20, 40)), classifier, 4, 99 if runs == 40 else 9)
        for _ in range(runs)
    ]
    assert np.mean([each.auc for each in found]) == pytest.approx(0.5, abs=0.35 / np.sqrt(runs))
    assert np.mean([each.p_value <= 0.1 for each in found]) < 0.1 + 4 * 0.3 / np.sqrt(runs)
    shifted = set_level.classifier_test(made.normal(size=(24, 40)) + 1, made.normal(size=(20, 40)), classifier, 4, 19)
    assert shifted.auc > 0.95 and shifted.p_value == 0.05


def test_mean_discrepancy():
    made = np.random.default_rng(2)
    null = [set_level.mean_discrepancy(made.normal(size=(20, 30)), made.normal(size=(24, 30)), permutations=99) for _ in range(40)]
    assert np.mean([each.value for each in null]) == pytest.approx(0, abs=4 * np.std([each.value for each in null]) / np.sqrt(60))
    assert np.mean([each.p_value <= 0.1 for each in null]) < 0.26
    narrowed = set_level.mean_discrepancy(made.normal(size=(40, 30)) / 2, made.normal(size=(40, 30)))
    assert narrowed.p_value == 1 / 1001


def test_whole_set_tests_need_variation():
    for test in (set_level.classifier_test, set_level.mean_discrepancy):
        with pytest.raises(NotEnoughEvidence):
            test(np.ones((6, 3)), np.ones((6, 3)))
    with pytest.raises(BadInput):
        set_level.classifier_test(np.ones((3, 3)), np.ones((6, 3)))


def test_swap_with_one_retrained_model_is_exactly_zero():
    made = np.random.default_rng(0)
    about_s, about_t = made.random((3, 12)), made.random((3, 12))
    signed = swap.signed_advantages(about_s, about_t, about_t, about_s)
    assert (signed == 0).all() and swap.swap_test(signed).quality == 1


def test_swap_of_exact_unlearning_is_zero_on_average_whatever_the_sets():
    made, splits = np.random.default_rng(1), 4000
    worlds = made.normal(size=(2, splits))
    about_s, about_t = stats.norm.cdf(worlds - 1), stats.norm.cdf(worlds + 1)  # T' looks far more like training data
    signed = swap.signed_advantages(about_s[0], about_t[1], about_t[0], about_s[1])
    found = swap.swap_test(signed)
    assert found.advantage < 3 * found.standard_error
    confounded = about_s[0] - about_t[0]
    assert abs(confounded.mean()) > 0.4


def test_swap_respects_its_bound():
    """Randomised response: each world's answer is right with probability e^eps / (1 + e^eps)."""
    made, eps = np.random.default_rng(2), 0.7
    right = np.exp(eps) / (1 + np.exp(eps))
    answers = [(made.random(200_000) < chance).astype(float) for chance in (right, right, 1 - right, 1 - right)]
    assert swap.swap_test(swap.signed_advantages(*answers)).advantage == pytest.approx(np.tanh(eps / 2), abs=0.005)
    assert np.tanh(eps / 2) < np.tanh(eps)


def test_swap_adversary_is_chosen_on_other_splits():
    made = np.random.default_rng(3)
    found = swap.swap_test(made.uniform(-0.2, 0.2, size=(200, 60)) + (np.arange(200) == 7)[:, None] * 0.5)
    assert found.adversary == 7 and found.splits == 30
    null = [swap.swap_test(np.random.default_rng(seed).uniform(-0.2, 0.2, size=(200, 60))).advantage for seed in range(50)]
    assert np.mean(null) < 0.025
    with pytest.raises(BadInput, match="0 to 1"):
        swap.signed_advantages(*[np.array([1.2])] * 4)
    with pytest.raises(NotEnoughEvidence):
        swap.swap_test(np.zeros((3, 2)))


def regression_data(n, seed, shift=0.0):
    made = np.random.default_rng(seed)
    features = made.normal(size=(n, 2))
    return features, 3 * features[:, 0] + made.normal(size=n) + shift


@pytest.mark.parametrize("regression", ["linear", "boosting"])
def test_quantile_regression_attack_reaches_its_closed_form(regression):
    at, shift = 0.05, 2.0
    fit = regression_data(1500 if regression == "linear" else 8000, 0)
    fitted = quantile.fit_quantile(*fit, at, regression)
    scores = [quantile.score(fitted, *regression_data(20_000, seed, move)) for seed, move in ((1, 0.0), (2, 0.0), (3, shift))]
    threshold = quantile.conformal_threshold(scores[0], at)
    assert np.mean(scores[1] > threshold) == pytest.approx(at, abs=0.007)
    loss = 0.03 if regression == "linear" else 0.12
    assert np.mean(scores[2] > threshold) == pytest.approx(stats.norm.cdf(stats.norm.ppf(at) + shift), abs=loss)


@pytest.mark.parametrize("regression", ["linear", "boosting"])
def test_normal_head(regression):
    fitted = quantile.fit_normal(*regression_data(4000, 0), regression)
    scores = quantile.score(fitted, *regression_data(20_000, 1))
    assert scores.mean() == pytest.approx(0, abs=0.1) and scores.std() == pytest.approx(1, abs=0.1)
    made = np.random.default_rng(5)
    features = made.normal(size=(6000, 1))
    spread = np.where(features[:, 0] > 0, 3.0, 0.5)
    uneven = quantile.fit_normal(features, made.normal(size=6000) * spread, "boosting")
    scores = quantile.score(uneven, features, made.normal(size=6000) * spread)
    assert scores[features[:, 0] > 0].std() == pytest.approx(scores[features[:, 0] < 0].std(), rel=0.2)


def test_conformal_threshold_is_an_order_statistic():
    assert quantile.conformal_threshold(np.arange(1.0, 100.0), 0.1) == 90
    assert quantile.conformal_threshold(np.arange(1.0, 20.0), 0.05) == 19
    with pytest.raises(NotEnoughEvidence, match="not measurable at n = 18"):
        quantile.conformal_threshold(np.arange(18.0), 0.05)
    made = np.random.default_rng(0)
    exceeded = [made.normal() > quantile.conformal_threshold(made.normal(size=19), 0.1) for _ in range(4000)]
    assert np.mean(exceeded) == pytest.approx(0.1, abs=0.02)
    assert (np.diff(quantile.rearranged(made.normal(size=(50, 4)))) >= 0).all()


def test_completeness_is_zero_for_retraining_and_one_for_the_original():
    made = np.random.default_rng(0)
    original, retrained = made.normal(10, 1, 8), made.normal(0, 1, 8)
    for interval in ("fieller", "bootstrap"):
        assert completeness(retrained, original, retrained, interval).mean == 0
        whole = completeness(original, original, retrained, interval)
        assert whole.mean == 1 and whole.low == pytest.approx(1) == whole.high
    with pytest.raises(NotEnoughEvidence, match="too close"):
        completeness(original, retrained + made.normal(size=8), retrained)


@pytest.mark.parametrize(("interval", "seeds"), [("fieller", 6), ("bootstrap", 30)])
def test_completeness_interval_covers(interval, seeds):
    made, hits = np.random.default_rng(1), []
    for _ in range(400):
        retrained, original, unlearned = made.normal(0, 1, seeds), made.normal(6, 1, seeds), made.normal(2, 1, seeds)
        found = completeness(unlearned, original, retrained, interval, resamples=300)
        hits.append(found.low < 1 / 3 < found.high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.04)


def test_dose_response_and_the_smallest_dose_that_is_seen():
    made = np.random.default_rng(0)
    doses = np.repeat([0, 0.05, 0.1, 0.25, 0.5, 1], 40)
    found = dose_response(doses, 10 * doses + made.normal(size=len(doses)))
    assert found.spearman > 0.8 and found.p_value < 0.01 and found.reason == ""
    assert found.detectable == 0.5, "the smallest tried dose above (1.96 + 0.84) / 10"
    averaged = dose_response(doses, 10 * doses + made.normal(size=len(doses)), of_mean=4)
    assert averaged.detectable == 0.25, "half as much for a mean of four models: .14, of which .25 is the next that was tried"
    falling = dose_response(doses, np.where(doses == 0.25, 5.0, 0.0) + made.normal(size=len(doses)))
    assert falling.power[3] > 0.8 and falling.detectable is None, "power that falls again was taken for detection"
    blind = dose_response(doses, made.normal(size=len(doses)))
    assert blind.detectable is None and "at best" in blind.reason and blind.p_value > 0.01
    assert found.power[0] == pytest.approx(0.05)
    assert dose_response(np.array([0, 0, 1.0]), np.array([0, 1, 2.0])).detectable is None
    for bad, error in ((([0, 1.0], [1.0, 2.0]), NotEnoughEvidence), (([0, 0, 2.0], [0, 1, 2.0]), BadInput)):
        with pytest.raises(error):
            dose_response(*map(np.array, bad))


def test_offline_calibrated_scores_agree_with_the_attack_scores_where_spreads_agree():
    inside, outside = (ulira.moments(np.random.default_rng(0).normal(m, 1, size=(200, 3)).astype(np.float32)) for m in (1, 0))
    x = np.random.default_rng(1).normal(size=(50, 3))
    for example in range(3):
        pair = lira.online(x, inside, outside, "per_example", "equal")[:, example], lira.calibrated(x, inside, outside)[:, example]
        assert (np.argsort(pair[0]) == np.argsort(pair[1])).all()
