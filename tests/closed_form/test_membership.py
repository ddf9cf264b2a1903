"""Membership attacks: identities, agreement of the fast form, conventions."""

import numpy as np
import pytest

from expunge.metrics import functional as F


def confidences(count: int, shift: float, seed: int) -> np.ndarray:
    made = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-made.normal(shift, 2.5, count)))


MEMBERS, NONMEMBERS, FORGET = confidences(1200, 3, 0), confidences(1200, 1, 1), confidences(400, 1.5, 2)


@pytest.mark.parametrize("bins", [256, 1024])
def test_binned_fit_agrees_with_the_full_fit(bins):
    full = F.svc_membership(MEMBERS, NONMEMBERS, FORGET)
    binned = F.svc_membership_binned(MEMBERS, NONMEMBERS, FORGET, bins)
    assert 0.1 < full.mean() < 0.95
    assert np.mean(full == binned) >= 0.995


def test_binned_fit_is_exact_for_few_distinct_values():
    members, nonmembers, targets = (np.round(values, 1) for values in (MEMBERS, NONMEMBERS, FORGET))
    assert np.array_equal(F.svc_membership(members, nonmembers, targets), F.svc_membership_binned(members, nonmembers, targets))


@pytest.mark.parametrize("attack", [F.svc_membership_binned, F.svc_membership, F.threshold_membership])
def test_attack_on_correctness_equals_the_error(attack):
    made = np.random.default_rng(0)
    retain, test, forget = (made.random(n) < rate for n, rate in ((900, 0.98), (500, 0.9), (300, 0.93)))
    unseen = F.forget_efficacy(attack, retain.astype(float), test.astype(float), forget.astype(float))
    assert 0 < unseen.sum() and np.array_equal(unseen, ~forget)


@pytest.mark.parametrize("attack", [F.svc_membership_binned, F.svc_membership, F.threshold_membership])
def test_a_constant_feature_gives_one_answer_for_all(attack):
    calls = attack(np.full(50, 0.5), np.full(50, 0.5), np.full(20, 0.5))
    assert calls.mean() in (0, 1)


@pytest.mark.parametrize("attack", [F.svc_membership_binned, F.threshold_membership])
def test_separable_and_identical_groups(attack):
    high, low = np.linspace(0.8, 1, 300), np.linspace(0, 0.2, 300)
    assert np.all(F.forget_efficacy(attack, high, low, low))
    assert not np.any(F.forget_efficacy(attack, high, low, high))
    assert F.training_privacy(attack, high, low) == 1
    same = confidences(4000, 1, 5)
    assert F.training_privacy(attack, same[:2000], same[2000:]) == pytest.approx(0.5, abs=0.05)


def test_efficacy_is_the_nonmember_rate_and_not_the_member_rate():
    unseen = F.forget_efficacy(F.threshold_membership, MEMBERS, NONMEMBERS, FORGET)
    assert np.array_equal(unseen, ~F.threshold_membership(F.draw(MEMBERS, 1200), F.draw(NONMEMBERS, 1200), FORGET))
    easy = F.forget_efficacy(F.threshold_membership, MEMBERS, NONMEMBERS, MEMBERS)
    assert easy.mean() < unseen.mean() < F.forget_efficacy(F.threshold_membership, MEMBERS, NONMEMBERS, NONMEMBERS).mean()


def test_order_of_the_forget_set_does_not_matter():
    order = np.random.default_rng(0).permutation(len(FORGET))
    for attack in (F.svc_membership_binned, F.threshold_membership):
        calls = attack(MEMBERS, NONMEMBERS, FORGET)
        assert np.array_equal(attack(MEMBERS, NONMEMBERS, FORGET[order]), calls[order])


def test_threshold_and_support_vectors_are_different_attacks():
    assert np.mean(F.svc_membership_binned(MEMBERS, NONMEMBERS, FORGET) == F.threshold_membership(MEMBERS, NONMEMBERS, FORGET)) < 0.98


def test_members_are_a_drawn_sample_and_not_the_first_ones():
    sorted_values = np.arange(10_000.0)
    drawn = F.draw(sorted_values, 1000)
    assert len(np.unique(drawn)) == 1000 and abs(drawn.mean() - 5000) < 500
    assert np.array_equal(drawn, F.draw(sorted_values, 1000)) and not np.array_equal(drawn, F.draw(sorted_values, 1000, seed=1))
    assert F.draw(sorted_values, 20_000) is sorted_values


def test_vector_of_probabilities_is_possible():
    made = np.random.default_rng(0)
    members, nonmembers = made.dirichlet([5, 1, 1], 80), made.dirichlet([1, 1, 5], 80)
    assert F.svc_membership(members, nonmembers, members).mean() > 0.8
