"""What all games on shadow models report: areas, rates at low false-positive rates, and bounds on epsilon with their ceilings."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from expunge.attacks import epsilon, ulira
from expunge.audits import uncertainty
from expunge.audits.audit import Finding
from expunge.statistics import NotEnoughEvidence

RATES = (0.01, 0.001)
BLOCK = 3
"""Consecutive shadow models in which every target is unlearned, kept and never seen once."""
GROUPS = 8
"""Target models are left out in so many groups for an interval of a rate."""
LEAST_BLOCKS = 4
EXCHANGES = 20
"""Exchanges of the hypotheses that measure how far a value moves without a leak."""


def attack(game: ulira.Game, seed: int, block: int = BLOCK) -> ulira.Attacked:
    """Return the game after a cross-fitted attack with four folds of whole blocks of models.

    Raises:
        NotEnoughEvidence: fewer than four blocks.
    """
    models = min(len(game.positive), len(game.negative))
    blocks = models // block
    if blocks < LEAST_BLOCKS:
        raise NotEnoughEvidence(f"the {game.name} game needs {LEAST_BLOCKS * block} models, there are {models}")
    return ulira.cross_fit(game, 4, seed, block)


def finding(attacked: ulira.Attacked, degrees: float, seed: int) -> Finding:
    """Return the mean per-example AUC with everything beside it."""
    found = attacked.mean_auc()
    error = found.standard_error
    return Finding(found.value, error, uncertainty.interval(found.value, error, degrees, (0, 1)), details(attacked, seed), degrees=degrees)


def with_null(found: Finding, statistic: Callable[[np.ndarray], float], shape: tuple[int, int], null: float, seed: int) -> Finding:
    """Return the finding with the spread that its value would have without a leak.

    The error of `ulira.Attacked.mean_auc` is on the safe side and would make a test blind. Without a leak the two hypotheses can be
    exchanged in any block of models; how far that moves the value is measured, all dependence between examples and folds included.
    With a leak, that measures the leak as well: a test must take the smaller of the two errors, or the largest leaks would count least.
    Neither is below one answer's share in the value, 1 / (models x examples), so that a total leak has an error too.

    Args:
        found: of the game.
        statistic: the value after an exchange in the models that a mask names, bool ``[models]``.
        shape: models and examples of the pool.
        null: the value without a leak.
        seed: of the exchanges.
    """
    models, least = shape[0], 1 / (shape[0] * shape[1])
    generator, blocks = np.random.default_rng(seed), models // BLOCK
    patterns = np.repeat(generator.random((EXCHANGES, -(-models // BLOCK))) < 0.5, BLOCK, axis=1)[:, :models]
    gaps = np.array([statistic(pattern) - null for pattern in patterns])
    error = float(np.sqrt(np.mean(gaps**2) * (1 + 1 / EXCHANGES)))
    around = None if found.standard_error is None else max(found.standard_error, least)
    return replace(found, standard_error=around, null_error=max(error, least), degrees=1 / (1 / EXCHANGES + 1 / (blocks - 1)))


def details(attacked: ulira.Attacked, seed: int) -> dict[str, Any]:
    """Return quantiles over examples, other summaries, rates and bounds, as plain values."""
    areas = attacked.example_auc()
    return {
        "over_examples": uncertainty.quantiles(areas[~np.isnan(areas)]),
        "concatenated_auc": attacked.concatenated_auc(),
        "balanced_accuracy": attacked.balanced_accuracy(),
        "true_positive_rate": {f"{at:g}": _rate(attacked, at) for at in RATES},
        "epsilon": bounds(*ulira.independent_trials(attacked, seed=seed), seed),
        "delta": epsilon.DELTA,
    }


def bounds(positive: np.ndarray, negative: np.ndarray, seed: int) -> dict[str, Any] | str:
    """Return lower bounds on epsilon in four ways, each with its ceiling, or the reason why there are none.

    Args:
        positive: one score for each model under one hypothesis.
        negative: the same under the other.
        seed: of the halves on which a threshold is chosen and judged.
    """
    if min(len(positive), len(negative)) < 4:
        return f"not measurable at n = {min(len(positive), len(negative))}: bounds need 4 independent trials on each side"
    found = epsilon.convert(positive, negative, seed=seed)
    return {
        "trials": [len(positive), len(negative)],
        "point": found.point if np.isfinite(found.point) else "infinite: an error was never observed",
        "clopper_pearson": found.clopper_pearson._asdict(),
        "gaussian": found.gaussian._asdict(),
        "one_run": "not valid: membership was not drawn independently for each example of one model",
    }


def _rate(attacked: ulira.Attacked, at: float) -> dict[str, Any] | str:
    """Return a true-positive rate, calibrated by example, with its interval over models; or why there is none."""
    found = attacked.true_positive_rate(at)
    if found.value is None:
        return found.reason
    values = []
    for group in range(GROUPS):
        rate = _without(attacked, group).true_positive_rate(at).value
        if rate is None:
            return {"value": found.value, "interval": None}
        values.append(rate)
    error = float(np.sqrt((GROUPS - 1) / GROUPS * np.square(np.array(values) - np.mean(values)).sum()))
    return {"value": found.value, "interval": list(uncertainty.interval(found.value, error, GROUPS - 1, (0, 1)) or ())}


def _without(attacked: ulira.Attacked, group: int) -> ulira.Attacked:
    """Return the game without every eighth target model: entries of one model are no independent trials."""
    folds, start = [], 0
    for fold in attacked.folds:
        kept = [(np.arange(len(side)) + start) % GROUPS != group for side in fold.scores]
        pairs = ((values[0][kept[0]], values[1][kept[1]]) for values in (fold.scores, fold.calibrated, fold.masks))
        folds.append(ulira.Fold(*pairs))
        start += len(fold.scores[0])
    return ulira.Attacked(attacked.game, tuple(folds), attacked.paired)
