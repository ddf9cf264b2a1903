"""The convex testbed against independent solvers, and every efficacy estimator against the testbed's truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize
from threadpoolctl import threadpool_limits

from expunge.attacks import epsilon, forgetting_quality, gaussian, klom, per_example, roc, set_level, ulira
from expunge.attacks.dose import dose_response
from expunge.attacks.margins import FORGET, IN, OUT
from expunge.errors import BadInput, NotApplicable
from expunge.methods.certified import newton as certified
from expunge.metrics.loss_auc import LossAuc
from expunge.metrics.test_accuracy import TestAccuracy as AccuracyOnTest
from expunge.pools.cache import EvidenceCache
from expunge.statistics import NotEnoughEvidence
from expunge.testbed import truth
from expunge.testbed.bed import Testbed, known_law, random_request
from expunge.testbed.features import Task, from_arrays, frozen
from expunge.testbed.heads import Ridge, Softmax
from expunge.testbed.laws import Joint, Law, Margins
from expunge.testbed.unlearners import Ascent, Blur, Descent, Exact, Identity, Newton, Request

MODELS = 256
UNLEARNERS = [Identity(), Exact(), Newton(), Ascent(), Descent(count=3, deviation=0.02), Blur(0.03)]


@pytest.fixture(autouse=True)
def one_thread():
    """Small matrices on shared cores: threads that wait for each other cost more than they bring."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def features():
    return frozen(train=300, unseen=300, dimension=24, seed=1)


@pytest.fixture(scope="module")
def ridge(features):
    two = features.of_parity()
    return Testbed(two, random_request(two, 40), Ridge()).visible()


@pytest.fixture(scope="module")
def softmax(features):
    return Testbed(features, random_request(features, 30), Softmax(), noise="objective", deviation=0.3)


@pytest.fixture(scope="module")
def retrained(ridge):
    return ridge.retrained(MODELS)


def on_forget(bed, pool):
    """Return margins ``[models, forget]`` and their laws."""
    law = known_law(pool).margins(bed.features.x[bed.forget], bed.features.labels[bed.forget])
    return pool.margins[:, bed.forget], law


def joint(bed, pool, part):
    return known_law(pool).joint(bed.features.x[part], bed.features.labels[part])


def naive_ridge(bed, index, term=0.0):
    x, labels = bed.features.x[index], bed.features.labels[index]
    targets = np.where(labels[:, None] == np.arange(bed.features.classes), 1.0, -1.0)
    return np.linalg.solve(x.T @ x + bed.head.penalty * len(index) * np.eye(x.shape[1]), x.T @ targets - term)


# Training and retraining are exact.


@pytest.mark.parametrize("noise", ["weights", "objective"])
def test_ridge_without_the_forget_set_is_a_solve_on_the_rest(ridge, noise):
    bed = replace(ridge, noise=noise)
    original, retain = bed.original(3), bed.parts["retain"]
    terms = bed.deviation * bed._noise("original", 3, 0)
    unlearned = [bed.unlearned(Exact(), 3).weights] + ([bed.unlearned(Newton(), 3).weights] if noise == "objective" else [])
    for weights in unlearned:
        for k, term in enumerate(terms):
            expected = naive_ridge(bed, retain, term) if noise == "objective" else naive_ridge(bed, retain) + term
            np.testing.assert_allclose(weights[k], expected, atol=1e-8)
    np.testing.assert_allclose(known_law(bed.retrained(2)).mean[0], naive_ridge(bed, retain), atol=1e-8)
    everything = np.arange(bed.features.train_size)
    np.testing.assert_allclose(known_law(original).mean[0], naive_ridge(bed, everything), atol=1e-8)


def test_newton_is_the_certified_step_for_both_heads(ridge, features):
    x, keep = torch.from_numpy(ridge.features.task.x), torch.from_numpy(ridge.parts["retain"])
    gone = torch.from_numpy(ridge.forget)
    targets = torch.from_numpy(2 * np.eye(2)[ridge.features.task.labels] - 1)
    before = torch.from_numpy(replace(ridge, noise="objective").original(1).weights[0].T.copy())
    expected, _ = certified.removal(before, x[keep], x[gone], targets[gone], penalty=ridge.head.penalty, loss="ridge")
    found = replace(ridge, noise="objective").unlearned(Newton(), 1).weights[0]
    np.testing.assert_allclose(found, expected.numpy().T, atol=1e-9)


