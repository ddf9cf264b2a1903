"""The forgotten examples that a method still remembers, and those that it forgot beyond what retraining would, with what models say."""

from typing import Any

import numpy as np

from expunge.metrics import scores
from expunge.report.figures.attacker import example_areas
from expunge.report.figures.models import Models, short
from expunge.statistics import NotEnoughEvidence

SHOWN, MANY_SHOWN, MANY = 8, 4, 12
"""Examples at each end for each method; fewer where there are many methods."""
LEAST = 0.005
"""Difference of probabilities below which nothing is said."""


def of(models: Models) -> dict[str, Any]:
    """Return the examples at both ends for each method.

    Returns:
        ``{by: "auc" | "probability", rows: {row: {remembered: [entry], overdone: [entry]}}}``. An entry holds index, label (a class),
        score and said: original, unlearned and retrained -> [most frequent answer (a class), mean probability of the true class]. The
        score is the AUC of the example, or, with too few models for one, how much more probable the true class is than under retrained
        models.
    """
    shown = SHOWN if len(models.methods) <= MANY else MANY_SHOWN
    said = {row: _answers(models, row) for row in models.rows}
    by = "auc"
    rows = {}
    for row in models.methods:
        distance = models.margins(row, "forget").mean(axis=0) - models.margins("retrained", "forget").mean(axis=0)
        try:
            score, middle, least = example_areas(models, row), 0.5, 0.0
        except NotEnoughEvidence:
            # A margin may lie far from another one where both classes' probabilities are nothing.
            by, score, middle, least = "probability", said[row][1] - said["retrained"][1], 0.0, LEAST
        order = np.lexsort((distance, score))
        ends = {
            "remembered": [place for place in order[::-1][:shown] if score[place] > middle + least],
            "overdone": [place for place in order[:shown] if score[place] < middle - least],
        }
        rows[row] = {end: [_entry(models, place, score[place], said, row) for place in places] for end, places in ends.items()}
    return {"by": by, "rows": rows}


def _answers(models: Models, row: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the most frequent answer of a row's models, int64 ``[m]``, and their mean probability of the true class, float64 ``[m]``."""
    answers = np.stack([scores.prediction(logits) for logits in models.logits(row, models.index("forget"))])
    counts = np.stack([np.bincount(column, minlength=models.data.num_classes) for column in answers.T])
    return counts.argmax(axis=1), np.exp(-models.losses(row, "forget")).mean(axis=0)


def _entry(models: Models, place: int, score: float, said: dict[str, tuple[np.ndarray, np.ndarray]], row: str) -> dict[str, Any]:
    words = {
        name: [int(said[source][0][place]), short(float(said[source][1][place]), 3)]
        for name, source in (("original", "original"), ("unlearned", row), ("retrained", "retrained"))
        if source in said
    }
    return {
        "index": int(models.index("forget")[place]),
        "label": int(models.labels("forget")[place]),
        "score": short(float(score), 3),
        "said": words,
    }


def indices(gallery: dict[str, Any]) -> set[int]:
    """Return the examples that a gallery shows."""
    return {entry["index"] for ends in gallery["rows"].values() for entries in ends.values() for entry in entries}
