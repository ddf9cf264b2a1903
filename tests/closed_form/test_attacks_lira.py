"""Likelihood-ratio attacks on normal margins: the plug-in table, the ratio attack, and the bias of judging one's own models."""

import numpy as np
import pytest
from scipy import stats

from expunge.attacks import lira, margins, per_example, rmia, roc
from expunge.attacks.moments import Moments, moments
from expunge.statistics import NotEnoughEvidence

TARGETS = 200_000
TABLE = {
    2: ((0.579, 0.013, 0.001), (0.671, 0.050, 0.009), (0.718, 0.067, 0.012)),
    4: ((0.658, 0.024, 0.003), (0.711, 0.060, 0.010), (0.737, 0.078, 0.013)),
    8: ((0.710, 0.044, 0.005), (0.737, 0.068, 0.011), (0.748, 0.084, 0.015)),
    16: ((0.736, 0.059, 0.008), (0.750, 0.073, 0.012), (0.755, 0.088, 0.016)),
    64: ((0.756, 0.078, 0.012), (0.759, 0.086, 0.014), (0.759, 0.091, 0.016)),
}


def sampled(made, models, center, shift):
    """Return moments of ``models`` normal margins an example, drawn as their sufficient statistics."""
    mean = center + shift + made.normal(size=len(center)) / np.sqrt(models)
    return Moments(np.full(len(center), float(models)), mean, made.chisquare(models - 1, len(center)))


@pytest.mark.parametrize("models", TABLE)
def test_plug_in_attacks(models):
    made = np.random.default_rng(models)
    center = made.normal(0, 3, TARGETS)
    inside, outside = sampled(made, models, center, 1), sampled(made, models, center, 0)
    pair = [(center + shift + made.normal(size=TARGETS))[None] for shift in (1, 0)]
    spreads = [side.squares / models for side in (inside, outside)]  # the table divides by the number of models
    attacks = (
        lambda x: lira.log_ratio(x, inside, outside, *spreads)[0],
        lambda x: lira.online(x, inside, outside, "pooled")[0],
        lambda x: lira.offline(x, outside, "pooled")[0],
    )
    assert len(attacks) == len(TABLE[models])
    for attack, (area, percent, permille) in zip(attacks, TABLE[models], strict=True):
        scores = attack(pair[0]), attack(pair[1])
        assert roc.auc(*scores) == pytest.approx(area, abs=0.003)
        assert roc.tpr_at_fpr(*scores, 0.01).value == pytest.approx(percent, abs=0.004)
        assert roc.tpr_at_fpr(*scores, 0.001).value == pytest.approx(permille, abs=0.004)


@pytest.mark.parametrize("models", [2, 4, 8, 16, 64])
def test_offline_attack_has_its_closed_form(models):
    made = np.random.default_rng(models)
    center = made.normal(0, 3, TARGETS)
    outside = sampled(made, models, center, 0)
    scores = [lira.offline((center + shift + made.normal(size=TARGETS))[None], outside, "pooled")[0] for shift in (1, 0)]
    assert roc.auc(*scores) == pytest.approx(stats.norm.cdf(1 / np.sqrt(2 * (1 + 1 / models))), abs=0.003)
    rate = stats.norm.cdf(stats.norm.ppf(0.01) + 1 / np.sqrt(1 + 1 / models))
    assert roc.tpr_at_fpr(*scores, 0.01).value == pytest.approx(rate, abs=0.004)


def test_variance_rules_change_at_their_thresholds():
    def rule(models, sides="separate"):
        one, zero = (Moments(np.full(3, models), np.zeros(3), np.array([1.0, 2.0, 3.0]) * s) for s in (1, 4))
        return lira.spreads(one, zero, sides=sides)

    assert np.ptp(rule(31.0)[0]) == 0 and np.ptp(rule(32.0)[0]) > 0
    assert rule(63.0, "auto")[0] == pytest.approx(rule(63.0, "auto")[1])
    assert rule(64.0, "auto")[1] == pytest.approx(4 * rule(64.0, "auto")[0])
    assert rule(64.0, "equal")[0] == pytest.approx(2.5 * rule(64.0)[0])


def test_equal_variances_make_the_score_linear():
    inside, outside = (Moments(np.full(1, 4.0), np.array([m]), np.array([3.0])) for m in (1.0, 0.0))
    x = np.linspace(-3, 3, 7)[:, None]
    assert lira.online(x, inside, outside)[:, 0] == pytest.approx((x - 0.5)[:, 0])


