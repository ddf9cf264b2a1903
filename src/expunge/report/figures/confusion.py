"""Where the answers to forgotten examples go: true class by predicted class, as shares, for every row."""

from typing import Any

import numpy as np

from expunge.metrics import scores
from expunge.report.figures.models import Models, short

CLASSES = 12


def of(models: Models) -> dict[str, Any]:
    """Return shares of predicted classes, mean over the models of a row.

    Returns:
        ``{true: [names], predicted: [names], counts: [T], rows: {row: [T][P]}, thinned: bool}``: the true classes with most forget
        examples, and the classes that are answered most; where there are more, the last column holds all others.
    """
    index, labels = models.index("forget"), models.labels("forget")
    said = {row: np.stack([scores.prediction(logits) for logits in models.logits(row, index)]) for row in models.rows}
    count = models.data.num_classes
    true = np.sort(np.argsort(-np.bincount(labels, minlength=count), kind="stable")[:CLASSES])
    true = true[np.bincount(labels, minlength=count)[true] > 0]
    everywhere = np.bincount(np.concatenate([answers.ravel() for answers in said.values()]), minlength=count)
    shown = np.sort(np.argsort(-(everywhere + (np.isin(np.arange(count), true) * everywhere.sum())), kind="stable")[:CLASSES])
    names = models.data.class_names
    return {
        "true": [names[c] for c in true],
        "counts": [int(np.sum(labels == c)) for c in true],
        "predicted": [names[c] for c in shown] + (["others"] if len(shown) < count else []),
        "rows": {row: short(_shares(answers, labels, true, shown, len(shown) < count), 3) for row, answers in said.items()},
        "thinned": len(true) < len(np.unique(labels)) or len(shown) < count,
    }


def _shares(answers: np.ndarray, labels: np.ndarray, true: np.ndarray, shown: np.ndarray, others: bool) -> list[list[float]]:
    found = []
    for c in true:
        mine = answers[:, labels == c]
        shares = [float(np.mean(mine == other)) for other in shown]
        found.append([*shares, float(np.mean(~np.isin(mine, shown)))] if others else shares)
    return found
