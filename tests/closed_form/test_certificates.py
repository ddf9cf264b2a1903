"""Claims of epsilon against attacks: right ones stand, false ones are refuted, and what could have been seen is said."""

import json

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from expunge.attacks.epsilon import gaussian_epsilon
from expunge.audits.assess import assess
from expunge.audits.audit import Panel
from expunge.audits.certificates import CERTIFICATES, LinearHead, NoisyDescent, certificate
from expunge.audits.claim import Claim, claim_of, discriminant, examine, judge, scores
from expunge.errors import BadInput, NotApplicable
from expunge.statistics import NotEnoughEvidence


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


class Shifted:
    """A procedure whose models are N(shift, 1) along one of ``dimension`` axes; its epsilon is known."""

    def __init__(self, shift: float, epsilon: float, dimension: int = 5):
        self.shift, self.claim, self.dimension = shift, Claim(epsilon, 1e-5), dimension

    def unlearned(self, models: int, seed: int) -> np.ndarray:
        return self.retrained(models, seed + 10_000) + self.shift * np.eye(self.dimension)[0]

    def retrained(self, models: int, seed: int) -> np.ndarray:
        return np.random.default_rng([1, seed]).normal(size=(models, self.dimension))


# Right and false claims


def test_a_right_and_tight_claim_is_refuted_no_more_often_than_stated():
    """The claim is the exact epsilon of the law, so that nothing but the bound's own error can refute it."""
    right = gaussian_epsilon(1.0, 1e-5)
    refuted = [examine(Shifted(1.0, right), 128, seed).refuted for seed in range(12)]
    assert len(refuted) == 12 and sum(refuted) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0, 2.0])
def test_right_and_tight_claims_often(shift):
    refuted = [examine(Shifted(shift, gaussian_epsilon(shift, 1e-5)), 256, seed).refuted for seed in range(200)]
    assert len(refuted) == 200 and np.mean(refuted) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_a_claim_of_a_tenth_of_the_truth_is_refuted_where_the_ceiling_allows():
    found = examine(Shifted(4.0, gaussian_epsilon(4.0, 1e-5) / 10), 1024)
    assert found.refuted and found.bounds.clopper_pearson.value <= found.ceiling == pytest.approx(4.23, abs=0.01)
    assert found.verdict.startswith("refuted: epsilon 2.44") and "95% confidence" in found.verdict


def test_a_claim_beyond_the_ceiling_is_not_examined():
    found = examine(Shifted(8.0, 10.0), 64)
    assert not found.refuted and found.verdict.startswith("not examined") and "make more models" in found.verdict


@pytest.mark.parametrize(
    "fields",
    [{"noise": 0.1}, {"steps": 0, "deviation": 0.03, "claimed": 0.5}],
    ids=["noise ten times too small", "an epsilon that nobody computed"],
)
def test_false_certificates_of_noise_are_refuted(fields):
    assert examine(NoisyDescent(**fields), 1024).refuted


@pytest.mark.parametrize("fields", [{}, {"steps": 0, "deviation": 0.3}, {"steps": 4, "deviation": 0.01}])
def test_right_certificates_of_noise_stand(fields):
    found = examine(NoisyDescent(**fields), 512)
    assert not found.refuted and f"largest epsilon that this audit could have shown = {found.ceiling:.2f}" in found.verdict


def test_the_certified_head_stands_and_shows_an_ignored_budget():
    right = LinearHead(examples=120, forget=3, penalty=0.1)
    assert not examine(right, 64).refuted
    ignored = LinearHead(examples=120, forget=50, penalty=1e-3, deviation=0.02, keeps_budget=False)
    found = examine(ignored, 128)
    assert found.refuted and found.claim.epsilon == 1.0 and found.bounds.clopper_pearson.value > 1.5
    with pytest.raises(NotApplicable, match="budget"):
        examine(ignored.but(keeps_budget=True), 16)


def test_requests_add_up_to_the_same_weights_within_the_bounds():
    once, often = (LinearHead(examples=120, forget=4, penalty=0.1, requests=count, loss="ridge") for count in (1, 4))
    np.testing.assert_allclose(once.unlearned(2, 0), often.unlearned(2, 0), atol=1e-9)
    x, labels, forget = once.data
    kept = np.setdiff1d(np.arange(120), forget)
    exact = once._head(x[kept], labels[kept], 7).weights.numpy().ravel()
    removed = once._removed(x, labels, forget, 7)
    np.testing.assert_allclose(removed, exact, atol=1e-8)


def test_steps_contract_by_the_stated_factor():
    near, far = (NoisyDescent(steps=steps).optima for steps in (3, 0))
    assert np.linalg.norm(near[0] - near[1]) <= near[2] < 0.7 * far[2]
    assert np.linalg.norm(far[0] - far[1]) == pytest.approx(far[2])
    assert NoisyDescent(deviation=0.1).claim.epsilon > NoisyDescent(deviation=0.2).claim.epsilon


