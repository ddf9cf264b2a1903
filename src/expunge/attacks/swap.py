"""The swap test: does the model tell which of two sets it was asked to forget, when both requests are made?

In one world the model trains on retain + S and forgets S; in the other, on retain + T' and forgets T'. An adversary gives each
example a number from 0 to 1. Differences in difficulty between S and T' cancel, so that retraining has advantage 0 for every adversary.
"""

from typing import NamedTuple

import numpy as np

from expunge.errors import BadInput
from expunge.statistics import NotEnoughEvidence


class Swap(NamedTuple):
    """Result of a swap test.

    Attributes:
        advantage: 0 to 1; for (epsilon, 0)-unlearning at most tanh(epsilon).
        quality: 1 - advantage.
        standard_error: of the advantage before its absolute value is taken, over splits.
        adversary: index of the chosen adversary.
        splits: splits that the advantage rests on.
    """

    advantage: float
    quality: float
    standard_error: float
    adversary: int
    splits: int


def signed_advantages(forgotten: np.ndarray, swapped_forgotten: np.ndarray, unseen: np.ndarray, swapped_unseen: np.ndarray) -> np.ndarray:
    """Return each split's signed advantage, float64 of the arguments' shape, -1 to 1.

    Args:
        forgotten: the adversary's mean answer about S in the first world, for example ``[splits]`` or ``[adversaries, splits]``.
        swapped_forgotten: about T' in the second world, where T' was forgotten.
        unseen: about T' in the first world.
        swapped_unseen: about S in the second world.

    Raises:
        BadInput: answers outside 0 to 1, or shapes that differ.

    Source: Tu, Hu & Ma, NeurIPS 2025 (2404.11577); written from its definition of the game.
    """
    answers = [np.asarray(each, dtype=np.float64) for each in (forgotten, swapped_forgotten, unseen, swapped_unseen)]
    if len({each.shape for each in answers}) > 1:
        raise BadInput("swap", f"expected four arrays of one shape, got {[list(each.shape) for each in answers]}.")
    if any(not ((each >= 0) & (each <= 1)).all() for each in answers):
        raise BadInput("swap", "an adversary answers with numbers from 0 to 1.", "Use calls, probabilities or ranks, not margins.")
    return ((answers[0] - answers[3]) + (answers[1] - answers[2])) / 2


def swap_test(signed: np.ndarray, chosen_on: int | None = None) -> Swap:
    """Return the advantage of the best adversary, chosen on some splits and judged on the others.

    The average over splits is taken inside the absolute value, so that noise cancels before it counts.

    Args:
        signed: of `signed_advantages`, ``[adversaries, splits]`` or ``[splits]``.
        chosen_on: how many of the first splits choose the adversary; half by default, none with one adversary.

    Raises:
        NotEnoughEvidence: fewer than 2 splits to judge on.
    """
    table = np.atleast_2d(signed)
    chosen_on = (table.shape[1] // 2 if len(table) > 1 else 0) if chosen_on is None else chosen_on
    judged = table[:, chosen_on:]
    if judged.shape[1] < 2 or (len(table) > 1 and chosen_on < 1):
        raise NotEnoughEvidence(f"a swap test needs a split to choose on and 2 to judge on, there are {table.shape[1]}")
    best = int(np.argmax(np.abs(table[:, :chosen_on].mean(axis=1)))) if len(table) > 1 else 0
    values = judged[best]
    advantage = float(abs(values.mean()))
    return Swap(advantage, 1 - advantage, float(values.std(ddof=1) / np.sqrt(len(values))), best, len(values))
