"""Attacks of one model whose power is known: normal margins, base pools of known size, and wrong versions that must fail."""

import numpy as np
import pytest
from scipy import stats

from expunge import registry
from expunge.attacks import lira, margins, rmia, roc
from expunge.attacks.moments import moments
from expunge.metrics.attacks import pairing, ratios, regression
from expunge.metrics.attacks.learned import balanced_accuracy
from expunge.metrics.attacks.paired import influence, ratio_error
from expunge.metrics.membership import balanced_median
from expunge.metrics.metric import Metric
from expunge.metrics.view import Reference, View
from expunge.statistics import NotEnoughEvidence

SPREAD = 3.0
"""Deviation of the examples' mean margins; within an example it is 1."""
AREAS = ("lira_offline", "lira_online", "rmia", "quantile_attack")


def metric(name: str, **fields) -> Metric:
    return registry.find("metrics", name)(**fields)


def logits_of(wanted: np.ndarray) -> np.ndarray:
    """Return two-class logits with these margins of class 0."""
    return np.stack([wanted, np.zeros_like(wanted)], axis=1).astype(np.float32)


def game(models: int, gain: float, pool_gain: float = 1.0, n: int = 4000, own: bool = False, seed: int = 0, center: float = 0.0) -> View:
    """Return a view whose forget margins lie ``gain`` above what training without them gives, and base models on random halves.

    With ``own`` base models are trained on half of the unseen examples too.
    """
    made, logits, labels, references = np.random.default_rng(seed), {}, {}, {}
    for position, part in enumerate(("forget", "unseen", "validation")):
        difficulty = made.normal(center, SPREAD, n)
        inside = np.zeros((models, n), dtype=bool)
        if part == "forget" or own and part == "unseen":
            inside = margins.design(models, n, 2, seed + position) == margins.IN
        seen = difficulty + inside * pool_gain + made.normal(size=(models, n))
        logits[part] = logits_of(difficulty + (gain if part == "forget" else 0) + made.normal(size=n))
        labels[part], references[part] = np.zeros(n, dtype=np.int64), Reference(seen.astype(np.float32), inside)
    return View(logits, labels, references)


def swapped(view: View) -> View:
    """Return the view with forgotten and unseen examples exchanged."""
    other = {"forget": "unseen", "unseen": "forget"}
    return View(*({other.get(part, part): held[part] for part in held} for held in (view.logits, view.labels, view.references)))


def permuted(view: View, seed: int = 1) -> View:
    """Return the view with the examples of every part in another order."""
    made = np.random.default_rng(seed)
    orders = {part: made.permutation(view.size(part)) for part in view.logits}
    logits, labels = ({part: held[part][orders[part]] for part in held} for held in (view.logits, view.labels))
    known = view.references.items()
    return View(logits, labels, {part: Reference(seen.margins[:, orders[part]], seen.inside[:, orders[part]]) for part, seen in known})


@pytest.mark.parametrize("outside", [2, 4, 8, 16])
def test_offline_attack_has_its_closed_form(outside):
    view = game(2 * outside, 1.0, n=20_000)
    estimate = metric("lira_offline").measure(view)
    assert estimate.value == pytest.approx(stats.norm.cdf(1 / np.sqrt(2 * (1 + 1 / outside))), abs=0.01)
    rate = stats.norm.cdf(stats.norm.ppf(0.01) + 1 / np.sqrt(1 + 1 / outside))
    found = metric("lira_tpr_1").measure(view)
    assert found.value == pytest.approx(100 * rate, abs=1.2) and 0.3 < found.standard_error < 1
    assert metric("lira_tpr_01").measure(view).value == pytest.approx(100 * stats.norm.cdf(stats.norm.ppf(0.001) + 0.94), abs=1)


@pytest.mark.parametrize(("side", "area", "percent"), [(2, 0.671, 0.050), (4, 0.711, 0.060), (8, 0.737, 0.068), (16, 0.750, 0.073)])
def test_online_attack_with_own_means_reaches_the_table(side, area, percent):
    view = game(2 * side, 1.0, n=20_000, own=True)
    forget, unseen = view.references["forget"], view.references["unseen"]
    scores = [
        lira.online(view.margin(part)[None], moments(seen.margins, seen.inside), moments(seen.margins, ~seen.inside), "pooled")[0]
        for part, seen in (("forget", forget), ("unseen", unseen))
    ]
    assert roc.auc(*scores) == pytest.approx(area, abs=0.01)
    assert roc.tpr_at_fpr(*scores, 0.01).value == pytest.approx(percent, abs=0.01)
    assert ratios.own_log_ratios(view) == pytest.approx(lira.online(
        view.margin("forget")[None], moments(forget.margins, forget.inside), moments(forget.margins, ~forget.inside), "pooled", "equal"
    )[0])  # fmt: skip