def test_softmax_optimum_is_that_of_another_solver(softmax):
    retain = softmax.parts["retain"]
    x, labels = softmax.features.x[retain], softmax.features.labels[retain]
    term = softmax.deviation * softmax._noise("retrained", 1, 0)[0]

    def objective(flat):
        weights = flat.reshape(term.shape)
        scores = x @ weights
        log_p = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        slope = x.T @ (np.exp(log_p) - np.eye(10)[labels]) + softmax.head.penalty * len(x) * weights + term
        value = -log_p[np.arange(len(x)), labels].sum() + softmax.head.penalty * len(x) / 2 * (weights**2).sum() + (term * weights).sum()
        return value, slope.ravel()

    found = softmax.retrained(1).weights[0]
    assert np.linalg.norm(objective(found.ravel())[1]) < 1e-9
    start = np.random.default_rng(0).normal(size=term.size)
    scratch = optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "maxfun": 9999, "gtol": 1e-9, "ftol": 0}
    )
    np.testing.assert_allclose(found.ravel(), scratch.x, atol=1e-4)


def test_softmax_models_of_different_data_are_all_solved(softmax):
    pool = softmax.base(6)
    task, members = softmax.features.task, (pool.states[:, : softmax.features.train_size] == IN).astype(float)
    slopes = softmax.head.gradient(task, pool.weights, members) + softmax.deviation * softmax._noise("base", 6, 0)
    assert np.abs(slopes).max() < 1e-9
    assert np.array_equal(members[0] + members[1], np.ones(len(members[0])))


def test_exact_unlearning_of_softmax_is_retraining_and_newton_is_near(softmax):
    term = softmax.deviation * softmax._noise("original", 2, 0)
    retain = softmax._members(softmax._rows(OUT), IN)
    expected = softmax.head.fit(softmax.features.task, retain, term)
    np.testing.assert_allclose(softmax.unlearned(Exact(), 2).weights, expected, atol=1e-8)
    distances = [np.linalg.norm(softmax.unlearned(how, 2).weights - expected) for how in (Newton(), Identity(), Blur(0.3))]
    assert distances[0] < 0.25 * distances[1] < distances[2]


def test_hessian_of_softmax_is_the_slope_of_its_gradient(softmax):
    task, members = softmax.features.task, softmax._members(softmax._rows(OUT), IN)
    weights = softmax.original(1).weights
    along = np.random.default_rng(1).normal(size=weights.shape)
    change = softmax.head.gradient(task, weights + 1e-6 * along, members) - softmax.head.gradient(task, weights - 1e-6 * along, members)
    np.testing.assert_allclose(softmax.head.newton_step(task, weights, members, change / 2e-6), along, atol=1e-5)


# The law is that of the models.


@pytest.mark.parametrize("noise", ["weights", "objective"])
@pytest.mark.parametrize("unlearner", UNLEARNERS, ids=lambda each: type(each).__name__)
def test_laws_are_those_of_the_models(ridge, noise, unlearner):
    bed = replace(ridge, noise=noise)
    pool = bed.unlearned(unlearner, 1000)
    margins, law = on_forget(bed, pool)
    z = (margins.mean(axis=0) - law.mean[0]) / np.sqrt(law.variance[0] / 1000)
    assert np.abs(z).max() < 4.5 and 0.3 < (z**2).mean() < 2.5
    np.testing.assert_allclose(margins.var(axis=0) / law.variance[0], 1, atol=0.25)
    np.testing.assert_allclose(np.cov(margins[:, :6].T), joint(bed, pool, bed.forget[:6]).covariance, atol=0.2 * law.variance[0, :6].max())
    np.testing.assert_allclose(margins, pool.linear_margins[:, bed.forget], atol=1e-5)


@pytest.mark.parametrize("noise,unlearner", [("weights", Exact()), ("objective", Exact()), ("objective", Newton())])
def test_exact_unlearning_has_the_law_of_retraining(ridge, noise, unlearner):
    bed = replace(ridge, noise=noise)
    found, expected = known_law(bed.unlearned(unlearner, 1)), known_law(bed.retrained(1))
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-9)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-7, atol=1e-12)


