"""The swap test: two requests exchanged, everything else equal."""

from typing import Any, ClassVar

import numpy as np

from expunge.attacks import swap
from expunge.attacks.margins import FORGET, OUT
from expunge.audits import uncertainty
from expunge.audits.audit import Audit, Finding, Shadows
from expunge.errors import BadInput
from expunge.metrics.metric import Target, Tier
from expunge.statistics import NotEnoughEvidence

LEAST = 6
THRESHOLDS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


class Swap(Audit):
    """Advantage in telling which of two sets a model was asked to forget; 0 for retraining, however the sets differ.

    Models 2j and 2j + 1 have one training seed and exchanged requests. Adversaries answer with the probability of the true class, with
    whether it is the most likely, with calls at thresholds, or with the margin compared with the example's others; half of the pairs
    choose one of them and its direction, the other half judge it.
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
        """Return the advantage on the judging half, with its error over pairs and a bound on epsilon."""
        names, signed = _signed(shadows)
        chosen_on = signed.shape[1] // 2
        found = swap.swap_test(signed, chosen_on)
        direction = 1.0 if signed[found.adversary, :chosen_on].mean() >= 0 else -1.0
        value, degrees = direction * float(signed[found.adversary, chosen_on:].mean()), float(found.splits - 1)
        details = {
            "adversary": names[found.adversary],
            "quality": 1 - abs(value),
            "pairs_judged": found.splits,
            "epsilon": _bound(value, found.standard_error, degrees),
        }
        interval = uncertainty.interval(value, found.standard_error, degrees, self.limits)
        return Finding(value, found.standard_error, interval, details, degrees=degrees)


def _signed(shadows: Shadows) -> tuple[list[str], np.ndarray]:
    """Return the adversaries' names and their signed advantages, ``[adversaries, pairs]``.

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
    table = {name: _advantages(answer, forgotten, unseen) for name, answer in _answers(shadows.unlearned).items()}
    return list(table), np.stack(list(table.values()))


def _answers(margins: np.ndarray) -> dict[str, np.ndarray]:
    """Return each adversary's answers from 0 to 1, ``[models, n]``; none of them treats the two worlds of a pair differently."""
    from scipy import special

    x = margins.astype(np.float64)
    spread = np.maximum(x.std(axis=0), 1e-12)
    answers = {
        "probability of the true class": special.expit(x),
        "correctness": (x > 0).astype(np.float64),
        "margin beside the example's others": special.expit(2 * (x - x.mean(axis=0)) / spread),
    }
    for share in THRESHOLDS:
        answers[f"margin above its {share:.0%} quantile"] = (x > np.quantile(x, share)).astype(np.float64)
    return answers


def _advantages(answers: np.ndarray, forgotten: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    first, second = answers[0::2], answers[1::2]
    about_forgotten, about_unseen = (
        [np.einsum("kn,kn->k", side, mask) / np.maximum(mask.sum(axis=1), 1) for side in (first, second)] for mask in (forgotten, unseen)
    )
    return swap.signed_advantages(about_forgotten[0], about_unseen[1], about_unseen[0], about_forgotten[1])


def _bound(value: float, error: float, degrees: float) -> dict[str, Any]:
    """Return the lower bound on epsilon: (epsilon, 0)-unlearning allows an advantage of tanh(epsilon) at most."""
    from scipy import stats

    low = value - float(stats.t.ppf(0.95, degrees)) * error
    return {"value": float(np.arctanh(np.clip(low, 0, 1 - 1e-12))), "delta": 0.0, "valid": "for errors over pairs that are nearly normal"}
