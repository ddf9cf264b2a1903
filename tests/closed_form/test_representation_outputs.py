"""Scores of outputs, agreement, challenge attackers and perturbations where the value is known."""

import numpy as np
import pytest
import torch
from scipy import stats

from conftest import SOURCE, trained_net
from expunge.engine.stream import Stream
from expunge.errors import BadInput
from expunge.representation import challenge, neighborhood, outputs
from expunge.representation.agreement import agreement
from expunge.statistics import NotEnoughEvidence

WIDE = 60.0


def one_hot(classes: list[int], count: int = 4) -> np.ndarray:
    return WIDE * np.eye(count, dtype=np.float32)[classes]


def logits(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 2


def test_zrf_is_one_for_the_random_model_and_zero_for_disjoint_answers():
    assert outputs.zero_retrain_forgetting(logits(9, 5), logits(9, 5)) == pytest.approx(1)
    assert outputs.zero_retrain_forgetting(one_hot([0, 1]), one_hot([2, 3])) == pytest.approx(0, abs=1e-9)
    half, certain = np.array([[0.0, 0.0]]), np.array([[WIDE, 0.0]])
    assert outputs.zero_retrain_forgetting(half, certain) == pytest.approx(1 - 0.2158 / np.log(2), abs=1e-4)


def test_published_zrf_depends_on_the_number_of_classes_and_is_unbounded():
    assert outputs.zero_retrain_forgetting_published(logits(9, 5), logits(9, 5)) == pytest.approx(1)
    assert outputs.zero_retrain_forgetting_published(one_hot([0, 1]), one_hot([2, 3])) < -5
    ours, other = logits(50, 10), logits(50, 10, seed=1)
    padded = [np.hstack([part, np.full((50, 90), -WIDE, dtype=np.float32)]) for part in (ours, other)]
    assert outputs.zero_retrain_forgetting(*padded) == pytest.approx(outputs.zero_retrain_forgetting(ours, other), abs=1e-6)
    gaps = 1 - outputs.zero_retrain_forgetting_published(*padded), 1 - outputs.zero_retrain_forgetting_published(ours, other)
    assert gaps[0] == pytest.approx(gaps[1] / 10, rel=1e-3)


def test_calibration_of_known_confidence():
    z = np.zeros((100, 2), dtype=np.float32)
    z[:, 0] = np.log(4)  # confidence 0.8
    labels = np.repeat([0, 1], [80, 20])
    honest = outputs.calibration(z, labels)
    assert honest.expected_error == pytest.approx(0, abs=1e-6) and honest.signed_error == pytest.approx(0, abs=1e-6)
    assert honest.negative_log_likelihood == pytest.approx(-(0.8 * np.log(0.8) + 0.2 * np.log(0.2)), abs=1e-6)
    bold = outputs.calibration(z, 1 - labels)
    assert bold.expected_error == pytest.approx(0.6, abs=1e-6) == pytest.approx(bold.signed_error, abs=1e-6)
    shy = outputs.calibration(z, np.zeros(100, dtype=np.int64))
    assert shy.expected_error == pytest.approx(0.2, abs=1e-6) and shy.signed_error == pytest.approx(-0.2, abs=1e-6)


def test_redistribution_of_a_forgotten_class():
    there, here = one_hot([0, 0, 0, 1]), one_hot([0, 2, 2, 2])
    found = outputs.redistribution(here, there)
    assert found.shares.tolist() == [0.25, 0, 0.75, 0] and found.reference_shares.tolist() == [0.75, 0.25, 0, 0]
    assert found.prediction_distance == pytest.approx(0.75) == pytest.approx(found.probability_distance)
    assert (found.nearest_class, found.nearest_gap) == (0, -0.5)
    assert outputs.redistribution(there, there)[2:4] == (0, 0)


def test_confusion_distance_is_zero_for_equals_and_largest_for_disjoint_answers():
    labels = np.array([0, 0, 1, 2])
    right, wrong = one_hot(labels.tolist()), one_hot(((labels + 1) % 3).tolist())
    assert outputs.confusion_distance(right, right, labels) == 0
    assert outputs.confusion_distance(right, wrong, labels) == pytest.approx(np.sqrt(2 * 3))  # class 3 has no example
    assert outputs.confusion_distance(np.tile(right, (5, 1)), np.tile(wrong, (5, 1)), np.tile(labels, 5)) == pytest.approx(np.sqrt(6))


def test_signed_gap_has_the_sign_and_the_size_of_what_was_added():
    z, labels = logits(40, 4), np.arange(40) % 4
    more = z.copy()
    more[np.arange(40), labels] += 1.5
    up, down = outputs.signed_gap(more, z, labels), outputs.signed_gap(z, more, labels)
    assert up.margin == pytest.approx(1.5, abs=1e-5) and up.over == 0 and up.accuracy > 0
    assert down == pytest.approx((-up.margin, -up.accuracy, 1.0))
    assert outputs.signed_gap(z, z, labels) == (0, 0, 0)


def test_agreement_of_equals_is_one_and_by_hand_otherwise():
    same = {"FA": 0.1, "RA": 0.9, "TFA": 0.0, "TRA": 0.8}
    assert agreement(same, same, 1.0, [0.5, 0.7], [0.5, 0.7]) == pytest.approx((1, 1, 1))
    other = {"FA": 0.3, "RA": 0.9, "TFA": 0.5, "TRA": 0.8}
    found = agreement(other, same, 0.6, [0.5, 0.3], [0.5, 0.7])
    assert found == pytest.approx((0.8 * 0.5, 0.6 * 0.8, 2 * 0.4 * 0.48 / 0.88))
    assert agreement(same, same, -0.01, [0.5], [0.5]) == (1, 0, 0)
    assert agreement({**same, "FA": 1.0}, {**same, "FA": 0.0}, 0.0, [0.5], [0.5]).harmonic == 0


def test_agreement_refuses_percent_missing_parts_and_unequal_sets():
    same = {"FA": 0.1, "RA": 0.9, "TFA": 0.0, "TRA": 0.8}
    with pytest.raises(BadInput, match="fractions"):
        agreement({**same, "RA": 90.0}, same, 1.0, [0.5], [0.5])
    with pytest.raises(BadInput, match="missing"):
        agreement({"FA": 0.1}, same, 1.0, [0.5], [0.5])
    with pytest.raises(BadInput, match="downstream"):
        agreement(same, same, 1.0, [0.5], [])


FAMILIES = ("best_threshold", "gaussian", "logistic")


def total_error(rates: challenge.Rates) -> float:
    return float((rates.false_positive + rates.false_negative).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_attackers_find_nothing_in_equal_laws(family):
    made = np.random.default_rng(0)
    rates = getattr(challenge, family)(made.normal(size=(64, 400)), made.normal(size=(64, 400)))
    assert rates.models == 32 and total_error(rates) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_attackers_reach_the_best_error_of_a_shift(family, shift):
    made = np.random.default_rng(1)
    rates = getattr(challenge, family)(made.normal(size=(400, 60)) + shift, made.normal(size=(400, 60)))
    assert total_error(rates) == pytest.approx(2 * stats.norm.cdf(-abs(shift) / 2), abs=0.02)


@pytest.mark.parametrize("scale", [3.0, 1 / 3])
def test_only_the_gaussian_attacker_sees_a_change_of_spread(scale):
    made = np.random.default_rng(2)
    narrow, wide = made.normal(size=(400, 60)), scale * made.normal(size=(400, 60))
    crossing = np.sqrt(2 * np.log(3) / (1 - 1 / 9))
    best = 2 - (2 * stats.norm.cdf(crossing) - 2 * stats.norm.cdf(crossing / 3)) - 1
    assert total_error(challenge.gaussian(wide, narrow)) == pytest.approx(best, abs=0.02)
    assert total_error(challenge.logistic(wide, narrow)) == pytest.approx(1, abs=0.03)


def test_fixed_thresholds_are_at_probabilities_and_constant_models_are_undecided():
    high = challenge.fixed_thresholds(np.full((4, 2), 10.0), np.full((4, 2), -10.0))
    assert high.false_positive.shape == (9, 2) and not high.false_positive.any() and not high.false_negative.any()
    middle = challenge.fixed_thresholds(np.zeros((4, 1)), np.zeros((4, 1)))
    assert middle.false_positive[:, 0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    for family in FAMILIES:
        rates = getattr(challenge, family)(np.ones((8, 3)), np.ones((8, 3)))
        assert total_error(rates) == pytest.approx(1)
    with pytest.raises(NotEnoughEvidence):
        challenge.halves(np.ones((3, 2)))
    assert set(challenge.families(np.ones((4, 1)), np.ones((4, 1)))) == {*FAMILIES, "fixed_thresholds"}


@pytest.mark.parametrize("ball", ["linf", "l2"])
def test_perturbations_are_uniform_in_the_ball_and_keyed_by_the_example(ball):
    x, index = torch.full((2000, 1, 2, 2), 0.5), torch.arange(2000)
    step = neighborhood.perturb(x, index, 0.2, ball=ball) - x
    length = step.flatten(1).abs().amax(1) if ball == "linf" else step.flatten(1).norm(dim=1)
    assert float(length.max()) <= 0.2 + 1e-6
    assert float((length / 0.2).pow(4).mean()) == pytest.approx(0.5, abs=0.03)
    some = torch.tensor([7, 3, 1999])
    assert torch.equal(neighborhood.perturb(x[some], some, 0.2, ball=ball), (x + step)[some])
    assert not torch.equal(neighborhood.perturb(x, index, 0.2, draw=1, ball=ball), x + step)
    assert neighborhood.perturb(torch.ones(3, 4), torch.arange(3), 0.5, ball=ball).max() <= 1


def test_residual_knowledge_of_a_model_against_itself_is_nothing():
    net, stream = trained_net(), Stream("forget", SOURCE, torch.arange(0, 40))
    found = neighborhood.residual_knowledge(net, net, stream, draws=2)
    assert (found.gap, found.ratio, found.residual_fraction, found.over_fraction) == (0, 1, 0, 0)
    exact = neighborhood.residual_knowledge(net, net, stream, radius=0.0, draws=1)
    assert exact.rate == 1.0
    weak = neighborhood.residual_knowledge(net, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)), stream, draws=2)
    assert weak.gap > 0.3 and weak.residual_fraction > weak.over_fraction and weak.ratio > 1
    assert neighborhood.signed_gap(net, net, stream) == (0, 0, 0)