def test_pools_grow_and_their_randomness_is_their_own(ridge):
    small, large = ridge.retrained(3), ridge.retrained(5)
    assert np.array_equal(small.weights, large.weights[:3])
    assert np.array_equal(ridge.retrained(2, offset=3).weights, large.weights[3:])
    fresh = [ridge.original(3), ridge.dose(0, 3), replace(ridge, seed=1).retrained(3)]
    assert all(np.abs(pool.weights - small.weights).min() > 0 for pool in fresh)


# Known numbers.


def normal(mean, variance=1.0):
    mean = np.atleast_1d(np.asarray(mean, float))
    return Margins(mean[None], np.full((1, len(mean)), variance))


@pytest.mark.parametrize(
    "mu,rates,area", [(0.5, (0.0048, 0.0339, 0.1261), 0.6382), (1, (0.0183, 0.0924, 0.2595), 0.7602), (2, (0.1378, 0.3721, 0.6388), 0.9214)]
)
def test_truth_of_a_shift_is_the_table(mu, rates, area):
    one, zero = normal(mu), normal(0)
    assert [truth.rate(one, zero, at)[0] for at in (0.001, 0.01, 0.05)] == pytest.approx(rates, abs=1e-4)
    assert truth.shift(one, zero)[0] == pytest.approx(mu) and truth.shift(zero, one)[0] == pytest.approx(-mu)
    assert truth.rate(zero, one, 0.01) == pytest.approx(truth.rate(one, zero, 0.01))
    assert truth.example_auc(one, zero)[0] == pytest.approx(area, abs=1e-4)
    assert truth.example_auc(zero, one)[0] == pytest.approx(1 - area, abs=1e-4)
    assert truth.attack_auc(zero, one)[0] == pytest.approx(area, abs=1e-4)
    assert truth.gaussian_kl(one, zero)[0] == pytest.approx(mu**2 / 2)
    assert truth.example_epsilon(one, zero)[0] == pytest.approx(epsilon.gaussian_epsilon(mu), abs=1e-6)


@pytest.mark.parametrize("tau,area,rate", [(1, 0.6915, 0.0527), (3, 0.5885, 0.0222), (5, 0.5551, 0.0166)])
def test_one_threshold_for_all_examples_is_weak(tau, area, rate):
    from scipy import stats

    means = tau * stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    one, zero = normal(means + 1), normal(means)
    assert truth.population_auc(one, zero) == pytest.approx(area, abs=2e-4)
    assert truth.population_rate(one, zero, 0.01) == pytest.approx(rate, abs=2e-4)


@pytest.mark.parametrize("moved,scale", [(0.0, 2.0), (0.7, 1.3), (-0.4, 0.5), (0.0, 1.0)])
def test_epsilon_of_unequal_variances_is_that_of_a_grid(moved, scale):
    x = np.linspace(-40, 40, 400_001)
    p, q = (np.exp(-(((x - mean) / deviation) ** 2) / 2) / deviation / np.sqrt(2 * np.pi) for mean, deviation in ((moved, scale), (0, 1)))
    found = truth.example_epsilon(normal(moved, scale**2), normal(0), 1e-3)[0]
    reached = [np.maximum(a - np.exp(found) * b, 0).sum() * (x[1] - x[0]) for a, b in ((p, q), (q, p))]
    assert max(reached) == pytest.approx(1e-3, rel=1e-3) or (found == 0 and max(reached) <= 1e-3)


def test_set_truth_of_independent_shifts():
    one, zero = Joint(np.full(500, 0.1), np.eye(500)), Joint(np.zeros(500), np.eye(500))
    assert truth.set_auc(one, zero) == pytest.approx(0.943, abs=5e-4) == pytest.approx(set_level.optimal_auc(np.full(500, 0.1)), abs=5e-4)
    assert truth.set_shift(one, zero) == pytest.approx(np.sqrt(5))
    assert truth.set_epsilon(Joint(np.ones(1), np.eye(1)), Joint(np.zeros(1), np.eye(1))) == pytest.approx(4.3772, abs=1e-4)