def test_no_models_or_no_spread_is_an_error():
    good, flat = Moments(np.full(2, 3.0), np.zeros(2), np.ones(2)), Moments(np.full(2, 3.0), np.zeros(2), np.zeros(2))
    empty = Moments(np.array([3.0, 0.0]), np.array([0.0, np.nan]), np.zeros(2))
    for call in (
        lambda: lira.online(np.zeros((1, 2)), good, empty),
        lambda: lira.offline(np.zeros((1, 2)), empty),
        lambda: lira.offline(np.zeros((1, 2)), flat),
        lambda: lira.calibrated(np.zeros((1, 2)), empty, good),
    ):
        with pytest.raises(NotEnoughEvidence):
            call()


@pytest.mark.parametrize(
    ("models", "own", "left_out", "together"),
    [(8, 0.668, 0.406, 0.478), (16, 0.616, 0.427, 0.494), (32, 0.579, 0.436, 0.495), (64, 0.557, 0.446, 0.500), (256, 0.528, 0.460, 0.499)],
)
def test_judging_the_models_that_the_attack_was_fitted_on_is_biased(models, own, left_out, together):
    made, examples = np.random.default_rng(models), {8: 12_000, 16: 8000}.get(models, 3000)
    inside = margins.design(models, examples, 2, 1) == margins.IN
    x = made.normal(size=(models, examples)).astype(np.float32)
    scores = [lira.in_sample(x, inside, ~inside, out).astype(np.float32) for out in (False, True)]
    areas = [per_example.auc(each, each, inside, ~inside).mean() for each in scores]
    assert areas == pytest.approx([own, left_out], abs=0.01)
    assert roc.auc(scores[1][inside], scores[1][~inside]) == pytest.approx(together, abs=0.01)


@pytest.mark.parametrize("models", [8, 16, 32, 64])
def test_disjoint_targets_are_not(models):
    made, examples = np.random.default_rng(models), 3000
    inside = margins.design(models, examples, 2, 1) == margins.IN
    x, targets = (made.normal(size=(models, examples)).astype(np.float32) for _ in range(2))
    scores = lira.online(targets, moments(x, inside), moments(x, ~inside), "pooled", "equal").astype(np.float32)
    assert per_example.auc(scores, scores, inside, ~inside).mean() == pytest.approx(0.5, abs=0.01)


def test_ratio_attack_does_not_depend_on_gamma_or_the_population():
    made = np.random.default_rng(0)
    center = made.normal(0, 2, 4000)
    references = (center + made.normal(size=(8, 4000))).astype(np.float32)
    member = np.arange(4000) < 2000
    target = (center + member + made.normal(size=4000)).astype(np.float32)
    reference = rmia.reference_offline(references, scale=1.0)
    ratios = rmia.ratio(target, reference)
    population = rmia.ratio((center + made.normal(size=4000)).astype(np.float32), reference)
    areas = [roc.auc(*(rmia.score(target, reference, population, gamma)[group] for group in (member, ~member))) for gamma in (1, 1.1)]
    assert areas == pytest.approx([roc.auc(ratios[member], ratios[~member])] * 2, abs=2e-3)
    fine = rmia.ratio(np.linspace(-8, 8, 200_000), np.full(200_000, 0.5))
    assert roc.auc(*(rmia.score(target, reference, fine)[group] for group in (member, ~member))) == pytest.approx(areas[0], abs=2e-3)
    scores = rmia.score(target, reference, population)
    assert (np.diff(scores[np.argsort(ratios)]) >= 0).all()


def test_offline_scale_is_chosen_on_a_reference_model():
    made = np.random.default_rng(1)
    inside = margins.design(8, 2000, 2, 0) == margins.IN
    x = (made.normal(0, 2, 2000) + inside * 2 + made.normal(size=(8, 2000))).astype(np.float32)
    areas = {}
    for scale in (0.0, 0.3, 1.0):
        ratios = rmia.ratio(x[0], rmia.reference_offline(x[1:], inside[1:], scale))
        areas[scale] = roc.auc(ratios[inside[0]], ratios[~inside[0]])
    assert rmia.choose_scale(x, inside, np.array(list(areas))) == max(areas, key=areas.get)
    online = rmia.ratio(x[0], rmia.reference_online(x[1:], inside[1:]))
    assert roc.auc(online[inside[0]], online[~inside[0]]) > 0.8