def test_expected_means_of_a_constant_gain_give_the_offline_attack():
    view = game(16, 1.0, n=10_000)
    online, offline = metric("lira_online").measure(view), metric("lira_offline").measure(view)
    assert online.value == pytest.approx(offline.value, abs=0.004)


def test_expected_means_favour_examples_that_training_moves():
    """Half of the examples gain nothing: weighing them down pays, as for the best attack."""
    made, n, models = np.random.default_rng(0), 8000, 16
    logits, labels, references = {}, {}, {}
    for part in ("forget", "unseen"):
        hard = np.arange(n) % 2 == 0
        difficulty = np.where(hard, -6, 6) + made.normal(size=n)
        inside = margins.design(models, n, 2, 0) == margins.IN if part == "forget" else np.zeros((models, n), dtype=bool)
        seen = difficulty + inside * 2 * hard + made.normal(size=(models, n))
        logits[part] = logits_of(difficulty + (2 * hard if part == "forget" else 0) + made.normal(size=n))
        labels[part], references[part] = np.zeros(n, dtype=np.int64), Reference(seen.astype(np.float32), inside)
    view = View(logits, labels, references)
    assert metric("lira_online").measure(view).value > metric("lira_offline").measure(view).value + 0.01
    assert metric("lira_member_rate").measure(view).value == pytest.approx(
        50 * (stats.norm.cdf(1) + 0.5), abs=4
    )  # easy examples: a coin, for their two means differ by noise only


@pytest.mark.parametrize("name", AREAS)
def test_population_attacks_are_weaker_where_examples_differ_in_difficulty(name):
    view = game(16, 1.0, n=6000)
    assert metric("loss_auc").measure(view).value == pytest.approx(0.5885, abs=0.012)
    assert metric(name).measure(view).value > (0.68 if name == "rmia" else 0.73)


@pytest.mark.parametrize("name", AREAS)
def test_a_retrained_model_is_at_one_half(name):
    """Even though base models are trained on half of the forget set and on no unseen example."""
    values = np.array([metric(name).measure(game(4, 0.0, pool_gain=3.0, n=2000, seed=seed)).value for seed in range(30)])
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - 0.5) < max(3 * error, 0.001) and error < 0.003


@pytest.mark.parametrize("name", AREAS)
def test_standard_errors_are_those_of_repetitions(name):
    found = [metric(name).measure(game(8, 0.5, n=500, seed=seed)) for seed in range(40)]
    ratio = np.mean([estimate.standard_error for estimate in found]) / np.std([estimate.value for estimate in found])
    assert 0.75 < ratio < (1.7 if name == "quantile_attack" else 1.3)


@pytest.mark.parametrize("name", AREAS)
def test_exchanging_members_and_nonmembers_mirrors_the_area(name):
    view = game(8, 1.0, own=True)
    if name in ("lira_offline", "rmia"):  # each example keeps its own plan and score, and the scale is chosen on either half alike
        assert metric(name).measure(swapped(view)).value == pytest.approx(1 - metric(name).measure(view).value, abs=2e-3)
    remembered, repelled = (metric(name).measure(game(8, gain)).value for gain in (1.0, -1.0))
    assert remembered > 0.65 and repelled == pytest.approx(1 - remembered, abs=0.02 if name != "rmia" else 0.06)


@pytest.mark.parametrize("name", [*AREAS, "lira_member_rate", "lira_tpr_1", "rmia_tpr_1", "quantile_member_rate"])
def test_the_order_of_examples_does_not_matter_and_repetition_gives_the_same(name):
    view = game(8, 0.7, n=1500)
    one, again, other = (metric(name).measure(seen) for seen in (view, game(8, 0.7, n=1500), permuted(view)))
    assert one == again
    assert other.value == pytest.approx(one.value, abs=1e-9) and other.standard_error == pytest.approx(one.standard_error, rel=1e-6)


@pytest.mark.parametrize("name", AREAS)
def test_areas_rise_with_what_is_left(name):
    values = [metric(name).measure(game(16, gain, n=2000)).value for gain in (0, 0.25, 0.5, 1, 2, 3)]
    assert np.all(np.diff(values) > 0) and values[-1] > 0.85


def test_pooled_standard_scores_do_not_care_for_the_unit_of_margins():
    view = game(8, 1.0, n=2000)
    scaled = {part: Reference(3 * seen.margins, seen.inside) for part, seen in view.references.items()}
    tripled = View({part: logits * np.float32(3) for part, logits in view.logits.items()}, view.labels, scaled)
    for name in ("lira_offline", "lira_online", "lira_member_rate", "quantile_attack"):
        assert metric(name).measure(tripled).value == pytest.approx(metric(name).measure(view).value, abs=1e-6)


