"""The likelihood-ratio attack: how a model's margin compares with models that did, and did not, train on the example.

Conventions. Positive scores speak for membership. Margins are taken as normal. Which variance is used decides the attack at few models:
with fewer than 32 of a side a per-example variance costs more than it gives, and the within-example variance pooled over all examples
is better (at 8 models a side the AUC is .737 instead of .710 for equal variances and a shift of one standard deviation).

Never score the models that the moments rest on: `expunge.attacks.ulira.cross_fit` keeps the two apart.
"""

from typing import Literal

import numpy as np

from expunge.attacks.moments import Moments, moments
from expunge.statistics import NotEnoughEvidence

Variance = Literal["auto", "per_example", "pooled"]
Sides = Literal["separate", "equal", "auto"]

PER_EXAMPLE_FROM = 32
"""Models of a side from which its per-example variance is used."""
TWO_SIDED_FROM = 64
"""Models of a side from which the two sides' per-example variances may differ in a game on unlearned models."""


def online(values: np.ndarray, inside: Moments, outside: Moments, variance: Variance = "auto", sides: Sides = "separate") -> np.ndarray:
    """Return log N(x; inside) - log N(x; outside), float64 ``[targets, n]``, in nats.

    Several queries of one example (augmentations) are combined by the mean of their scores.

    Args:
        values: margins of the target models, ``[targets, n]``.
        inside: of attack models that trained on the example.
        outside: of attack models that did not.
        variance: see `spreads`.
        sides: see `spreads`.

    Raises:
        NotEnoughEvidence: an example without models on a side, or no variance.

    Source: Carlini et al., S&P 2022, algorithm 1 (online). With equal variances the score is linear in the margin.
    """
    check_counts(inside, "inside")
    check_counts(outside, "outside")
    return log_ratio(values, inside, outside, *spreads(inside, outside, variance, sides))


def log_ratio(
    values: np.ndarray, inside: Moments, outside: Moments, inside_variance: np.ndarray, outside_variance: np.ndarray
) -> np.ndarray:
    """Return log N(x; inside) - log N(x; outside) with these variances, float64 ``[targets, n]``."""
    x = np.asarray(values, dtype=np.float64)
    distances = (x - outside.mean) ** 2 / outside_variance - (x - inside.mean) ** 2 / inside_variance
    return (distances + np.log(outside_variance / inside_variance)) / 2


def offline(values: np.ndarray, outside: Moments, variance: Variance = "auto") -> np.ndarray:
    """Return the one-sided standard score (x - mean) / deviation against models that did not train on the example, ``[targets, n]``.

    Needs no model that trained on the targets. The published code ranks by the two-sided density instead, which calls a margin
    far *below* the others a member.

    Raises:
        NotEnoughEvidence: an example without outside models, or no variance.

    Source: Carlini et al., S&P 2022, section IV-B (offline).
    """
    check_counts(outside, "outside")
    deviation = np.sqrt(_positive(_one_spread(outside, variance)))
    return (np.asarray(values, dtype=np.float64) - outside.mean) / deviation


def calibrated(values: np.ndarray, inside: Moments, outside: Moments, variance: Variance = "auto") -> np.ndarray:
    """Return scores whose law under "not a member" is nearly the same for every example, ``[targets, n]``.

    The standard score against the outside models, its estimation noise included, signed by the direction in which inside models
    differ. One threshold then has one false positive rate for all examples, as a rate over all of them together needs. The direction
    is estimated, which moves both hypotheses' scores up a little where there is no difference: measure the rate, do not assume it.

    Raises:
        NotEnoughEvidence: an example without models on a side, or no variance.
    """
    check_counts(inside, "inside")
    check_counts(outside, "outside")
    return standardised(values, inside, outside, _positive(_one_spread(outside, variance)))


def standardised(values: np.ndarray, inside: Moments, outside: Moments, outside_variance: np.ndarray) -> np.ndarray:
    """Return the score of `calibrated` with this variance, float64 ``[targets, n]``."""
    direction = np.where(inside.mean >= outside.mean, 1.0, -1.0)
    noise = np.sqrt(outside_variance * (1 + 1 / outside.count))
    return direction * (np.asarray(values, dtype=np.float64) - outside.mean) / noise


def in_sample(values: np.ndarray, inside: np.ndarray, outside: np.ndarray, leave_one_out: bool = False) -> np.ndarray:
    """Return pooled-variance scores of the attack models themselves, ``[models, n]``: BIASED, kept to show the bias.

    With no signal the per-example AUC is .616 at 16 models, and .427 with leave-one-out; only disjoint targets give .5.

    Args:
        values: margins, ``[models, n]``.
        inside: bool ``[models, n]``.
        outside: bool ``[models, n]``.
        leave_one_out: whether a model's own margin is taken out of the moments that it is scored with.
    """
    one, zero = moments(values, inside), moments(values, outside)
    if leave_one_out:
        one, zero = one.without(values, inside), zero.without(values, outside)
    return online(values, one, zero, "pooled", "equal")


def spreads(inside: Moments, outside: Moments, variance: Variance = "auto", sides: Sides = "separate") -> tuple[np.ndarray, np.ndarray]:
    """Return the two sides' variances, each ``[n]`` or ``[1]``.

    Args:
        inside: moments of one side.
        outside: moments of the other.
        variance: ``per_example``; ``pooled`` within-example over all examples; ``auto`` is per example where both sides have at least 32.
        sides: ``separate``; ``equal`` uses one variance for both sides, so that only means matter; ``auto`` is separate where both
            sides have at least 64. Use ``separate`` or ``auto`` when a change of spread alone must be seen (a deterministic method).

    Raises:
        NotEnoughEvidence: no side has two models of any example, or the margins do not vary.
    """
    both = Moments(inside.count + outside.count - 1, outside.mean, inside.squares + outside.squares)
    one, zero = (_one_spread(side, variance, inside, outside) for side in (inside, outside))
    if sides == "separate":
        return _positive(one), _positive(zero)
    shared = _one_spread(both, variance, inside, outside)
    if sides == "equal":
        return _positive(shared), _positive(shared)
    many = np.minimum(inside.count, outside.count) >= TWO_SIDED_FROM
    return _positive(np.where(many, one, shared)), _positive(np.where(many, zero, shared))


def _one_spread(side: Moments, variance: Variance, *pair: Moments) -> np.ndarray:
    if variance == "per_example":
        return side.variance
    if variance == "pooled":
        return side.pooled_variance()
    enough = np.minimum.reduce([each.count for each in pair or (side,)]) >= PER_EXAMPLE_FROM
    return np.where(enough, side.variance, side.pooled_variance())


def _positive(variance: np.ndarray) -> np.ndarray:
    if not (variance > 0).all():
        bad = int((~(variance > 0)).sum())
        raise NotEnoughEvidence(f"{bad} of {variance.size} variances of margins are zero or unknown; an attack needs models that differ")
    return variance


def check_counts(side: Moments, name: str) -> None:
    """Refuse moments that are empty for some example.

    Raises:
        NotEnoughEvidence: saying for how many.
    """
    empty = int((side.count < 1).sum())
    if empty:
        raise NotEnoughEvidence(f"{empty} of {side.count.size} examples have no {name} model in the attack pool")
