"""Scores that choose forget sets, against cases with a known answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import nn

from expunge.attacks.margins import design
from expunge.attacks.memorization import largest_standard_error, memorization, separability
from expunge.data.source import TensorSource
from expunge.engine.stream import Stream
from expunge.errors import BadInput
from expunge.pools.worst_case import Unlearner, project, search
from expunge.representation.entanglement import by_distance, distances_to_center, entanglement, start


def test_memorization_of_examples_with_a_known_answer():
    inside = design(8, 3, 2).astype(bool)
    always, only_inside, half = np.ones(8, bool), inside[:, 1], np.arange(8) % 4 < 2
    found = memorization(np.stack([always, only_inside, ~inside[:, 2]], axis=1), inside)
    assert found.score.tolist() == [0, 1, -1] and found.standard_error.tolist() == [0, 0, 0]
    mixed = memorization(half[:, None], np.arange(8)[:, None] < 4)
    assert mixed.score.tolist() == [0] and mixed.standard_error == pytest.approx(np.sqrt(2 * 0.25 / 4))


def test_memorization_is_the_naive_difference_of_means():
    random = np.random.default_rng(0)
    hits, inside = random.random((12, 40)) < 0.6, design(12, 40, 2, seed=3).astype(bool)
    found = memorization(hits, inside)
    for i in range(40):
        with_it, without = hits[inside[:, i], i], hits[~inside[:, i], i]
        assert found.score[i] == pytest.approx(with_it.mean() - without.mean())
        assert found.standard_error[i] == pytest.approx(np.sqrt(with_it.var() / len(with_it) + without.var() / len(without)))


def test_an_example_that_is_in_all_models_has_no_score():
    with pytest.raises(BadInput, match="in all models, or in none"):
        memorization(np.ones((4, 1), bool), np.ones((4, 1), bool))


@pytest.mark.parametrize("models, share, expected", [(64, 0.5, 0.125), (256, 0.5, 0.0625), (400, 0.7, 0.0546), (2000, 0.7, 0.0244)])
def test_largest_standard_error(models, share, expected):
    assert largest_standard_error(models, share) == pytest.approx(expected, abs=5e-5)
    if share == 0.5:
        inside = np.arange(models)[:, None] < models // 2
        hits = np.arange(models)[:, None] % 2 == 0
        assert memorization(hits, inside).standard_error == pytest.approx(expected)


def test_separability_of_shifted_margins_is_the_shift():
    random, inside = np.random.default_rng(0), design(64, 400, 2).astype(bool)
    shifts = np.tile([0.0, 0.5, 2.0, -1.0], 100)
    margins = (5 * random.standard_normal(400) + 3 * random.standard_normal((64, 400)) + 3 * shifts * inside).astype(np.float32)
    found = separability(margins, inside)
    for shift in np.unique(shifts):
        assert found[shifts == shift].mean() == pytest.approx(shift, abs=0.1)
    paired = np.repeat(design(32, 400, 2).astype(bool), 2, axis=0)  # noise of both signs on each side
    margins = (np.where(paired, 2.0, 0.0) + np.tile([1.0, -1.0], 32)[:, None]).astype(np.float32)
    assert separability(margins, paired) == pytest.approx(2 / np.sqrt(64 / 62))  # two means cost two degrees of freedom


def test_entanglement_of_two_clouds():
    random = np.random.default_rng(0)
    features = random.standard_normal((4000, 3))
    forget = np.arange(4000) < 1000
    features[forget] += [4, 0, 0]
    assert entanglement(features, forget) == pytest.approx((3 + 3) / 4, rel=0.1)
    assert entanglement(7 * features - 3, forget) == pytest.approx(entanglement(features, forget))
    assert entanglement(features, random.permutation(forget)) > 20
    with pytest.raises(BadInput, match="empty"):
        entanglement(features, np.zeros(4000, bool))


def test_entanglement_is_the_formula_written_naively():
    features, forget = np.random.default_rng(1).standard_normal((30, 4)), np.arange(30) % 3 == 0
    kept, gone = [x for x, f in zip(features, forget, strict=True) if not f], [x for x, f in zip(features, forget, strict=True) if f]
    mean_kept, mean_gone = sum(kept) / len(kept), sum(gone) / len(gone)
    middle = (mean_kept + mean_gone) / 2
    within = sum(np.linalg.norm(x - mean_kept) ** 2 for x in kept) / 20 + sum(np.linalg.norm(x - mean_gone) ** 2 for x in gone) / 10
    between = (np.linalg.norm(mean_kept - middle) ** 2 + np.linalg.norm(mean_gone - middle) ** 2) / 2
    assert entanglement(features, forget) == pytest.approx(within / between)
    center = sum(features) / 30
    assert distances_to_center(features) == pytest.approx([np.linalg.norm(x - center) for x in features])


def test_sets_by_distance_go_from_the_innermost_to_the_outermost():
    features = np.random.default_rng(3).standard_normal((50, 4)) + [5, 0, 0, 0] * (np.arange(50)[:, None] < 10)
    scores, places = by_distance(features, size=10, sets=9)
    order = sorted(range(50), key=lambda i: distances_to_center(features)[i])
    assert places[order].tolist() == list(range(50))
    assert [start(k, 50, 10, 9) for k in range(9)] == list(range(0, 45, 5))
    for number, score in enumerate(scores):
        members = order[5 * number : 5 * number + 10]
        assert score == pytest.approx(entanglement(features, np.isin(np.arange(50), members)))
    assert scores.argmin() == 8, "the cloud of ten is what lies apart"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0, 1))
def test_projection_meets_its_constraints_and_is_optimal(values, share):
    a, total = np.array(values), share * len(values)
    w = project(a, total)
    assert (w >= 0).all() and (w <= 1).all() and w.sum() == pytest.approx(total, abs=1e-8)
    shift = (a - w)[(w > 1e-9) & (w < 1 - 1e-9)]
    if len(shift):  # what is between the bounds is shifted by one number, which the others agree with
        assert np.ptp(shift) < 1e-8
        assert (a[w <= 1e-9] <= shift[0] + 1e-8).all() and (a[w >= 1 - 1e-9] >= shift[0] + 1 - 1e-8).all()


def test_projection_is_what_a_solver_finds():
    a = np.random.default_rng(2).standard_normal(12)
    solved = optimize.minimize(
        lambda w: ((w - a) ** 2).sum(),
        np.full(12, 1 / 3),
        jac=lambda w: 2 * (w - a),
        bounds=[(0, 1)] * 12,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 4, "jac": np.ones_like},
        options={"ftol": 1e-14},
    )
    assert project(a, 4) == pytest.approx(solved.x, abs=1e-5)
    assert project(np.array([3.0, 1.0, 2.0]), 3) == pytest.approx([1, 1, 1]) and project(np.array([3.0, 1.0]), 0) == pytest.approx(
        [0, 0], abs=1e-9
    )
    with pytest.raises(BadInput, match="cannot add up to 4"):
        project(np.zeros(3), 4)


def test_search_ends_where_the_quadratic_problem_does():
    losses = np.array([0.1, 0.5, 0.2, 0.9, 0.4, 0.3])
    found = search(lambda weight: losses, 6, 3, rounds=1000, step=0.05, penalty=0.2)
    assert found.weight == pytest.approx(project(-losses / 0.4, 3), abs=1e-6)
    assert found.weight.sum() == pytest.approx(3) and np.diff(found.values).max() < 1e-12
    one = search(lambda weight: losses, 6, 3, rounds=1, step=0.01, penalty=0.2)
    assert one.weight == pytest.approx(project(0.5 - 0.01 * (losses + 0.4 * 0.5), 3)) and one.values == [pytest.approx(losses.mean())]


def test_search_prefers_examples_that_the_others_vouch_for():
    """Of ten copies of a picture any is known without it; loners are known only while they are trained on."""
    x = torch.cat([torch.eye(7)[:1].repeat(10, 1), torch.eye(7)[1:]])
    y = torch.tensor([0] * 10 + [1, 0, 1, 0, 1, 1])
    model = nn.Linear(7, 2, bias=False)
    nn.init.zeros_(model.weight)
    stream = Stream("train", TensorSource(x, y), torch.arange(16))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    unlearner = Unlearner(model, stream, 2, epochs=10, lr=0.1, batch_size=16, seed=0)
    found = search(unlearner, 16, 4, rounds=2, step=0.5, penalty=0.0)
    assert found.weight[:10].min() > found.weight[10:].max()
    alone = unlearner((np.arange(16) >= 12).astype(float))
    assert alone[12:] == pytest.approx([np.log(2)] * 4) and alone[:12].max() < 0.3, "what has weight 1 is not trained on"
    assert all(torch.equal(start[name], value) for name, value in unlearner.start.items()), "every round starts from the original"


def test_unlearning_follows_the_sign_of_the_gradient():
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    stream = Stream("train", TensorSource(torch.rand(8, 3), torch.arange(8) % 2), torch.arange(8))
    Unlearner(model, stream, 2, epochs=1, lr=0.01, batch_size=8, seed=0)(np.zeros(8))
    assert (model.weight - before).abs().flatten().tolist() == pytest.approx([0.01] * 6, rel=1e-3)
