"""The swap test: two requests exchanged, everything else equal."""

from typing import ClassVar

import numpy as np

from expunge.attacks import epsilon, swap
from expunge.attacks.margins import FORGET, OUT
from expunge.audits import uncertainty
from expunge.audits.audit import Audit, Finding, Shadows
from expunge.errors import BadInput
from expunge.metrics.metric import Target, Tier
from expunge.statistics import NotEnoughEvidence

LEAST = 6
THRESHOLDS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
ENUMERATED = 12
"""Up to so many pairs every pattern of signs is counted; with more of them, as many patterns are drawn."""


class Swap(Audit):
    """Advantage in telling which of two sets a model was asked to forget; 0 for retraining, however the sets differ.

    Models 2j and 2j + 1 have one training seed and exchanged requests. Adversaries answer with the probability of the true class, with
    whether it is the most likely, with calls at thresholds, or with the margin compared with the example's others; half of the pairs
    choose one of them and its direction, the other half judge it. The p-value is of all pairs and all adversaries together: without a
    leak the two models of a pair can be exchanged, which turns the sign of every adversary's advantage.
    """

    label: ClassVar[str] = "swap advantage"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.LOWER
    tier: ClassVar[Tier] = "rigorous"
    game: ClassVar[str] = "swap"
    scenarios: ClassVar[tuple[str, ...]] = ("random", "subclass")
    null_value: ClassVar[float | None] = 0.0
    limits: ClassVar[tuple[float, float] | None] = (-1, 1)
    pool: ClassVar = "swap"
    source: ClassVar[str] = "Tu, Hu & Ma, A Reliable Cryptographic Framework for Empirical Machine Unlearning Evaluation, NeurIPS 2025"
    above: ClassVar[str] = "the model tells which of two sets it was asked to forget"

    def play(self, shadows: Shadows, seed: int = 0) -> Finding:
        """Return the advantage on the judging half with its error over pairs, an exact p-value over all, and a bound on epsilon."""
        names, leanings = _leanings(shadows)
        signed = (leanings[..., 0] - leanings[..., 1]) / 2
        chosen_on = signed.shape[1] // 2
        found = swap.swap_test(signed, chosen_on)
        direction = 1.0 if signed[found.adversary, :chosen_on].mean() >= 0 else -1.0
        judged = direction * signed[found.adversary, chosen_on:]
        value, degrees = float(judged.mean()), float(found.splits - 1)
        details = {
            "adversary": names[found.adversary],
            "quality": 1 - abs(value),
            "pairs_judged": found.splits,
            "epsilon": _bound(direction * leanings[found.adversary, chosen_on:], seed),
            "delta": 0.0,
        }
        p_value, smallest = _chance(signed, seed)
        whole = found.standard_error == 0 and value != 0
        return Finding(
            value,
            None if whole else found.standard_error,
            None if whole else uncertainty.interval(value, found.standard_error, degrees, self.limits),
            details,
            "all pairs give the same advantage: it has no error" if whole else None,
            null_error=float(np.sqrt(np.mean(judged**2) / len(judged))),
            degrees=degrees,
            p_value=p_value,
            smallest_p_value=smallest,
        )


def _leanings(shadows: Shadows) -> tuple[list[str], np.ndarray]:
    """Return the adversaries' names and how far each model leans to "the first request was forgotten", ``[adversaries, pairs, 2]``.

    A leaning is the mean answer about the first request less that about the second, -1 to 1; half of the difference between the two
    models of a pair is the signed advantage.

    Raises:
        BadInput: states that are not exchanged within pairs.
        NotEnoughEvidence: fewer than 6 pairs.
    """
    states = shadows.states
    first, second = states[0::2], states[1::2]
    forgotten, unseen = (first == FORGET) & (second == OUT), (first == OUT) & (second == FORGET)
    if len(states) % 2 or not ((first == second) | forgotten | unseen).all():
        raise BadInput("states", "models 2j and 2j + 1 must have exchanged requests.", "Take them from a swap pool.")
    if len(first) < LEAST:
        raise NotEnoughEvidence(f"a swap test needs {LEAST} pairs of models, there are {len(first)}")
    answers = _answers(shadows.unlearned, len(first) // 2)
    return list(answers), np.stack([_leaning(answer, forgotten, unseen) for answer in answers.values()])


def _answers(margins: np.ndarray, chosen_on: int) -> dict[str, np.ndarray]:
    """Return each adversary's answers from 0 to 1, ``[models, n]``; none of them treats the two worlds of a pair differently.

    What an adversary must know of the margins is taken from the first ``chosen_on`` pairs, so that the others are independent trials.
    """
    from scipy import special

    x = margins.astype(np.float64)
    known = x[: 2 * chosen_on]
    spread = np.maximum(known.std(axis=0), 1e-12)
    answers = {
        "probability of the true class": special.expit(x),
        "correctness": (x > 0).astype(np.float64),
        "margin beside the example's others": special.expit(2 * (x - known.mean(axis=0)) / spread),
    }
    for share in THRESHOLDS:
        answers[f"margin above its {share:.0%} quantile"] = (x > np.quantile(known, share)).astype(np.float64)
    return answers


def _leaning(answers: np.ndarray, forgotten: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """Return the mean answer about the first request less that about the second, under both models of each pair, ``[pairs, 2]``."""
    about = [
        [np.einsum("kn,kn->k", side, mask) / np.maximum(mask.sum(axis=1), 1) for mask in (forgotten, unseen)]
        for side in (answers[0::2], answers[1::2])
    ]
    return np.stack([one - other for one, other in about], axis=1)


def _chance(signed: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the exact p-value of advantages, ``[adversaries, pairs]``, and the smallest that so many pairs allow.

    The statistic is the largest mean over adversaries, in units of its spread under random signs; its law is that over sign patterns,
    which are the same for all adversaries.
    """
    pairs = signed.shape[1]
    if pairs <= ENUMERATED:
        signs = 1.0 - 2.0 * ((np.arange(2**pairs)[:, None] >> np.arange(pairs)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(2**ENUMERATED, pairs))
        signs[0] = 1.0
    scales = np.sqrt((signed**2).sum(axis=1))
    units = signed / np.where(scales > 0, scales, 1.0)[:, None]
    largest = np.abs(signs @ units.T).max(axis=1)
    alike = 2 if pairs <= ENUMERATED else 1
    return float(np.mean(largest >= largest[0] - 1e-9)), alike / len(signs)


def _bound(leanings: np.ndarray, seed: int) -> dict[str, float]:
    """Return the exact lower bound on epsilon with its ceiling, from leanings of the judging pairs, ``[pairs, 2]``.

    A coin takes one model of each pair, and the adversary says which request it has forgotten. Both worlds are within epsilon of
    retraining, so that under (epsilon, 0)-unlearning he is right with a chance of 1 / (1 + exp(-2 epsilon)) at most, which is an
    advantage of tanh(epsilon); pairs are independent trials.
    """
    second = np.random.default_rng(seed).random(len(leanings)) < 0.5
    seen = np.where(second, leanings[:, 1], leanings[:, 0])
    found = epsilon.one_run(int(((seen > 0) != second).sum()), len(leanings))
    return {"value": found.value / 2, "ceiling": found.ceiling / 2}