def test_unseen_examples_borrow_the_plan_of_forget_examples():
    view = game(8, 0.0, n=600)
    found = pairing.targets(view)
    assert (found.outside.sum(axis=0) == 4).all() and found.forgotten.sum() == 600
    plan = found.outside[:, ~found.forgotten]
    assert not np.array_equal(plan, found.outside[:, found.forgotten]) and 0.4 < plan.mean(axis=1).min()
    trained = game(8, 0.0, n=600, own=True)
    assert np.array_equal(pairing.targets(trained).outside[:, 600:], ~trained.references["unseen"].inside)


def test_taking_all_models_for_unseen_examples_would_shift_the_rate():
    """Why plans are borrowed: known better, unseen scores spread less, and a retrained model looks exposed."""
    rates, naive = [], []
    for seed in range(8):
        view = game(4, 0.0, n=6000, seed=seed)
        rates.append(metric("lira_tpr_1").measure(view).value)
        forget, unseen = (view.references[part] for part in ("forget", "unseen"))
        known = moments(forget.margins, ~forget.inside), moments(unseen.margins)
        scores = [view.margin(part) - side.mean for part, side in zip(("forget", "unseen"), known, strict=True)]
        naive.append(100 * roc.tpr_at_fpr(*scores, 0.01).value)
    assert np.mean(rates) == pytest.approx(1.0, abs=0.2) and np.mean(naive) > 1.4


def test_two_sided_ranking_calls_a_repelled_set_a_member():
    view = game(16, -3.0, n=2000)
    found = pairing.targets(view)
    known = moments(found.references, found.outside)
    wrong = -stats.norm.logpdf(found.margins, known.mean, 1.0)
    assert roc.auc(*found.split(wrong)) > 0.8 and metric("lira_offline").measure(view).value < 0.1


def test_an_uncentred_variance_is_another_attack():
    """The published fixed variance is that of all trained models' margins together: far too wide where examples differ."""
    view = game(16, 1.0, own=True)
    seen = view.references["forget"]
    honest = moments(seen.margins, seen.inside).pooled_variance()[0]
    published = float(np.var(seen.margins[seen.inside]))
    assert honest == pytest.approx(1, abs=0.05) and published == pytest.approx(1 + SPREAD**2, rel=0.05)
    assert ratios.standard_scores(view)[1].std() == pytest.approx(np.sqrt(1 + 1 / 8), rel=0.05)  # a third of that with the published one


def test_sorting_and_truncating_reference_signals_favours_high_ones():
    """The published selection keeps the largest half where a population example has all models outside."""
    view = game(8, 1.0, n=2000)
    unseen = view.references["unseen"]
    honest = rmia.reference_offline(unseen.margins, unseen.inside, 1.0)
    truncated = np.sort(rmia.probability(unseen.margins), axis=0)[::-1][:4].mean(axis=0)
    assert (truncated >= honest - 1e-12).all() and np.mean(truncated - honest) > 0.03
    forget = view.references["forget"]
    base = rmia.reference_offline(forget.margins, forget.inside, 1.0)
    wrong = roc.auc(rmia.ratio(view.margin("forget"), base), rmia.ratio(view.margin("unseen"), truncated))
    null = game(8, 0.0, n=2000)
    base = rmia.reference_offline(null.references["forget"].margins, null.references["forget"].inside, 1.0)
    high = np.sort(rmia.probability(null.references["unseen"].margins), axis=0)[::-1][:4].mean(axis=0)
    assert roc.auc(rmia.ratio(null.margin("forget"), base), rmia.ratio(null.margin("unseen"), high)) > 0.55
    assert wrong > metric("rmia").measure(view).value and metric("rmia").measure(null).value == pytest.approx(0.5, abs=0.03)


def test_the_scale_of_the_ratio_attack_comes_from_the_base_pool_alone():
    view = game(8, 1.0, n=1000)
    other = View({part: np.zeros_like(logits) for part, logits in view.logits.items()}, view.labels, view.references)
    assert ratios.offline_scale(view) == ratios.offline_scale(other) and ratios.offline_scale(game(2, 1.0)) == ratios.UNCHOSEN_SCALE
    assert metric("rmia").measure(game(2, 2.0)).value > 0.7  # works with a pair of models


def test_per_example_variance_is_used_from_32_models_a_side():
    made = np.random.default_rng(0)
    view = game(64, 1.0, n=500)
    uneven = {
        part: Reference((seen.margins * made.uniform(0.5, 2, 500)).astype(np.float32), seen.inside)
        for part, seen in view.references.items()
    }
    scored = ratios.standard_scores(View(view.logits, view.labels, uneven))
    found = pairing.targets(View(view.logits, view.labels, uneven))
    known = moments(found.references, found.outside)
    assert np.concatenate(scored) == pytest.approx((found.margins - known.mean) / np.sqrt(known.variance))


