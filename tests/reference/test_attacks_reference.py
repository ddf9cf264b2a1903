"""Every attack against its definition written naively: loops, all pairs, all rules."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from expunge.attacks import forgetting_quality as quality
from expunge.attacks import gaussian, klom, lira, margins, moments, per_example, rmia, roc, set_level
from expunge.errors import BadInput


def rounded(made, *shape):
    """Return scores with many ties, zeros of both signs and large values."""
    x = np.round(made.normal(size=shape) * 2).astype(np.float32)
    x[x == 0] *= made.choice([-1, 1])
    return x * np.float32(made.choice([1, 1e-3, 1e6]))


def pair_counts(positive, negative):
    return np.mean([(a > b) + (a == b) / 2 for a in positive for b in negative]) if len(positive) and len(negative) else np.nan


@given(seed=st.integers(0, 10_000), models=st.integers(1, 9), examples=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_area_and_placements_count_pairs(seed, models, examples):
    made = np.random.default_rng(seed)
    one, zero = rounded(made, models, examples), rounded(made, models + 2, examples)
    masks = made.random(one.shape) < 0.7, made.random(zero.shape) < 0.7
    found = per_example.auc(one, zero, *masks)
    expected = [pair_counts(one[masks[0][:, i], i], zero[masks[1][:, i], i]) for i in range(examples)]
    assert np.array_equal(found, expected, equal_nan=True) or found == pytest.approx(expected, nan_ok=True)
    won, beaten = per_example.placements(one, zero, *masks)
    for i in range(examples):
        others = zero[masks[1][:, i], i]
        for k in np.flatnonzero(masks[0][:, i]) if len(others) else ():
            assert won[k, i] == pytest.approx(pair_counts(one[k : k + 1, i], others), abs=1e-6)
        if masks[0][:, i].any() and len(others):
            assert beaten[masks[1][:, i], i].mean() == pytest.approx(expected[i], abs=1e-6)
    assert (won[~masks[0]] == 0).all() and (beaten[~masks[1]] == 0).all()


@given(seed=st.integers(0, 10_000), models=st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_area_of_one_array_with_states(seed, models):
    made = np.random.default_rng(seed)
    x, states = rounded(made, models, 5), made.integers(0, 3, (models, 5))
    found = per_example.auc(x, x, states == 1, states == 0)
    assert found == pytest.approx(per_example.auc(x, x.copy(), states == 1, states == 0), nan_ok=True)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_area_does_not_depend_on_row_order_or_monotone_transforms_or_duplicated_models(seed):
    made = np.random.default_rng(seed)
    one, zero = made.normal(size=(7, 4)).astype(np.float32), made.normal(size=(5, 4)).astype(np.float32)
    base = per_example.auc(one, zero)
    assert np.array_equal(base, per_example.auc(made.permutation(one), made.permutation(zero)))
    assert np.array_equal(base, per_example.auc(one * 4 + 8, zero * 4 + 8)) or np.allclose(base, per_example.auc(one**3, zero**3))
    assert per_example.auc(np.repeat(one, 3, 0), np.repeat(zero, 2, 0)) == pytest.approx(base)
    assert per_example.auc(zero, one) == pytest.approx(1 - base)
    assert np.array_equal(per_example.auc(one[:, ::-1], zero[:, ::-1]), base[::-1])


def test_chunks_do_not_show(monkeypatch):
    made = np.random.default_rng(0)
    one, zero = (made.normal(size=(6, 23)).astype(np.float32) for _ in range(2))
    mask = made.random(one.shape) < 0.6
    calls = (
        lambda: per_example.auc(one, zero),
        lambda: per_example.mann_whitney(one, zero).p_value,
        lambda: per_example.placements(one, zero, mask, ~mask)[0],
        lambda: moments.moments(one, mask).squares,
        lambda: klom.klom(one, zero),
        lambda: gaussian.energy_distance(one, zero),
        lambda: quality.epsilons(one, zero),
        lambda: rmia.reference_offline(one),
        lambda: set_level.mean_discrepancy(one, zero, permutations=9).value,
    )
    whole = [call() for call in calls]
    monkeypatch.setattr(margins.chunks, "__defaults__", (30,))
    assert len(list(margins.chunks(one.shape))) == 5
    for call, expected in zip(calls, whole, strict=True):
        assert call() == pytest.approx(expected, nan_ok=True)


def test_tests_agree_with_scipy():
    made = np.random.default_rng(0)
    for one, zero in ((made.normal(size=(9, 30)), made.normal(0.5, 1, (12, 30))), (rounded(made, 9, 30), rounded(made, 12, 30))):
        one, zero = one.astype(np.float32), zero.astype(np.float32)
        ranks = per_example.mann_whitney(one, zero)
        expected = stats.mannwhitneyu(one, zero, axis=0, method="asymptotic")
        assert ranks.statistic == pytest.approx(expected.statistic / 108)
        assert ranks.p_value == pytest.approx(np.minimum(expected.pvalue, 1), rel=1e-6)
        steps = per_example.kolmogorov_smirnov(one, zero).statistic
        assert steps == pytest.approx([stats.ks_2samp(one[:, i], zero[:, i], method="asymp").statistic for i in range(30)])
    assert (per_example.mann_whitney(np.ones((5, 2)), np.ones((5, 2))).p_value == 1).all()


@given(seed=st.integers(0, 10_000), models=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_moments(seed, models):
    made = np.random.default_rng(seed)
    x = (made.normal(size=(models, 5)) + 1e4).astype(np.float32)
    mask = made.random(x.shape) < 0.6
    found, grown = moments.moments(x, mask), moments.moments(x[:1], mask[:1])
    for row, held in zip(x[1:], mask[1:], strict=True):
        grown = moments.extend(grown, row, held)
    halves = moments.moments(x[: models // 2 + 1], mask[: models // 2 + 1])
    rest = moments.moments(x[models // 2 + 1 :], mask[models // 2 + 1 :]) if models > models // 2 + 1 else None
    for each in (found, grown, halves.merge(rest) if rest else found):
        for i in range(5):
            own = x[mask[:, i], i].astype(np.float64)
            assert each.count[i] == len(own)
            assert each.mean[i] == pytest.approx(own.mean() if len(own) else np.nan, nan_ok=True, rel=1e-12)
            assert each.squares[i] == pytest.approx(((own - own.mean()) ** 2).sum() if len(own) else 0, abs=1e-7)
            assert each.variance[i] == pytest.approx(own.var(ddof=1) if len(own) > 1 else np.nan, nan_ok=True, abs=1e-7)
    left = found.without(x.astype(np.float64), mask)
    for k in range(models):
        others = moments.moments(np.delete(x, k, 0), np.delete(mask, k, 0)) if models > 1 else None
        if others:
            assert left.mean[k] == pytest.approx(others.mean, nan_ok=True, rel=1e-10)
            assert left.squares[k] == pytest.approx(others.squares, abs=1e-6)


def test_shared_masks_and_pooled_variance():
    made = np.random.default_rng(0)
    x = made.normal(size=(9, 6)).astype(np.float32)
    rows = np.arange(9) < 5
    one, full = moments.moments(x, rows), moments.moments(x, np.repeat(rows[:, None], 6, 1))
    assert one.mean == pytest.approx(full.mean) and one.squares == pytest.approx(full.squares)
    assert one.pooled_variance() == pytest.approx(x[:5].astype(float).var(axis=0, ddof=1).mean())
    assert np.isnan(moments.moments(x, np.zeros(9, bool)).mean).all()


def test_likelihood_ratio_and_standard_score():
    made = np.random.default_rng(0)
    x, target = made.normal(size=(80, 4)).astype(np.float32), made.normal(size=(3, 4)).astype(np.float32)
    inside = margins.design(80, 4, 2) == 1
    one, zero = moments.moments(x, inside), moments.moments(x, ~inside)
    found, scores = lira.online(target, one, zero), lira.offline(target, zero)
    for i in range(4):
        groups = [x[mask[:, i], i].astype(float) for mask in (inside, ~inside)]
        laws = [stats.norm(group.mean(), group.std(ddof=1)) for group in groups]
        assert found[:, i] == pytest.approx(laws[0].logpdf(target[:, i]) - laws[1].logpdf(target[:, i]), rel=1e-6, abs=1e-6)
        assert scores[:, i] == pytest.approx((target[:, i] - groups[1].mean()) / groups[1].std(ddof=1), rel=1e-5)


def test_relative_attack_over_all_pairs():
    made = np.random.default_rng(0)
    x = made.normal(size=(6, 30)).astype(np.float32)
    inside = margins.design(6, 30, 2) == 1
    target, population = made.normal(size=30).astype(np.float32), made.normal(size=25).astype(np.float32)
    p = 1 / (1 + np.exp(-x.astype(float)))
    out = np.array([p[~inside[:, i], i].mean() for i in range(30)])
    both = np.array([(p[inside[:, i], i].mean() + p[~inside[:, i], i].mean()) / 2 for i in range(30)])
    assert rmia.reference_online(x, inside) == pytest.approx(both)
    assert rmia.reference_offline(x, inside, 0.4) == pytest.approx((1.4 * out + 0.6) / 2)
    assert rmia.reference_offline(x, scale=1.0) == pytest.approx(p.mean(axis=0))
    z = rmia.ratio(population, np.full(25, 0.5))
    own = 1 / (1 + np.exp(-target.astype(float))) / both
    for gamma in (1.0, 1.5):
        expected = [np.mean([a / b >= gamma for b in z]) for a in own]
        assert rmia.score(target, both, z, gamma) == pytest.approx(expected)
    tied = rmia.score(np.zeros(1), np.full(1, 0.5), np.ones(4))
    assert tied[0] == 1, "equal ratios count at gamma 1"


def brute_force_epsilon(unlearned, retrained, delta):
    """Return the challenge's estimate by trying every rule on every model."""
    u, r = (np.asarray(values, dtype=np.float64) for values in (unlearned, retrained))
    ranges = np.ptp(u), np.ptp(r)
    if min(ranges) / max(ranges) < 0.01:
        return 50.0
    positive, negative = (r, u) if np.median(r) > np.median(u) else (u, r)
    rules = []
    low, high = min(u.min(), r.min()), max(u.max(), r.max())
    for t in np.linspace(np.float32(low), np.float32(high), int(np.ceil((high - low) * 100)), dtype=np.float32):
        rules.append((np.mean(positive < t), np.mean(negative >= t)))
    if np.ptp(positive) >= np.ptp(negative):
        positive, negative = negative, positive
    width = np.ptp(positive)
    first, last = positive.min() + width - 2, positive.max() + 2
    for right in np.linspace(first, last, int(np.ceil((last - first) * 100))):
        lefts = np.linspace(right - width - 2, right - width + 2, 400)
        inside = [(group[:, None] >= lefts) & (group[:, None] <= right) for group in (positive, negative)]
        rules += zip(1 - inside[0].mean(axis=0), inside[1].mean(axis=0), strict=True)
    best = []
    for fnr, fpr in rules:
        if fnr == fpr == 0:
            best.append(np.inf)
        elif fnr > 0 and fpr > 0:
            logs = [math.log(good) - math.log(bad) for good, bad in ((1 - delta - fpr, fnr), (1 - delta - fnr, fpr)) if good > 0]
            best += [max(0.0, *logs)] if logs else []
    return min(max(best), 50.0) if best else np.nan


