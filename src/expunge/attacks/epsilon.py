"""Lower bounds on epsilon from an attack's scores, four ways, each with the largest value that it could have given.

Conventions. Natural logarithm. A positive is an observation under one hypothesis (for example: unlearned), a negative one under the
other; an attack calls positive what scores above a threshold. FPR is the share of negatives called positive, FNR the share of
positives called negative. ``tail`` is the chance that a bound is too high. Trials must be independent: entries of one model are not, so
take one score for each model (`expunge.attacks.ulira.independent_trials`) or one for each randomised canary.

An epsilon that is large proves a leak; a small one proves nothing. The ceiling says what a perfect attack would have shown.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from expunge.errors import BadInput
from expunge.statistics import NotEnoughEvidence

Selection = Literal["bonferroni", "split", "multi_split"]
DELTA = 1e-5


class Bound(NamedTuple):
    """A lower bound and its ceiling: the bound that a perfect attack would have reached on the same number of trials."""

    value: float
    ceiling: float


class Conversions(NamedTuple):
    """The four readings of one attack.

    Attributes:
        point: the ratio of observed rates at its best threshold; biased up, no bound, infinite when an error is never observed.
        clopper_pearson: valid for any attack.
        gaussian: tighter, but valid only if the trade-off curve is a Gaussian one.
        one_run: None unless each example's membership was randomised independently (canaries).
    """

    point: float
    clopper_pearson: Bound
    gaussian: Bound
    one_run: Bound | None


class Counts(NamedTuple):
    """Errors of a family of rules. Arrays of one length: how many negatives were called positive, and positives negative."""

    false_positives: np.ndarray
    false_negatives: np.ndarray
    negatives: int
    positives: int


Rule = Callable[[Counts, float], np.ndarray]
"""(errors, tail) -> a lower bound for each rule of the family."""


def convert(
    positive: np.ndarray,
    negative: np.ndarray,
    delta: float = DELTA,
    tail: float = 0.05,
    selection: Selection = "split",
    seed: int = 0,
    one_run: Bound | None = None,
) -> Conversions:
    """Return all four readings of one attack's scores, ``[n1]`` under the first hypothesis and ``[n0]`` under the second."""
    return Conversions(
        point(positive, negative, delta),
        clopper_pearson(positive, negative, delta, tail, selection, seed),
        gaussian(positive, negative, delta, tail, selection, seed),
        one_run,
    )


def point(positive: np.ndarray, negative: np.ndarray, delta: float = DELTA) -> float:
    """Return the largest max(log((1 - delta - FPR) / FNR), log((1 - delta - FNR) / FPR)) over thresholds, at least 0.

    Biased up, since the best of many noisy ratios is taken: a diagnostic, never a bound.
    """
    return float(max(0.0, _point(_all_counts(positive, negative), delta).max()))


def clopper_pearson(
    positive: np.ndarray, negative: np.ndarray, delta: float = DELTA, tail: float = 0.05, selection: Selection = "split", seed: int = 0
) -> Bound:
    """Return the lower bound from exact upper limits of both error rates.

    Args:
        positive: scores, ``[n1]``.
        negative: scores, ``[n0]``.
        delta: of (epsilon, delta).
        tail: chance that the bound is too high.
        selection: how the threshold is paid for. ``split`` chooses it on one half and certifies on the other; ``multi_split`` takes the
            median of 15 such bounds at half the tail; ``bonferroni`` shares the tail over thresholds at fixed ranks.
        seed: of the splits.

    Raises:
        NotEnoughEvidence: fewer than two trials on a side.

    Source: the three ways are those of jax_privacy's canary auditor; the formulas are written anew.
    """
    return _bound(positive, negative, tail, selection, seed, lambda counts, part: _from_rates(counts, delta, part))


def gaussian(
    positive: np.ndarray, negative: np.ndarray, delta: float = DELTA, tail: float = 0.05, selection: Selection = "split", seed: int = 0
) -> Bound:
    """Return the lower bound through mu = z(1 - FPR) - z(FNR), the Gaussian-differential-privacy parameter, at its own delta.

    Arguments and errors as `clopper_pearson`. Much tighter with few trials; valid only if the true trade-off curve is that of two
    normal laws (or dominated by it).

    Source: Nasr et al., USENIX Security 2023; Dong, Roth & Su, JRSS-B 2022 (corollary 1).
    """
    mu = _bound(positive, negative, tail, selection, seed, _gaussian_shift)
    return Bound(gaussian_epsilon(mu.value, delta), gaussian_epsilon(mu.ceiling, delta))


