"""What an attacker finds: ROC curves of the loss over models, and how well single examples give a model away, against the null."""

from typing import Any

import numpy as np

from expunge.attacks import per_example, roc
from expunge.errors import BadInput
from expunge.report.figures.models import Models, short
from expunge.statistics import NotEnoughEvidence, mean_interval

POINTS = 25
BINS = 25
LEAST = 4
"""Models on each side below which the AUC of an example takes too few values to be shown."""


def curves(models: Models) -> dict[str, Any]:
    """Return the ROC of minus the loss, forget against unseen examples, for each row: mean over models and its 95 % interval.

    Returns:
        ``{fpr: [P], rows: {row: {tpr, low, high: [P], auc, auc_low, auc_high, models}}}``; low and high are None for a single model.
        The smallest false positive rate is the one that ten unseen examples make: below it a rate is noise.

    Raises:
        BadInput: no unseen examples, or too few of them.
    """
    unseen = len(models.index("unseen"))
    if unseen < 2 * roc.MEASURABLE:
        raise BadInput("report", f"a ROC curve needs {2 * roc.MEASURABLE} unseen examples, there are {unseen}.")
    grid = np.unique(np.floor(np.geomspace(roc.MEASURABLE, unseen - 1, POINTS))) / unseen
    return {"fpr": short(grid, 6), "negatives": unseen, "rows": {row: _curve(models, row, grid) for row in models.rows}}


def _curve(models: Models, row: str, grid: np.ndarray) -> dict[str, Any]:
    pairs = list(zip(-models.losses(row, "forget"), -models.losses(row, "unseen"), strict=True))
    rates = np.array([_rates(positive, negative, grid) for positive, negative in pairs])
    areas = _spread(np.array([[roc.auc(positive, negative)] for positive, negative in pairs]))
    mean, low, high = _spread(rates)
    area = {key: None if part is None else part[0] for key, part in zip(("auc", "auc_low", "auc_high"), map(short, areas), strict=True)}
    return {"tpr": short(mean), "low": short(low), "high": short(high), **area, "models": len(pairs)}


def _rates(positive: np.ndarray, negative: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the rate of positives above the smallest threshold that keeps each false positive rate; see `roc.true_positive_rate`."""
    ordered, ranked = np.sort(negative)[::-1], np.sort(positive)
    allowed = np.floor(grid * len(negative) + 1e-9).astype(int)
    return 1 - np.searchsorted(ranked, ordered[allowed], side="right") / len(positive)


def _spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return mean over models ``[P]`` of values ``[models, P]`` in [0, 1] with the ends of its 95 % interval; no ends for one model."""
    if len(values) < 2:
        return values[0], None, None
    found = [mean_interval(column) for column in values.T]
    low, high = (np.clip([getattr(one, end) for one in found], 0, 1) for end in ("low", "high"))
    return values.mean(axis=0), low, high


def example_areas(models: Models, row: str) -> np.ndarray:
    """Return the AUC of each forget example's margin, models of a row against the retrained models that share no seed with them, ``[m]``.

    For ``retrained`` these are the retrained models of the same seeds against the others: the null.

    Raises:
        NotEnoughEvidence: fewer than four models on a side.
    """
    seeds = models.record["table"]["seeds"]
    pool, numbers = models.margins("retrained", "forget"), np.array(list(models.folders.get("retrained", {})), dtype=int)
    reference = pool[numbers >= seeds]
    candidate = pool[numbers < seeds] if row == "retrained" else models.margins(row, "forget")
    if min(len(candidate), len(reference)) < LEAST:
        found = f"the AUC of an example needs {LEAST} models of the row and {LEAST} retrained ones of other seeds"
        raise NotEnoughEvidence(f"{found}; there are {len(candidate)} and {len(reference)}")
    return per_example.auc(candidate, reference)


def _edges(models: Models) -> np.ndarray:
    """Return edges of bins that all hold as many of the values that an AUC of so few models can take."""
    seeds, reference = models.record["table"]["seeds"], [seed for seed in models.folders["retrained"]]
    values = seeds * sum(seed >= seeds for seed in reference)
    step = -(-(values + 1) // BINS)
    return (np.arange(-(-(values + 1) // step) + 1) * step - 0.5) / values


def examples(models: Models) -> dict[str, Any]:
    """Return how the AUC of single examples is distributed in each row; the retrained row is the null.

    Returns:
        ``{edges: [B + 1], rows: {row: {shares: [B], mean, told_apart}}}``; told_apart is the share outside the central 95 % of the null.
    """
    null = example_areas(models, "retrained")
    edges = _edges(models)
    low, high = np.quantile(null, (0.025, 0.975))
    rows = {}
    for row in models.rows:
        try:
            areas = example_areas(models, row)
        except NotEnoughEvidence:
            continue
        shares = np.histogram(areas, edges)[0] / len(areas)
        outside = float(np.mean((areas < low) | (areas > high)))
        rows[row] = {"shares": short(shares), "mean": short(float(areas.mean())), "told_apart": short(outside)}
    return {"edges": short(edges), "rows": rows, "null": short([float(low), float(high)])}
