"""Formulas of the papers, written naively for one row at a time, against the package's."""

import numpy as np
import pytest

from expunge.metrics import functional as F

MADE = np.random.default_rng(3)
LOGITS = MADE.normal(scale=2, size=(40, 6)).astype(np.float32)
OTHER = MADE.normal(scale=2, size=(40, 6)).astype(np.float32)
LABELS = MADE.integers(0, 6, 40)


def softmax(row: np.ndarray) -> np.ndarray:
    row = np.exp(row.astype(np.float64) - row.max())
    return row / row.sum()


def rows(function) -> list[float]:
    return [function(softmax(logits), int(label), softmax(other)) for logits, label, other in zip(LOGITS, LABELS, OTHER, strict=True)]


def song_mittal(p, y, _):
    return -(1 - p[y]) * np.log(p[y]) - sum(p[i] * np.log(1 - p[i]) for i in range(len(p)) if i != y)


def divergence(p, _, q):
    middle = (p + q) / 2
    return 0.5 * sum(p * np.log(p / middle)) + 0.5 * sum(q * np.log(q / middle))


@pytest.mark.parametrize(
    ("ours", "naive"),
    [
        (F.cross_entropy(LOGITS, LABELS), lambda p, y, q: -np.log(p[y])),
        (F.probability(LOGITS, LABELS), lambda p, y, q: p[y]),
        (F.margin(LOGITS, LABELS), lambda p, y, q: np.log(p[y] / (1 - p[y]))),
        (F.entropy(LOGITS), lambda p, y, q: -sum(p * np.log(p))),
        (F.modified_entropy(LOGITS, LABELS), song_mittal),
        (F.jensen_shannon(LOGITS, OTHER), divergence),
        (F.activation_distance(LOGITS, OTHER), lambda p, y, q: np.linalg.norm(p - q)),
        (F.activation_distance(LOGITS, OTHER, "l1"), lambda p, y, q: sum(abs(p - q))),
    ],
)
def test_scores(ours, naive):
    assert len(ours) == 40
    assert ours == pytest.approx(rows(naive), rel=1e-9)


def test_published_modified_entropy_is_the_published_code():
    p = np.array([softmax(row) for row in LOGITS])
    log_p, modified = -np.log(p), p.copy()
    reverse = 1 - p
    modified[:, LABELS] = reverse[:, LABELS]  # the column-wise indexing that makes it wrong
    assert F.modified_entropy_published(LOGITS, LABELS) == pytest.approx((modified * log_p).sum(axis=1))
    assert np.corrcoef(F.modified_entropy_published(LOGITS, LABELS), F.modified_entropy(LOGITS, LABELS))[0, 1] < 0.9


def test_other_published_rewrite_is_wrong_too():
    def rewrite(p, y, _):
        return -(1 - p[y]) * np.log(1 - p[y]) - sum(p[i] * np.log(p[i]) for i in range(len(p)) if i != y)

    assert np.max(np.abs(np.array(rows(rewrite)) - rows(song_mittal))) > 0.1


def test_confusion_and_accuracy():
    counts = np.zeros((6, 6), dtype=int)
    for row, label in zip(LOGITS, LABELS, strict=True):
        counts[label, int(np.argmax(row))] += 1
    assert np.array_equal(F.confusion(LOGITS, LABELS), counts)
    assert F.accuracy(LOGITS, LABELS) == pytest.approx(np.trace(counts) / 40)
    assert F.error(LOGITS, LABELS) == pytest.approx(1 - np.trace(counts) / 40)


def test_true_positive_rate_scans_every_threshold():
    positive, negative = np.round(MADE.normal(1, 1, 300), 1), np.round(MADE.normal(size=300), 1)
    allowed = [t for t in [-np.inf, *np.unique(negative)] if np.mean(negative > t) <= 0.05]
    assert F.true_positive_rate(positive, negative, 0.05) == pytest.approx(np.mean(positive > min(allowed)))


def test_best_threshold_beats_every_cut():
    members, nonmembers = np.round(MADE.normal(1, 1, 60), 1), np.round(MADE.normal(size=50), 1)

    def balanced(cut):
        return np.mean(members >= cut) + np.mean(nonmembers < cut)

    best = F.best_threshold(members, nonmembers)
    assert balanced(best) == pytest.approx(max(balanced(cut) for cut in np.arange(-5, 6, 0.05)))


def test_midranks():
    assert F.midranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1, 3.5, 2]
