"""What the first model of every row answers to a sample of examples: enough to set any two side by side."""

from typing import Any

import numpy as np

from expunge.metrics import scores
from expunge.report.figures.models import Models

SAMPLE = 300
"""Examples of each part."""
PICTURED = 150
"""Examples that get a picture: those about which most rows disagree."""


def of(models: Models) -> dict[str, Any]:
    """Return answers and confidences of one model of each row, all of the same seed where it gave a model.

    Returns:
        ``{index, label, part: [m], parts: [names], rows: {row: {seed, answer: [m], confidence: [m]}}, pictured: [indices]}``; an answer
        is a class, a confidence the probability of that class in whole percent.
    """
    sample = {part: _sample(models.index(part)) for part in models.parts}
    index = np.concatenate(list(sample.values()))
    rows = {row: _answers(models, row, index) for row in models.rows}
    answers = np.array([held["answer"] for held in rows.values()])
    different = np.array([len(np.unique(column)) for column in answers.T])
    return {
        "index": index.tolist(),
        "label": models.data.labels.numpy()[index].tolist(),
        "part": np.repeat(np.arange(len(sample)), [len(part) for part in sample.values()]).tolist(),
        "parts": list(sample),
        "rows": rows,
        "pictured": index[np.argsort(-different, kind="stable")[:PICTURED]].tolist(),
    }


def _sample(index: np.ndarray) -> np.ndarray:
    if len(index) <= SAMPLE:
        return index
    return np.sort(np.random.default_rng(1).choice(index, SAMPLE, replace=False))


def _answers(models: Models, row: str, index: np.ndarray) -> dict[str, Any]:
    logits = next(models.logits(row, index))
    sure = np.exp(scores.log_softmax(logits).max(axis=1))
    return {
        "seed": next(iter(models.folders[row])),
        "answer": scores.prediction(logits).tolist(),
        "confidence": np.round(100 * sure).astype(int).tolist(),
    }