def test_noisy_mean_has_the_shift_of_its_means():
    """A(D) = mean of D + noise: ridge on the constant feature without a penalty to speak of; subtracting is exact."""
    values = np.array([0, 0, 0, 1, 1, 0, 1, 0])
    task = Task(np.ones((8, 1)), values, 2)
    request = Request(Ridge(1e-15), task, np.array([[1.0] * 6 + [0, 0]]), np.array([[0.0] * 6 + [1, 1]]), "weights")
    law = Law(request.head.fit(task, request.retain + request.forget), np.full((1, 1, 1), 0.1**2))
    reference = Law(request.head.fit(task, request.retain), np.full((1, 1, 1), 0.1**2))
    point, label = np.ones((1, 1)), np.array([1])
    gap = 2 * (2 * (3 / 8 - 2 / 6)) / (np.sqrt(2) * 0.1)  # both columns move by twice the difference of the means
    assert truth.set_shift(law.joint(point, label), reference.joint(point, label)) == pytest.approx(gap)
    [step] = Exact().steps(request)
    assert truth.set_shift(law.through(step.move).joint(point, label), reference.joint(point, label)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("steps,expected", [(1, 9.0), (10, 1.6216), (50, 0.0224651)])
def test_noisy_descent_on_a_quadratic_is_the_autoregression(steps, expected):
    """x' = .9 x + N(0, .1^2) from two fixed starts at distance 1."""
    starts = [Law(np.full((1, 1, 2), value), np.zeros((1, 1, 1))) for value in ([0.0, 1.0], [0.0, 0.0])]
    for _ in range(steps):
        starts = [law.through(lambda weights: 0.9 * weights, 0.1) for law in starts]
    deviation = np.sqrt(starts[0].covariance[0, 0, 0])
    assert (starts[0].mean[0, 0, 1] - starts[1].mean[0, 0, 1]) / deviation == pytest.approx(expected, rel=1e-4)


def test_descent_contracts_to_the_retrained_optimum(ridge):
    goal = known_law(ridge.retrained(1)).mean[0]
    size = ridge.features.train_size - len(ridge.forget)
    values, vectors = np.linalg.eigh(ridge.head.hessian(ridge.features.task, ridge._members(ridge._rows(OUT), IN))[0])
    before = ridge.original(1).weights[0] - goal
    after = ridge.unlearned(Descent(count=7, lr=0.5), 1).weights[0] - goal
    np.testing.assert_allclose(vectors.T @ after, (1 - 0.5 * values / size)[:, None] ** 7 * (vectors.T @ before), atol=1e-12)


# Every estimator finds the truth.


def error_of_kl(laws, reference, models):
    """Return the standard error of the estimated divergence by the delta method, both of its parts at their worst."""
    ratio, squared = laws.variance[0] / reference.variance[0], truth.shift(laws, reference) ** 2
    return (np.abs(ratio - 1) + np.sqrt(squared * (ratio + 1) + squared**2 / 2)) / np.sqrt(models)


@pytest.mark.parametrize("noise", ["weights", "objective"])
@pytest.mark.parametrize("unlearner", [Identity(), Exact(), Newton(), Blur(0.02)], ids=lambda each: type(each).__name__)
def test_estimates_for_each_example_are_the_truth(ridge, noise, unlearner):
    bed = replace(ridge, noise=noise).visible()
    (u, laws), (r, reference) = (on_forget(bed, pool) for pool in (bed.unlearned(unlearner, 1000), bed.retrained(1000)))
    areas, expected = per_example.auc(u, r), truth.example_auc(laws, reference)
    np.testing.assert_allclose(areas, expected, atol=4.5 * roc.null_standard_error(1000, 1000))
    divergence = truth.gaussian_kl(laws, reference)
    assert (np.abs(gaussian.gaussian_kl(u, r) - divergence) < 4.5 * error_of_kl(laws, reference, 1000) + 0.025).all()
    rejected = per_example.mann_whitney(u, r).rejected()
    assert rejected.mean() > 0.8 if isinstance(unlearner, Identity) else True
    if noise == "objective" and not isinstance(unlearner, Identity | Blur):
        assert divergence.max() < 1e-9 and not rejected.any()


def test_shift_of_one_deviation_was_asked_for(ridge, retrained):
    (u, laws), (r, reference) = on_forget(ridge, ridge.original(MODELS)), on_forget(ridge, retrained)
    assert np.sqrt((truth.shift(laws, reference) ** 2).mean()) == pytest.approx(1, abs=1e-9)
    assert np.sqrt(2 * gaussian.gaussian_kl(u, r).mean()) == pytest.approx(1, abs=0.15)
    half = ridge.visible(0.5)
    assert np.sqrt(
        2 * truth.gaussian_kl(on_forget(half, half.original(1))[1], on_forget(half, half.retrained(1))[1]).mean()
    ) == pytest.approx(0.5)


def test_forget_margins_rise_with_training_in_both_heads(ridge, softmax):
    """The direction: an original is surer of what it was trained on."""
    for bed in (ridge, softmax):
        before, after = (pool.margins[:, bed.forget].mean() for pool in (bed.original(16), bed.retrained(16)))
        assert before > after + 0.02
        states = bed.unlearned(Identity(), 2).states
        assert (states[:, bed.forget] == FORGET).all() and (states[:, bed.parts["retain"]] == IN).all()
        assert (states[:, bed.parts["test"]] == OUT).all()
    assert truth.example_auc(on_forget(ridge, ridge.original(1))[1], on_forget(ridge, ridge.retrained(1))[1]).mean() > 0.55


@pytest.mark.parametrize("unlearner", [Identity(), Exact()], ids=["identity", "exact"])
def test_efficacy_game_is_the_truth_of_its_attack(ridge, retrained, unlearner):
    (u, laws), (r, reference) = on_forget(ridge, ridge.unlearned(unlearner, MODELS)), on_forget(ridge, retrained)
    attacked = ulira.cross_fit(ulira.fixed_efficacy_game(u, r), folds=4, variance="per_example", sides="equal")
    expected = truth.attack_auc(laws, reference, attack_models=MODELS * 3 // 4)
    np.testing.assert_allclose(attacked.example_auc(), expected, atol=0.14)
    found = attacked.mean_auc()
    assert abs(found.value - expected.mean()) < 3 * found.models_error
    rate = attacked.true_positive_rate(0.01).value
    assert rate == pytest.approx(truth.rate(laws, reference, 0.01).mean(), abs=0.03)


@pytest.mark.parametrize("unlearner", [Identity(), Exact()], ids=["identity", "exact"])
def test_set_classifier_finds_the_best_area(ridge, unlearner):
    some, pools = ridge.forget[:8], (ridge.unlearned(unlearner, 500), ridge.retrained(500))
    best = truth.set_auc(*(joint(ridge, pool, some) for pool in pools))
    found = set_level.classifier_test(*(pool.margins[:, some] for pool in pools), permutations=100)
    assert abs(found.auc - best) < 3 * (found.standard_error or 0) + 0.01
    assert (found.p_value < 0.02) == isinstance(unlearner, Identity)
    assert set_level.mean_discrepancy(*(pool.margins[:, some] for pool in pools), permutations=100).p_value < 0.02 or isinstance(
        unlearner, Exact
    )


def test_epsilon_is_bounded_by_the_truth_and_nears_it(ridge):
    bed = ridge.visible(0.4)
    pools, half = (bed.original(6000), bed.retrained(6000)), bed.forget[:10]
    laws = [joint(bed, pool, half) for pool in pools]
    direction = np.linalg.pinv(laws[1].covariance) @ (laws[0].mean - laws[1].mean)
    scores = [pool.linear_margins[:, half] @ direction for pool in pools]
    true = truth.set_epsilon(*laws)
    bounds = epsilon.convert(*scores)
    assert 0.75 * true < bounds.gaussian.value <= true and 0 < bounds.clopper_pearson.value <= true
    exact = bed.unlearned(Exact(), 6000)
    assert truth.set_epsilon(joint(bed, exact, half), laws[1]) == 0
    assert epsilon.convert(exact.linear_margins[:, half] @ direction, scores[1]).gaussian.value == 0


def test_klom_and_forgetting_quality_are_null_for_exact_unlearning_only(ridge, retrained):
    r, _ = on_forget(ridge, retrained)
    exact, nothing = (on_forget(ridge, ridge.unlearned(how, MODELS))[0] for how in (Exact(), Identity()))
    null = klom.null_klom(MODELS, MODELS, examples=400).mean()
    assert klom.klom(exact, r).mean() == pytest.approx(null, rel=0.25)
    assert klom.klom(nothing, r).mean() > 4 * null
    some = slice(0, 15)
    perfect = forgetting_quality.null_quality(r[:, some].std(axis=0), MODELS, 15)
    scores = [forgetting_quality.forgetting_quality(each[:, some], r[:, some]).value for each in (exact, nothing)]
    assert scores[0] == pytest.approx(perfect.value, abs=0.08) and scores[1] < 0.6 * perfect.value


# Random requests.


@pytest.mark.parametrize("unlearner", [Identity(), Newton(), Exact()], ids=["identity", "newton", "exact"])
def test_privacy_game_is_the_truth_of_the_plan(ridge, unlearner):
    shadows = ridge.shadows(unlearner, 96)
    columns, states = shadows.targets, shadows.unlearned.states[:, shadows.targets]
    law = known_law(shadows.unlearned).margins(ridge.features.x[columns], ridge.features.labels[columns])
    margins = shadows.unlearned.margins[:, columns]
    raw = per_example.auc(margins, margins, states == FORGET, states == OUT)
    expected = truth.example_auc(law, law, states == FORGET, states == OUT)
    assert np.abs(raw - expected).mean() < 0.07 and raw.mean() == pytest.approx(expected.mean(), abs=0.03)
    attacked = ulira.cross_fit(ulira.privacy_game(margins, states), folds=4, block=3).mean_auc()
    efficacy = ulira.cross_fit(ulira.efficacy_game(margins, shadows.retrained.margins[:, columns], states), folds=4, block=3).mean_auc()
    if isinstance(unlearner, Identity):
        assert expected.mean() > 0.55 and min(attacked.value, efficacy.value) > 0.55
    else:
        assert abs(attacked.value - 0.5) < 4 * attacked.models_error and abs(efficacy.value - 0.5) < 4 * efficacy.models_error
        assert expected.mean() == pytest.approx(0.5, abs=0.015)


def test_membership_game_sees_halves(ridge):
    pool = ridge.base(64)
    part = slice(0, ridge.features.train_size)
    states = pool.states[:, part]
    assert (states.sum(axis=0) == 32).all() and (states[0] + states[1] == 1).all()
    attacked = ulira.cross_fit(ulira.membership_game(pool.margins[:, part], states), folds=4, block=2).mean_auc()
    law = known_law(pool).margins(ridge.features.x[part], ridge.features.labels[part])
    expected = truth.example_auc(law, law, states == IN, states == OUT)
    assert expected.mean() > 0.57 and attacked.value == pytest.approx(np.abs(expected - 0.5).mean() + 0.5, abs=0.05)


# Doses.


@pytest.mark.parametrize("head", [Ridge(), Softmax()], ids=["ridge", "softmax"])
def test_metrics_rise_with_the_dose(features, head):
    few = features if isinstance(head, Softmax) else features.of_parity()
    bed = Testbed(few, random_request(few, 40), head).visible(1.0)
    reference, doses = bed.retrained(40), (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
    pools = [bed.dose(each, 40) for each in doses]
    means = np.array([pool.margins[:, bed.forget].mean() for pool in pools])
    assert (np.diff(means) > 0).all()
    shares = [gaussian.gaussian_kl(pool.margins[:, bed.forget], reference.margins[:, bed.forget]).mean() for pool in pools]
    assert shares[0] < 0.06 and (np.diff(shares[2:]) > 0).all()
    values = np.concatenate([pool.margins[:, bed.forget].mean(axis=1) for pool in pools])
    found = dose_response(np.repeat(doses, 40), values, of_mean=40)
    assert found.spearman > 0.15 and found.p_value < 0.01 and found.detectable is not None
    assert [int((pool.states[0, bed.forget] == IN).sum()) for pool in pools] == [0, 2, 4, 10, 20, 40]


def test_dose_law_is_one_for_each_model(ridge):
    pool = ridge.dose(0.5, 400)
    margins, law = on_forget(ridge, pool)
    reference = ridge.retrained(400)
    expected = truth.example_auc(law, on_forget(ridge, reference)[1])
    np.testing.assert_allclose(per_example.auc(margins, on_forget(ridge, reference)[0]), expected, atol=0.1)
    with pytest.raises(NotApplicable, match="mixture"):
        truth.gaussian_kl(law, law)
    with pytest.raises(NotApplicable, match="mixture"):
        joint(ridge, pool, ridge.forget)


# Views and caches.


def test_metrics_of_one_model_are_the_truth_on_average(ridge):
    pool, features, parts = ridge.original(200), ridge.features, ridge.parts
    views = [ridge.view(pool, number) for number in range(200)]
    law = known_law(pool)
    expected = truth.one_model_auc(law, features.x, features.labels, parts["forget"], parts["unseen"])
    values = [LossAuc().measure(view).value for view in views]
    assert np.mean(values) == pytest.approx(expected, abs=4 * np.std(values) / np.sqrt(200)) and expected > 0.5
    right = [AccuracyOnTest().measure(view).value for view in views]
    accuracy = truth.accuracy(law.margins(features.x[parts["test"]], features.labels[parts["test"]]))
    assert np.mean(right) == pytest.approx(100 * accuracy, abs=4 * np.std(right) / np.sqrt(200)) and accuracy > 0.8


def test_a_pool_becomes_a_cache(ridge, tmp_path):
    pool = ridge.unlearned(Newton(), 3)
    cache = pool.write(tmp_path / "unlearned")
    assert isinstance(cache, EvidenceCache) and cache.rows() == [0, 1, 2]
    assert np.array_equal(cache.margins([0, 1, 2]), pool.margins) and np.array_equal(cache.states([1])[0], pool.states[1])
    assert np.array_equal(pool.write(tmp_path / "unlearned").margins([2]), pool.margins[2:])
    with pytest.raises(BadInput, match="unlearner"):
        ridge.unlearned(Identity(), 3).write(tmp_path / "unlearned")


# Input.


def test_features_are_frozen_whitened_and_unseen_by_their_encoder(features):
    again = frozen(train=300, unseen=300, dimension=24, seed=1)
    assert again.fingerprint == features.fingerprint
    assert features.x.shape == (600, 25) and (features.x**2).sum(axis=1).mean() == pytest.approx(1)
    other = frozen(train=200, unseen=300, dimension=24, encoder="conv", seed=1)
    assert other.x.shape == (500, 25) and set(other.labels) == set(range(10))
    assert other.fingerprint != from_arrays(other.x[:, :-1], other.labels, 200).fingerprint != features.fingerprint


@pytest.mark.parametrize(
    "wrong,where",
    [
        (lambda: from_arrays(np.ones((4, 2)), np.zeros(4, int), 2), "labels"),
        (lambda: from_arrays(np.ones((4, 2)), np.arange(3), 2), "features"),
        (lambda: from_arrays(np.full((4, 2), np.nan), np.arange(4), 2), "features"),
        (lambda: from_arrays(np.ones((4, 2)), np.arange(4), 4), "train_size"),
        (lambda: frozen(train=5000), "features"),
        (lambda: frozen(train=300, unseen=10, encoder="resnet"), "encoder"),
        (lambda: Ridge(0.0), "penalty"),
        (lambda: Softmax(-1.0), "penalty"),
    ],
)
def test_bad_features_and_heads_are_refused(wrong, where):
    with pytest.raises(BadInput, match=f"^{where}"):
        wrong()


@pytest.mark.parametrize("key,value", [("forget", np.array([], int)), ("forget", np.array([700])), ("noise", "x"), ("deviation", 0.0)])
def test_bad_testbeds_are_refused(ridge, key, value):
    with pytest.raises(BadInput, match=f"^{key}"):
        replace(ridge, **{key: value})


def test_what_is_not_known_is_not_said(ridge, softmax):
    with pytest.raises(NotApplicable, match="only a ridge"):
        known_law(softmax.original(1))
    blurred = ridge.unlearned(Blur(0.1), 1)
    with pytest.raises(NotApplicable, match="covariances"):
        truth.set_shift(joint(ridge, blurred, ridge.forget), joint(ridge, ridge.retrained(1), ridge.forget))
    with pytest.raises(BadInput, match="fraction"):
        ridge.dose(1.5, 2)
    with pytest.raises(BadInput, match="multiple"):
        ridge.shadows(Exact(), 4)
    with pytest.raises(NotEnoughEvidence):
        gaussian.gaussian_kl(ridge.original(1).margins, ridge.retrained(1).margins)
