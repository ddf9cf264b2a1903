"""What a linear classifier can read from frozen features: the label, or whether an example was trained on.

A head can be edited to hide what the encoder knows; a probe puts a new head on the encoder. The good value is the retrained
model's, not chance: features that were never trained on a class still separate it to some degree.
"""

from typing import NamedTuple

import numpy as np

from expunge.metrics import roc, scores
from expunge.representation.features import Reading, join
from expunge.statistics import NotEnoughEvidence

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse regularisation strengths C from which validation chooses."""


class Probe(NamedTuple):
    """A fitted linear probe.

    Attributes:
        accuracy: on the examples that were asked about, a fraction.
        n: number of these examples.
        strength: the C that validation chose.
        validation_accuracy: a fraction.
    """

    accuracy: float
    n: int
    strength: float
    validation_accuracy: float


def linear_probe(
    fit: Reading,
    validation: Reading,
    asked: Reading,
    strengths: tuple[float, ...] = STRENGTHS,
    balanced: bool = False,
    iterations: int = 1000,
) -> Probe:
    """Return how well a linear classifier on features, fitted on some examples, names the classes of others.

    Features are standardised with the moments of the fitting examples. C is the one with the best accuracy on validation, the smallest
    of equally good ones. For a class request fit on retain examples and a few forget examples and ask about unseen images of the forgotten
    class: with many forget examples most encoders, retrained ones too, answer all of them. For other requests fit on retain examples
    alone and ask about the forget set.

    Args:
        fit: features and labels to fit on; all models that are compared get the same examples.
        validation: chooses C; neither fitted on nor reported.
        asked: what the accuracy is of.
        strengths: candidates for C, ascending.
        balanced: whether every class weighs the same, however few its examples; needed with few forget examples.
        iterations: limit of the solver; a probe that has not converged is used as it is, for every model alike.

    Raises:
        NotEnoughEvidence: one class only, or a part without examples.

    Source: Alain and Bengio, arXiv 1610.01644 (linear probes).
    """
    for name, part in (("fitting", fit), ("validation", validation), ("the question", asked)):
        if not len(part.labels):
            raise NotEnoughEvidence(f"a linear probe needs examples for {name}, there are none")
    if len(np.unique(fit.labels)) < 2:
        raise NotEnoughEvidence("a linear probe needs two classes to fit on, there is one")
    scale = _standardiser(fit.features)
    x, held, target = (scale(part.features) for part in (fit, validation, asked))
    best: tuple[float, float, float] | None = None
    for strength in strengths:
        classifier = _fitted(x, fit.labels, strength, iterations, balanced)
        right = float(np.mean(classifier.predict(held) == validation.labels))
        if best is None or right > best[0]:
            best = right, strength, float(np.mean(classifier.predict(target) == asked.labels))
    assert best is not None
    return Probe(best[2], len(asked.labels), best[1], best[0])


def label_probe(
    retain: Reading,
    validation: Reading,
    forget: Reading,
    unseen: Reading,
    *,
    taught: Reading | None = None,
    strengths: tuple[float, ...] = STRENGTHS,
    iterations: int = 1000,
) -> Probe:
    """Return how well a new head on frozen features names the classes of forgotten examples, as fits the kind of request.

    Where whole classes are forgotten the head is fitted on retain examples and a few forgotten ones, every class weighing the same, and is
    asked about unseen examples; otherwise it is fitted on retain examples alone and is asked about the forget set.

    Args:
        retain: what stays.
        validation: chooses C.
        forget: the forget set.
        unseen: unseen examples of the forgotten classes.
        taught: a few forgotten examples of each class where whole classes are forgotten; None otherwise.
        strengths: candidates for C, ascending.
        iterations: limit of the solver.

    Raises:
        NotEnoughEvidence: see `linear_probe`.
    """
    if taught is None:
        return linear_probe(retain, validation, forget, strengths, iterations=iterations)
    return linear_probe(join(retain, taught), validation, unseen, strengths, balanced=True, iterations=iterations)


def membership_probe(members: np.ndarray, nonmembers: np.ndarray, folds: int = 5, strength: float = 0.01, seed: int = 0) -> roc.Area:
    """Return how well a linear classifier on features tells two groups apart: the AUC within held-out folds, averaged.

    0.5 when both groups have the same law, as the forget set and matched unseen examples have for a retrained model. It needs hundreds of
    examples on each side: with 40 it did not catch a model that had not unlearned at all. Folds are
    judged apart, because scores of different fits are not on one scale: pooling them is biased below 0.5. The standard error is that
    of the null (no difference) for the folds' sizes.

    Args:
        members: features of the forget set, ``[n1, D]``.
        nonmembers: features of matched unseen examples, ``[n0, D]``.
        folds: parts of each group.
        strength: inverse regularisation strength C; fixed, so that nothing is chosen on the scored examples.
        seed: of the folds.

    Raises:
        NotEnoughEvidence: a group with fewer examples than folds.
    """
    if min(len(members), len(nonmembers)) < folds:
        raise NotEnoughEvidence(f"{folds} folds need {folds} examples in each group, there are {len(members)} and {len(nonmembers)}")
    places = [np.random.default_rng([seed, side]).permutation(len(group)) % folds for side, group in enumerate((members, nonmembers))]
    areas, weights = [], []
    for fold in range(folds):
        inside = [group[place != fold] for group, place in zip((members, nonmembers), places, strict=True)]
        outside = [group[place == fold] for group, place in zip((members, nonmembers), places, strict=True)]
        scale = _standardiser(np.concatenate(inside))
        answers = np.repeat([1, 0], [len(inside[0]), len(inside[1])])
        classifier = _fitted(scale(np.concatenate(inside)), answers, strength, 1000, balanced=True)
        positive, negative = (classifier.decision_function(scale(group)) for group in outside)
        areas.append(roc.auc(positive, negative))
        weights.append(len(positive) * len(negative))
    share = np.array(weights) / np.sum(weights)
    error = roc.null_standard_error(len(members), len(nonmembers))
    return roc.Area(float(share @ areas), error)


def refitted_membership(retain: Reading, forget: Reading, unseen: Reading, strength: float = 1.0) -> roc.Area:
    """Return the AUC of the margin of forget against unseen examples under a new head that is fitted on retain examples alone.

    What an edited head hides comes back, though no forget example is fitted on: 0.5 when the encoder treats both groups alike, as a
    retrained one does. For requests other than whole classes, whose rows a head fitted on retain examples does not have.

    Args:
        retain: what the head is fitted on.
        forget: the forget set.
        unseen: matched unseen examples.
        strength: inverse regularisation strength C; fixed for all models.

    Raises:
        NotEnoughEvidence: a class of the forget set or of the unseen examples has no retain example.
    """
    scale = _standardiser(retain.features)
    classifier = _fitted(scale(retain.features), retain.labels, strength, 1000)
    strange = np.setdiff1d(np.concatenate([forget.labels, unseen.labels]), classifier.classes_)
    if len(strange):
        raise NotEnoughEvidence(f"a head fitted on retain examples has no row for class {strange[0]}")
    margins = []
    for part in (forget, unseen):
        log_p = classifier.predict_log_proba(scale(part.features))
        margins.append(scores.margin(log_p, np.searchsorted(classifier.classes_, part.labels)))
    return roc.area(*margins)


def _standardiser(x: np.ndarray):
    mean, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    spread = np.where(spread > 1e-12 * max(1e-300, float(np.abs(spread).max())), spread, 1.0)
    return lambda values: (values - mean) / spread


def _fitted(x: np.ndarray, labels: np.ndarray, strength: float, iterations: int, balanced: bool = False):
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # Many threads on matrices so small spend their time waiting for each other: a hundred times slower on a busy machine.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=iterations, class_weight="balanced" if balanced else None).fit(x, labels)