@pytest.mark.parametrize("kind", range(6))
def test_forgetting_quality_tries_every_rule(kind):
    made = np.random.default_rng(kind)
    laws = [(0, 1), (0.5, 1), (0, 0.3), (3, 1), (0, 0.02), (0.2, 3)][kind]
    one, zero = (made.normal(*laws, (9, 1))).astype(np.float32), made.normal(size=(9, 1)).astype(np.float32)
    for pair in ((one, zero), (zero, one)):
        found = quality.epsilons(*pair)[0]
        expected = brute_force_epsilon(pair[0][:, 0], pair[1][:, 0], 1e-5)
        assert found == pytest.approx(expected, rel=1e-9, nan_ok=True)


def test_forgetting_quality_score_table():
    table, points, start = {}, 1.0, 0.0
    while start + 0.5 <= np.ceil(np.log(511)):
        table[start], points, start = points, points / 2, start + 0.5
    assert len(table) == 14
    values = np.linspace(0, 9, 400)
    expected = [next((p for s, p in table.items() if e < s + 0.5), 0.0) for e in values]
    assert quality.score(values, 512) == pytest.approx(expected)


def naive_klom(p, q, bins, close):
    p, q = (np.clip(values.astype(np.float64), -100, 100) for values in (p, q))
    low, high = min(p.min(), q.min()), max(p.max(), q.max())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    counts = []
    for values in (p, q):
        which = np.digitize(values, edges)
        which[(which == bins + 1) & close] = bins
        counts.append(np.array([(which == b).sum() for b in range(1, bins + 1)]))
    p, q = (count / max(count.sum(), 1) for count in counts)
    return sum(a * np.log(a / max(b, 1e-5)) for a, b in zip(p, q, strict=True) if a > 0)


