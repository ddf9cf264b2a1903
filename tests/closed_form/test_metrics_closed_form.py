"""Scores, areas and distances whose value is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from expunge.errors import BadInput
from expunge.metrics import functional as F


def uniform(classes: int = 10) -> np.ndarray:
    return np.zeros((classes, classes), dtype=np.float32)


def one_hot(which: list[int], classes: int = 10, height: float = 1000) -> np.ndarray:
    return (height * np.eye(classes)[which]).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(0, 1000))
def test_top_k_accuracy_is_a_place_in_the_sorted_logits(k, seed):
    made = np.random.default_rng(seed)
    logits, labels = made.integers(0, 4, (30, 5)).astype(np.float32), made.integers(0, 5, 30)
    places = [sorted(range(5), key=lambda c: (-row[c], c)).index(label) for row, label in zip(logits, labels, strict=True)]
    assert F.top_k_accuracy(logits, labels, k) == np.mean([place < k for place in places])
    assert F.top_k_accuracy(logits, labels, 1) == F.accuracy(logits, labels)
    assert k < 5 or F.top_k_accuracy(logits, labels, k) == 1


def test_top_k_accuracy_wants_a_place():
    with pytest.raises(BadInput, match="positive integer, got 0"):
        F.top_k_accuracy(uniform(), np.arange(10), 0)


def test_modified_entropy_known_values():
    labels = np.arange(10)
    assert F.modified_entropy(uniform(), labels) == pytest.approx(2.1671511, abs=1e-6)
    assert F.modified_entropy(one_hot([3]), np.array([3])) == pytest.approx(0, abs=1e-12)
    assert F.modified_entropy(one_hot([3]), np.array([5])) == pytest.approx(-2 * np.log(1e-30))


def test_published_modified_entropy_differs_and_depends_on_the_set():
    labels = np.arange(10)
    assert F.modified_entropy_published(uniform(), labels) == pytest.approx(20.7232658, abs=1e-6)
    alone = F.modified_entropy_published(uniform()[:1], labels[:1])
    assert abs(alone[0] - 20.7232658) > 1
    assert F.modified_entropy(uniform()[:1], labels[:1]) == pytest.approx(2.1671511, abs=1e-6)


def test_modified_entropy_keeps_precision_where_one_minus_p_cancels():
    # p of the wrong class is 1 - 9 e^-40: log(1 - p) = log 9 - 40, though 1 - p is 0 in float64 arithmetic.
    value = F.modified_entropy(one_hot([0], height=40), np.array([1]))
    assert value == pytest.approx(2 * 40 - np.log(9), rel=1e-9)


def test_scores_of_saturated_rows_are_finite_and_exact():
    logits, labels = one_hot([0, 0], height=300), np.array([0, 1])
    assert F.cross_entropy(logits, labels) == pytest.approx([0, 300])
    assert F.margin(logits, labels) == pytest.approx([300 - np.log(9), -300], abs=1e-9)
    assert F.entropy(logits) == pytest.approx([0, 0], abs=1e-12)
    assert F.entropy(uniform()) == pytest.approx(np.log(10))


@pytest.mark.parametrize(
    ("shift", "area", "advantage", "rates"),
    [
        (0.5, 0.6382, 0.1974, (0.0048, 0.0339, 0.1261, 0.2172)),
        (1.0, 0.7602, 0.3829, (0.0183, 0.0924, 0.2595, 0.3891)),
        (2.0, 0.9214, 0.6827, (0.1378, 0.3721, 0.6388, 0.7638)),
        (3.0, 0.9831, 0.8664, (0.4641, 0.7497, 0.9123, 0.9571)),
    ],
)
def test_gaussian_shift(shift, area, advantage, rates):
    grid = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    assert F.auc(grid + shift, grid) == pytest.approx(area, abs=5e-4)
    assert F.advantage(grid + shift, grid) == pytest.approx(advantage, abs=5e-4)
    for rate, at in zip(rates, (0.001, 0.01, 0.05, 0.1), strict=True):
        assert F.true_positive_rate(grid + shift, grid, at) == pytest.approx(rate, abs=2e-3)


@pytest.mark.parametrize(
    ("scale", "rates"),
    [(0.25, (0.0040, 0.0400, 0.1981)), (0.5, (0.0020, 0.0200, 0.0998)), (2, (0.0999, 0.1978, 0.3271)), (3, (0.2727, 0.3906, 0.5136))],
)
def test_gaussian_scale_is_invisible_to_a_monotone_score(scale, rates):
    grid = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    assert F.auc(scale * grid, grid) == pytest.approx(0.5, abs=1e-6)
    sign = 1 if scale > 1 else -1
    for rate, at in zip(rates, (0.001, 0.01, 0.05), strict=True):
        assert F.true_positive_rate(sign * np.abs(scale * grid), sign * np.abs(grid), at) == pytest.approx(rate, abs=2e-3)


@pytest.mark.parametrize(("spread", "area"), [(1, 0.6915), (3, 0.5885), (5, 0.5551)])
def test_population_attack_is_weak_when_difficulty_varies(spread, area):
    grid = np.sqrt(1 + spread**2) * stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    assert F.auc(grid + 1, grid) == pytest.approx(area, abs=5e-4)


def test_unit_shift_agrees_across_metrics():
    x = np.linspace(-9, 10, 40_001)
    p, q, step = stats.norm.pdf(x), stats.norm.pdf(x, 1), 19 / 40_000
    middle = (p + q) / 2
    assert step * np.sum((p * np.log(p / middle) + q * np.log(q / middle)) / 2) == pytest.approx(0.11142, abs=1e-4)
    # Many-class logits that are the log densities give the same divergence through our function.
    logits = np.log(np.stack([p, q])[:, ::40]).astype(np.float32)
    assert F.jensen_shannon(logits[:1], logits[1:])[0] == pytest.approx(0.11142, abs=1e-4)
    grid = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    assert F.advantage(grid + 1, grid) == pytest.approx(0.38292, abs=2e-4)


def test_error_formula_of_the_true_positive_rate():
    threshold = stats.norm.isf(0.01)
    rate, ratio = stats.norm.sf(threshold - 1), stats.norm.pdf(threshold - 1) / stats.norm.pdf(threshold)
    formula = F.true_positive_rate_error(rate, ratio, 0.01, 10_000, 10_000)
    assert formula == pytest.approx(0.0068, abs=1e-4)
    made = np.random.default_rng(0)
    drawn = [F.true_positive_rate(made.normal(1, 1, 10_000), made.normal(size=10_000), 0.01) for _ in range(400)]
    assert np.std(drawn) == pytest.approx(formula, rel=0.12)


def test_rate_is_not_printed_from_fewer_than_ten_false_positives():
    assert F.true_positive_rate(np.ones(100), np.zeros(100), 0.01) is None


def test_area_error_matches_simulation_and_the_null_formula():
    made = np.random.default_rng(1)
    areas = [F.area(made.normal(1, 1, 80), made.normal(size=120)) for _ in range(600)]
    assert np.mean([area.standard_error for area in areas]) == pytest.approx(np.std([area.value for area in areas]), rel=0.1)
    assert F.null_standard_error(100, 100) == pytest.approx(0.041, abs=5e-4)
    same = [F.area(made.normal(size=100), made.normal(size=100)).standard_error for _ in range(100)]
    assert np.mean(same) == pytest.approx(0.041, rel=0.05)


def test_area_has_no_error_where_the_formula_gives_none():
    assert F.area(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == (1.0, None)
    assert F.area(np.array([0.5]), np.array([0.0, 1.0])) == (0.5, None)
    with pytest.raises(ValueError, match="both groups"):
        F.auc(np.array([]), np.array([1.0]))


def test_membership_areas_point_the_right_way():
    low, high = np.linspace(0, 1, 50), np.linspace(0.5, 2, 50)
    assert F.loss_auc(low, high) > 0.8 and F.entropy_auc(low, high) > 0.8
    assert F.loss_auc(high, low) == pytest.approx(1 - F.loss_auc(low, high))


def test_distances_at_their_bounds():
    left, right = one_hot([0]), one_hot([1])
    half = np.array([[0, 0, -1000.0]], dtype=np.float32)
    assert F.jensen_shannon(left, right) == pytest.approx(np.log(2))
    assert F.jensen_shannon(left, left) == pytest.approx(0, abs=1e-15)
    assert F.jensen_shannon(half, one_hot([0], 3)) == pytest.approx(0.2158, abs=1e-4)
    assert F.activation_distance(left, right) == pytest.approx(np.sqrt(2))
    assert F.activation_distance(left, right, "l1") == pytest.approx(2)
    assert F.churn(left, right) == 1 and F.fidelity(left, right) == 0
    assert F.fidelity(left, left) == 1 and F.relative_unlearning_accuracy(np.array([True]), np.array([True])) == 0


def test_tug_of_war_and_average_gap():
    same = {"forget": 0.9, "retain": 1.0, "test": 0.8}
    assert F.tug_of_war(same, same) == 1
    assert F.tug_of_war(same | {"retain": 0.0}, same) == 0
    salun, retrain = {"UA": 2.85, "RA": 99.62, "TA": 93.93, "MIA": 14.39}, {"UA": 5.24, "RA": 100.0, "TA": 94.26, "MIA": 12.88}
    assert F.average_gap(salun, retrain) == pytest.approx(1.15, abs=0.005)
    assert F.signed_gaps(salun, retrain)["UA"] == pytest.approx(-2.39)


def test_histogram_overlap():
    first = np.linspace(0, 1, 1000)
    assert F.histogram_overlap(first, first) == pytest.approx(1)
    assert F.histogram_overlap(first, first + 5) == 0
    assert F.histogram_overlap(np.zeros(3), np.zeros(4)) == 1


FINITE = st.floats(-50, 50, width=32)
LOGITS = arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(2, 6)), elements=FINITE)


@given(LOGITS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_scores_keep_their_bounds_and_the_row_order(logits, random):
    n, classes = logits.shape
    labels = np.array([random.randrange(classes) for _ in range(n)])
    order = np.array(random.sample(range(n), n))
    margins = F.margin(logits, labels)
    assert F.probability(logits, labels) == pytest.approx(1 / (1 + np.exp(-margins)), abs=1e-12)
    assert np.all((F.prediction(logits) == labels)[margins > 1e-9])
    assert np.all((F.entropy(logits) >= -1e-12) & (F.entropy(logits) <= np.log(classes) + 1e-9))
    for score in (F.margin, F.cross_entropy, F.modified_entropy, F.modified_entropy_published):
        assert score(logits[order], labels[order]) == pytest.approx(score(logits, labels)[order], nan_ok=False)


@given(LOGITS, st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_distances_keep_their_bounds_and_are_symmetric(logits, seed):
    other = np.random.default_rng(seed).normal(scale=5, size=logits.shape).astype(np.float32)
    for distance, most in ((F.jensen_shannon, np.log(2)), (F.activation_distance, np.sqrt(2) + 1e-12)):
        values = distance(logits, other)
        assert np.all((values >= 0) & (values <= most))
        assert values == pytest.approx(distance(other, logits), abs=1e-12)
        assert distance(logits, logits + np.float32(3)) == pytest.approx(0, abs=1e-3)


SCORES = arrays(np.float64, st.integers(1, 20), elements=st.integers(-8, 8).map(float))


@given(SCORES, SCORES)
@settings(max_examples=80, deadline=None)
def test_area_is_unmoved_by_monotone_maps_and_flips_with_the_groups(positive, negative):
    area = F.auc(positive, negative)
    naive = np.mean((positive[:, None] > negative) + 0.5 * (positive[:, None] == negative))
    assert area == pytest.approx(naive)
    assert F.auc(np.exp(positive / 3), np.exp(negative / 3)) == pytest.approx(area)
    assert F.auc(negative, positive) == pytest.approx(1 - area)


def test_scores_do_not_depend_on_the_chunk_size(monkeypatch):
    made = np.random.default_rng(0)
    logits, labels = made.normal(size=(37, 5)).astype(np.float32), made.integers(0, 5, 37)
    whole = [score(logits, labels) for score in (F.margin, F.modified_entropy, F.modified_entropy_published)]
    monkeypatch.setattr("expunge.metrics.scores._CHUNK", 20)
    parts = [score(logits, labels) for score in (F.margin, F.modified_entropy, F.modified_entropy_published)]
    for one, other in zip(whole, parts, strict=True):
        assert np.array_equal(one, other)