def from_counts(
    false_positives: int, negatives: int, false_negatives: int, positives: int, delta: float = DELTA, tail: float = 0.05
) -> float:
    """Return the Clopper-Pearson lower bound for one rule that was fixed before its errors were counted.

    max(0, log(1 - delta - FNR+) - log FPR+) or the same with both errors exchanged, each limit at tail / 2.
    """
    counts = Counts(np.array([false_positives]), np.array([false_negatives]), negatives, positives)
    return float(max(0.0, _from_rates(counts, delta, tail)[0]))


def ceiling(negatives: int, positives: int, delta: float = DELTA, tail: float = 0.05) -> float:
    """Return what `from_counts` certifies for an attack that makes no error: at 64 a side 2.82, at 512 4.93, at 10,000 7.90."""
    return from_counts(0, negatives, 0, positives, delta, tail)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return the smallest delta for which N(0, 1) and N(mu, 1) are (epsilon, delta)-close."""
    from scipy import stats

    return float(stats.norm.cdf(-epsilon / mu + mu / 2) - np.exp(epsilon + stats.norm.logcdf(-epsilon / mu - mu / 2)))


def gaussian_epsilon(mu: float, delta: float = DELTA) -> float:
    """Return the epsilon at which N(0, 1) and N(mu, 1) are (epsilon, delta)-close; 0 when they are so already at epsilon 0."""
    from scipy import optimize

    if not 0 < delta < 1:
        raise BadInput("delta", f"expected a number between 0 and 1, got {delta}.")
    if mu <= 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    high = mu**2 / 2 + mu * 40
    return float(optimize.brentq(lambda epsilon: gaussian_delta(mu, epsilon) - delta, 0.0, high, xtol=1e-12))


def one_run(correct: int, guesses: int, delta: float = 0.0, examples: int | None = None, tail: float = 0.05) -> Bound:
    """Return the lower bound from guesses about independently randomised memberships under ONE model.

    Args:
        correct: right guesses.
        guesses: guesses made; abstaining on doubtful examples is free.
        delta: of (epsilon, delta).
        examples: randomised examples in all; ``guesses`` by default. Only needed for delta above 0.
        tail: chance that the bound is too high.

    Raises:
        BadInput: counts out of order.

    Source: Steinke, Nasr & Jagielski, NeurIPS 2023, theorem 5.2. Not valid for a forget set that somebody chose.
    """
    examples = guesses if examples is None else examples
    if not 0 <= correct <= guesses <= examples or guesses < 1:
        raise BadInput("one_run", f"expected 0 <= correct <= guesses <= examples and a guess, got {correct}, {guesses}, {examples}.")
    return Bound(_invert(correct, guesses, delta, examples, tail), _invert(guesses, guesses, delta, examples, tail))


def one_run_p_value(epsilon: float, correct: int, guesses: int, delta: float = 0.0, examples: int | None = None) -> float:
    """Return the chance of so many right guesses if the model were (epsilon, delta)-private."""
    from scipy import special, stats

    law = stats.binom(guesses, special.expit(epsilon))
    p = float(law.sf(correct - 1))
    if delta > 0 and correct > 0:
        back = np.arange(1, correct + 1)
        between = law.sf(correct - back - 1) - p
        p += 2 * (guesses if examples is None else examples) * delta * float((between / back).max())
    return min(p, 1.0)


def one_run_from_scores(scores: np.ndarray, included: np.ndarray, guesses: int, delta: float = 0.0, tail: float = 0.05) -> Bound:
    """Return the bound when the highest half of ``guesses`` scores is called included and the lowest half not.

    Args:
        scores: of the canaries, ``[m]``, higher for included.
        included: the coin flips, bool ``[m]``.
        guesses: even, at most m, chosen before the scores are seen.
        delta: of (epsilon, delta).
        tail: chance that the bound is too high.

    Raises:
        BadInput: an odd number of guesses, or more than canaries.
    """
    if guesses % 2 or not 2 <= guesses <= len(scores):
        raise BadInput("guesses", f"expected an even number from 2 to {len(scores)}, got {guesses}.")
    order = np.argsort(scores, kind="stable")
    correct = int((~included[order[: guesses // 2]]).sum() + included[order[-(guesses // 2) :]].sum())
    return one_run(correct, guesses, delta, len(scores), tail)


def _invert(correct: int, guesses: int, delta: float, examples: int, tail: float) -> float:
    from scipy import optimize

    def excess(epsilon: float) -> float:
        return one_run_p_value(epsilon, correct, guesses, delta, examples) - tail

    if excess(0.0) >= 0:
        return 0.0
    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-10))


def _bound(positive: np.ndarray, negative: np.ndarray, tail: float, selection: Selection, seed: int, rule: Rule) -> Bound:
    if min(len(positive), len(negative)) < 2:
        raise NotEnoughEvidence(f"a bound needs 2 trials on each side, there are {len(positive)} and {len(negative)}")
    if selection == "bonferroni":
        return _by_bonferroni(positive, negative, tail, rule)
    if selection == "split":
        return _by_split(positive, negative, tail, np.random.default_rng(seed), rule)
    if selection != "multi_split":
        raise BadInput("selection", f"expected bonferroni, split or multi_split, got {selection!r}.")
    generator = np.random.default_rng(seed)
    bounds = [_by_split(positive, negative, tail / 2, generator, rule) for _ in range(15)]
    return Bound(float(np.median([bound.value for bound in bounds])), bounds[0].ceiling)


def _by_bonferroni(positive: np.ndarray, negative: np.ndarray, tail: float, rule: Rule) -> Bound:
    counts = _ranked_counts(positive, negative)
    part = tail / len(counts.false_positives)
    perfect = Counts(np.array([0]), np.array([0]), len(negative), len(positive))
    return Bound(float(max(0.0, rule(counts, part).max())), float(max(0.0, rule(perfect, part)[0])))


def _by_split(positive: np.ndarray, negative: np.ndarray, tail: float, generator: np.random.Generator, rule: Rule) -> Bound:
    halves = [np.array_split(generator.permutation(group), 2)[::-1] for group in (positive, negative)]
    (choose, judge), (choose_negative, judge_negative) = halves
    thresholds = np.unique(np.concatenate([choose, choose_negative]))
    best = thresholds[np.argmax(rule(_counts_at(choose, choose_negative, thresholds), tail))]
    perfect = Counts(np.array([0]), np.array([0]), len(judge_negative), len(judge))
    value = rule(_counts_at(judge, judge_negative, np.array([best])), tail)[0]
    return Bound(float(max(0.0, value)), float(max(0.0, rule(perfect, tail)[0])))


def _all_counts(positive: np.ndarray, negative: np.ndarray) -> Counts:
    return _counts_at(positive, negative, np.unique(np.concatenate([positive, negative])))


def _counts_at(positive: np.ndarray, negative: np.ndarray, thresholds: np.ndarray) -> Counts:
    """Return the errors of "positive at or above each threshold"."""
    missed = np.searchsorted(np.sort(positive), thresholds, side="left")
    alarms = len(negative) - np.searchsorted(np.sort(negative), thresholds, side="left")
    return Counts(alarms, missed, len(negative), len(positive))


def _ranked_counts(positive: np.ndarray, negative: np.ndarray) -> Counts:
    """Return the errors at thresholds that sit at fixed ranks of one group (0, 1, 2, 4, ... of it beyond the threshold).

    A threshold at a fixed rank of the negatives is an order statistic: the limit for its false positive rate from that rank is
    exact, and the positives are independent of it. So the number of thresholds alone is what must be paid for.
    """
    low, high = np.sort(positive), np.sort(negative)[::-1]
    ranks_negative, ranks_positive = (_doubling(len(group)) for group in (negative, positive))
    missed = np.searchsorted(low, high[ranks_negative], side="right")
    alarms = np.searchsorted(-high, -low[ranks_positive], side="right")
    return Counts(np.append(ranks_negative, alarms), np.append(missed, ranks_positive), len(negative), len(positive))


def _doubling(size: int) -> np.ndarray:
    return np.append(0, 2 ** np.arange(int(np.log2(size - 1)) + 1)) if size > 1 else np.array([0])


def _point(counts: Counts, delta: float) -> np.ndarray:
    fpr, fnr = counts.false_positives / counts.negatives, counts.false_negatives / counts.positives
    return np.maximum(_log_ratio(1 - delta - fpr, fnr), _log_ratio(1 - delta - fnr, fpr))


def _from_rates(counts: Counts, delta: float, tail: float) -> np.ndarray:
    fpr, fnr = _limits(counts, tail)
    return np.maximum(_log_ratio(1 - delta - fnr, fpr), _log_ratio(1 - delta - fpr, fnr))


def _gaussian_shift(counts: Counts, tail: float) -> np.ndarray:
    from scipy import stats

    fpr, fnr = _limits(counts, tail)
    return stats.norm.isf(fpr) - stats.norm.ppf(fnr)


def _limits(counts: Counts, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Return upper limits of FPR and FNR, each at half of the tail."""
    return _upper(counts.false_positives, counts.negatives, tail / 2), _upper(counts.false_negatives, counts.positives, tail / 2)


def _upper(errors: np.ndarray, trials: int, tail: float) -> np.ndarray:
    from scipy import stats

    limits = np.ones(len(errors))
    inside = errors < trials
    limits[inside] = stats.beta.ppf(1 - tail, errors[inside] + 1, trials - errors[inside])
    return limits


def _log_ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return log(above / below); -inf where the numerator is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(above > 0, np.log(np.maximum(above, 0)) - np.log(below), -np.inf)