@given(seed=st.integers(0, 10_000), bins=st.sampled_from([2, 7, 20]))
@settings(max_examples=40, deadline=None)
def test_klom(seed, bins):
    made = np.random.default_rng(seed)
    one, zero = made.normal(0, 60, (8, 4)).astype(np.float32), np.round(made.normal(0, 60, (11, 4))).astype(np.float32)
    one[:, 0] = np.round(one[:, 0])
    for quirks in ("none", "easydub"):
        expected = [naive_klom(one[:, i], zero[:, i], bins, quirks == "none") for i in range(4)]
        assert klom.klom(one, zero, bins, quirks) == pytest.approx(expected, abs=1e-12)


def test_energy_distance_over_all_pairs():
    made = np.random.default_rng(0)
    one, zero = made.normal(size=(6, 5)) + 1e3, made.normal(size=(9, 5)) + 1e3

    def mean_gap(a, b, same):
        gaps = np.abs(a[:, None] - b[None]).sum(axis=(0, 1))
        return gaps / (len(a) * (len(b) - same))

    expected = 2 * mean_gap(one, zero, 0) - mean_gap(one, one, 1) - mean_gap(zero, zero, 1)
    assert gaussian.energy_distance(one, zero) == pytest.approx(expected, abs=1e-9)


def test_normal_divergence():
    made = np.random.default_rng(0)
    one, zero = made.normal(size=(6, 5)), made.normal(1, 2, (9, 5))
    a, b = one.var(axis=0, ddof=1), zero.var(axis=0, ddof=1)
    expected = 0.5 * (a / b - 1 - np.log(a / b)) + (one.mean(axis=0) - zero.mean(axis=0)) ** 2 / (2 * b)
    assert gaussian.gaussian_kl(one, zero, debias=False) == pytest.approx(expected)