# The attack


def test_the_discriminant_is_the_best_direction():
    made = np.random.default_rng(0)
    root = np.array([[1.0, 0.0], [3.0, 0.4]])
    first, second = (made.normal(size=(20_000, 2)) @ root.T + shift for shift in (np.array([0.3, 0.0]), np.zeros(2)))
    found = discriminant(first, second)
    best = np.linalg.solve(root @ root.T, [0.3, 0.0])
    assert found @ best / np.linalg.norm(found) / np.linalg.norm(best) == pytest.approx(1, abs=0.01)
    with pytest.raises(NotEnoughEvidence, match="without randomness"):
        discriminant(np.ones((4, 2)), np.ones((4, 2)))


def test_each_model_is_scored_once_by_an_attack_that_did_not_see_it():
    first, second = np.random.default_rng(0).normal(size=(2, 40, 60))
    positive, negative = scores(first, second)
    assert positive.shape == negative.shape == (20,)
    changed = first.copy()
    changed[20:] += 5
    moved, _ = scores(changed, second)
    direction = discriminant(first[:20], second[:20])
    np.testing.assert_allclose(moved - positive, np.full(20, 5 * direction.sum()))
    assert abs(positive.mean() - negative.mean()) < 0.8 * (positive.std() + negative.std()), "an overfitted attack tells nothing"


# Claims of methods


def test_methods_declare_claims():
    class Method:
        claim = {"epsilon": 1.0, "delta": 1e-5, "examples": 3}

    assert claim_of(Method()) == Claim(1.0, 1e-5, 3) and claim_of(object()) is None
    Method.claim = Claim(2.0, 0.0)
    assert claim_of(Method()).epsilon == 2.0
    Method.claim = {"epsilon": 1.0}
    with pytest.raises(BadInput, match="expected epsilon and delta"):
        claim_of(Method())


@pytest.mark.parametrize("fields", [{"epsilon": -1.0, "delta": 0.1}, {"epsilon": 1.0, "delta": 1.0}, {"epsilon": float("inf"), "delta": 0}])
def test_claims_out_of_range_are_refused(fields):
    with pytest.raises(BadInput, match="^claim"):
        Claim(**fields)


def test_a_pool_of_networks_refutes_the_claim_of_its_method():
    made = np.random.default_rng(5)
    rows = {name: Panel({"forget": made.normal(shift, 1, (64, 20)).astype(np.float32)}, {}) for name, shift in (("leaks", 2), ("exact", 0))}
    control, reference = (Panel({"forget": made.normal(size=(64, 20)).astype(np.float32)}, {}) for _ in range(2))
    few = Panel({"forget": made.normal(size=(8, 20)).astype(np.float32)}, {})
    claims = dict.fromkeys(("leaks", "exact", "few", "gone"), Claim(0.5, 1e-5, examples=20))
    found = assess({**rows, "few": few}, control, reference, {}, [], claims=claims)["certificates"]
    assert found["leaks"]["refuted"] and not found["exact"]["refuted"]
    assert "16 models" in found["few"]["verdict"] and found["few"]["refuted"] is None and "no models" in found["gone"]["verdict"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_claim_about_one_example_is_not_held_against_the_removal_of_twenty():
    """By group privacy twenty removals may show twenty times the epsilon; calling that refuted would be false."""
    made = np.random.default_rng(5)
    row, control, reference = (Panel({"forget": made.normal(at, 1, (64, 20)).astype(np.float32)}, {}) for at in (2, 0, 0))
    found = assess({"m": row}, control, reference, {}, [], claims={"m": Claim(0.5, 1e-5)})["certificates"]["m"]
    assert found["refuted"] is None and "for 1 examples, and 20 are removed" in found["verdict"]
    Method = type("Method", (), {"claim": {"epsilon": "one", "delta": 0.1}})
    with pytest.raises(BadInput, match="expected numbers"):
        claim_of(Method())


# Input


def test_procedures_by_name():
    assert set(CERTIFICATES) == {"linear_head", "noisy_descent"}
    assert certificate("noisy_descent", {"steps": 2}).steps == 2
    for name, fields, words in (
        ("nosy_descent", {}, "noisy_descent"),
        ("linear_head", {"nois": 1}, "noise"),
        ("linear_head", {"forget": 0}, "positive"),
    ):
        with pytest.raises(BadInput, match=words):
            certificate(name, fields)
    with pytest.raises(BadInput, match="Keep some"):
        NoisyDescent(forget=200).load()
    with pytest.raises(NotEnoughEvidence, match="16 models"):
        examine(NoisyDescent(), 8)
    assert judge(Claim(1.0, 0.0), np.arange(8.0), np.arange(8.0)).verdict