def test_the_regression_attack_never_sees_a_member_and_holds_its_rate():
    view = game(8, 0.0, n=2000)
    louder = View(view.logits | {"forget": view.logits["forget"] + np.float32([9, 0])}, view.labels, view.references)
    for one, other in zip(regression.folds(view, "linear"), regression.folds(louder, "linear"), strict=True):
        assert np.array_equal(one[1], other[1])
    assert metric("quantile_member_rate").measure(view).value == pytest.approx(5, abs=1.5)
    assert metric("quantile_member_rate").measure(louder).value > 99
    assert metric("quantile_attack", regression="boosting").measure(game(8, 1.0, n=800)).value > 0.7


def test_regression_attack_approaches_the_perfect_fit():
    rate = stats.norm.cdf(stats.norm.ppf(0.05) + 1 / np.sqrt(1 + 1 / 32))
    assert metric("quantile_member_rate").measure(game(64, 1.0, n=4000)).value == pytest.approx(100 * rate, abs=3)


@pytest.mark.parametrize("name", ["lira_tpr_1", "lira_tpr_01", "rmia_tpr_1"])
def test_rates_are_not_printed_from_too_few_unseen_examples(name):
    with pytest.raises(NotEnoughEvidence, match="not measurable at n = 900"):
        metric(name).measure(game(4, 1.0, n=900))


def test_pools_that_cannot_carry_an_attack_say_so():
    flat = game(4, 1.0, n=300)
    same = {part: Reference(np.repeat(seen.margins[:1], 4, axis=0), seen.inside) for part, seen in flat.references.items()}
    for name in ("lira_offline", "lira_online", "lira_member_rate"):
        with pytest.raises(NotEnoughEvidence):
            metric(name).measure(View(flat.logits, flat.labels, same))
    untrained = {part: Reference(seen.margins, np.zeros_like(seen.inside)) for part, seen in flat.references.items()}
    view = View(flat.logits, flat.labels, untrained)
    assert metric("lira_offline").measure(view).value > 0.6 and metric("rmia").measure(view).value > 0.55
    for name in ("lira_online", "lira_member_rate"):
        with pytest.raises(NotEnoughEvidence, match="model"):
            metric(name).measure(view)


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_privacy_leak_is_relative_and_signed(shift):
    grid = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)

    def view(gain: float) -> View:
        return View(
            {"forget": logits_of(grid + gain), "unseen": logits_of(grid)},
            {part: np.zeros(4000, dtype=np.int64) for part in ("forget", "unseen")},
        )

    area = stats.norm.cdf(shift / np.sqrt(2))
    assert metric("privacy_leak").compare(view(shift), view(0)).value == pytest.approx(100 * (area / 0.5 - 1), abs=0.1)
    assert metric("privacy_leak").compare(view(-shift), view(0)).value == pytest.approx(-100 * (area / 0.5 - 1), abs=0.1)
    assert metric("privacy_leak").compare(view(shift), view(shift)).value == 0
    with pytest.raises(NotEnoughEvidence, match="AUC is 0"):
        metric("privacy_leak").compare(view(0), view(-99))


def test_paired_error_of_a_ratio_of_areas_matches_simulation():
    made, values, errors = np.random.default_rng(0), [], []
    for _ in range(400):
        common = made.normal(size=(2, 150))
        models = [influence(common[0] + gain + 0.5 * made.normal(size=150), common[1] + 0.5 * made.normal(size=150)) for gain in (0.7, 0)]
        values.append(models[0].value / models[1].value)
        errors.append(ratio_error(*models))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)
    assert models[0].value == pytest.approx(models[0].negative.mean())


def test_starting_kit_attack_sees_both_directions():
    made = np.random.default_rng(0)
    same, far = made.exponential(size=(2, 400)), made.exponential(size=400) + 5
    assert balanced_accuracy(*same).mean() == pytest.approx(0.5, abs=0.06)
    one, other = (balanced_accuracy(*groups).mean() for groups in ((far, same[0]), (same[0], far)))
    assert one == pytest.approx(other, abs=0.02) and min(one, other) > 0.95
    with pytest.raises(NotEnoughEvidence, match="n = 9"):
        balanced_accuracy(same[0][:9], same[1])


def test_balanced_median_weighs_both_groups_alike():
    assert balanced_median(np.zeros(1000), np.ones(10)) == 0
    first, second = np.arange(100.0), np.arange(1000.0, 1010.0)
    assert first.max() <= balanced_median(first, second) <= second.min()