def test_mean_discrepancy_over_all_pairs():
    made = np.random.default_rng(0)
    one, zero = made.normal(size=(5, 3)), made.normal(1, 2, (7, 3))
    both = np.concatenate([one, zero])
    both = (both - both.mean(axis=0)) / both.std(axis=0)
    found = set_level.mean_discrepancy(one, zero, permutations=3)
    distance = np.linalg.norm(both[:, None] - both[None], axis=2)
    assert found.bandwidth == pytest.approx(np.median(distance[np.triu_indices(12, 1)]))
    kernel = np.exp(-(distance**2) / (2 * found.bandwidth**2))
    first, second, across = kernel[:5, :5], kernel[5:, 5:], kernel[:5, 5:]
    value = (first.sum() - 5) / 20 + (second.sum() - 7) / 42 - 2 * across.mean()
    assert found.value == pytest.approx(value)


def test_discriminant_is_sklearns_and_solves_all_labellings_at_once():
    from sklearn.covariance import ledoit_wolf

    made = np.random.default_rng(0)
    x = made.normal(size=(40, 12)) @ made.normal(size=(12, 12))
    train = np.arange(40) < 30
    labels = made.random((30, 3)) < 0.5
    found = set_level._lda(x @ x.T, train, ~train, labels, 12, 1.0)
    center = x[train] - x[train].mean(axis=0)
    covariance, intensity = ledoit_wolf(center, assume_centered=True)
    assert set_level._shrinkage(center @ center.T, 12)[0] == pytest.approx(intensity)
    for labelling in range(3):
        target = np.where(labels[:, labelling], 1.0, -1.0)
        direction = np.linalg.solve(covariance, center.T @ (target - target.mean()))
        assert found[:, labelling] == pytest.approx((x[~train] - x[train].mean(axis=0)) @ direction, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("states", [2, 3])
def test_designs_are_balanced_and_grow(states):
    plan = margins.design(12, 301, states, seed=3)
    assert np.array_equal(plan[: 2 * states], margins.design(2 * states, 301, states, seed=3))
    for state in range(states):
        assert ((plan == state).sum(axis=0) == 12 // states).all()
        assert np.ptp((plan == state).sum(axis=1)) <= 1
    if states == 2:
        assert (plan[::2] + plan[1::2] == 1).all()
    for bad in (lambda: margins.design(7, 5, states), lambda: margins.design(8, 5, 4)):
        with pytest.raises(BadInput):
            bad()


@given(models=st.integers(4, 40), count=st.integers(2, 4), block=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_folds_keep_blocks_together(models, count, block):
    if -(-models // block) < count:
        return
    found = margins.folds(models, count, 0, block)
    assert set(found) == set(range(count))
    assert all(len(set(found[start : start + block])) == 1 for start in range(0, models, block))
    assert np.ptp(np.bincount(found[::block])) <= 1


@pytest.mark.parametrize(
    "bad", [np.zeros(3), np.zeros((0, 3)), np.zeros((2, 2), int), np.array([[1.0, np.nan]]), np.array([[np.inf, 1.0]]), [[1.0]]]
)
def test_margins_that_cannot_be_used_are_named(bad):
    with pytest.raises(BadInput, match="margins"):
        margins.check(bad)


def test_pools_and_states_that_do_not_fit_are_named():
    x = np.zeros((3, 4), np.float32)
    for call, text in (
        (lambda: margins.check_pair(x, x[:, :3]), "4 examples, retrained holds 3"),
        (lambda: margins.check_states(np.zeros((3, 3), np.uint8), x.shape), "shape"),
        (lambda: margins.check_states(np.full((3, 4), 7, np.uint8), x.shape), "codes"),
        (lambda: per_example.auc(x, x, np.ones((3, 4), bool), np.ones((3, 4), bool)), "positive and as a negative"),
        (lambda: per_example.auc(x, x, np.ones((3, 3), bool)), "expected bool"),
        (lambda: moments.moments(x, np.ones(2, bool)), "expected bool"),
        (lambda: quality.forgetting_quality(x, x[:2]), "equally many"),
        (lambda: rmia.score(x[0], x[0] + 1, x[0], 0.5), "gamma"),
    ):
        with pytest.raises(BadInput, match=text):
            call()


@given(seed=st.integers(0, 10_000), at=st.sampled_from([0.1, 0.25, 0.5, 1.0]))
@settings(max_examples=40, deadline=None)
def test_rate_at_the_smallest_admissible_threshold(seed, at):
    made = np.random.default_rng(seed)
    positive, negative = np.round(made.normal(1, 2, 60)), np.round(made.normal(0, 2, 120))
    candidates = [t for t in np.append(np.unique(np.concatenate([positive, negative])), np.inf) if np.mean(negative >= t) <= at]
    assert roc.true_positive_rate(positive, negative, at) == pytest.approx(np.mean(positive >= min(candidates)))
    assert roc.tpr_at_fpr(positive, negative, at).value == roc.true_positive_rate(positive, negative, at)
