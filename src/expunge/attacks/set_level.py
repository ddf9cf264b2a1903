"""Tests in which an adversary sees the whole forget set at once: the strongest cheap evidence against a method.

One model gives one vector of margins over the forget set; the question is whether unlearned vectors can be told from retrained ones. A leak
too small to see in any example (a shift of .1 standard deviations, AUC .528) is plain over 500 of them (AUC .943).

Model k of one pool and model k of the other always share a fold, so that pools paired by training seed do not leak between folds.
"""

from typing import Literal, NamedTuple

import numpy as np

from expunge.attacks import margins as matrices
from expunge.attacks import per_example, roc
from expunge.errors import BadInput
from expunge.statistics import NotEnoughEvidence


class ClassifierTest(NamedTuple):
    """Result of a classifier two-sample test.

    Attributes:
        auc: mean over folds of the AUC on held-out models; .5 for two pools of one law.
        standard_error: of the AUC over held-out models; None when the pools are separated completely. The noise of fitting is not in
            it (15 % too small at 60 models a side): judge by the p-value.
        null_standard_error: what it would be for two pools of one law.
        p_value: share of relabelled pools that are told apart as well, one-sided.
        unlearned: held-out scores, ``[models]``; one trial a model, independent within a fold and nearly so between folds.
        retrained: held-out scores, ``[other models]``.
        relabelled: the AUC of each labelling, the true one first, float64 ``[1 + permutations]``.
    """

    auc: float
    standard_error: float | None
    null_standard_error: float
    p_value: float
    unlearned: np.ndarray
    retrained: np.ndarray
    relabelled: np.ndarray


class MeanDiscrepancy(NamedTuple):
    """Result of a kernel two-sample test.

    Attributes:
        value: unbiased squared maximum mean discrepancy; 0 on average for two pools of one law.
        p_value: share of relabelled pools with a value as large.
        bandwidth: of the Gaussian kernel, in standardised margins.
        relabelled: the value of each labelling, the true one first, float64 ``[1 + permutations]``.
    """

    value: float
    p_value: float
    bandwidth: float
    relabelled: np.ndarray


def classifier_test(
    unlearned: np.ndarray,
    retrained: np.ndarray,
    classifier: Literal["lda", "logistic"] = "lda",
    folds: int = 5,
    permutations: int = 1000,
    penalty: float = 1.0,
    seed: int = 0,
) -> ClassifierTest:
    """Return how well a linear classifier tells held-out unlearned models from retrained ones, with a permutation p-value.

    Args:
        unlearned: margins of the forget set, ``[models, n]``, all of one forget set.
        retrained: the same of models trained without it, ``[other models, n]``.
        classifier: ``lda`` with Ledoit-Wolf shrinkage, whose folds are solved once for all relabellings; ``logistic`` with an L2
            penalty, refitted for each (take 100 permutations).
        folds: over models, equal shares of both pools in each.
        permutations: relabellings within folds; the smallest p-value is 1 / (permutations + 1).
        penalty: of ``logistic``, on the sum over models of the loss in standardised margins.
        seed: of folds and relabellings.

    Raises:
        BadInput: matrices that do not fit or are not finite, or more folds than models.
        NotEnoughEvidence: no example's margin varies over the models.

    Source: Lopez-Paz & Oquab, ICLR 2017; Ledoit & Wolf, JMVA 2004.
    """
    fold = _folds(len(unlearned), len(retrained), folds, seed)
    gram, features = _gram(unlearned, retrained)
    label = np.repeat([True, False], [len(unlearned), len(retrained)])
    labels = _relabelled(label, fold, permutations, seed)
    areas, observed = np.zeros(labels.shape[1]), np.empty(len(label))
    for each in range(folds):
        test = fold == each
        score = _lda if classifier == "lda" else _logistic
        scores = score(gram, ~test, test, labels[~test], features, penalty)
        observed[test] = scores[:, 0]
        areas += per_example.auc(scores, scores, labels[test], ~labels[test]) / folds
    p_value = float(np.mean(areas >= areas[0] - 1e-12))
    null = roc.null_standard_error(len(unlearned), len(retrained))
    return ClassifierTest(float(areas[0]), _error(observed, label, fold), null, p_value, observed[label], observed[~label], areas)


def mean_discrepancy(
    unlearned: np.ndarray, retrained: np.ndarray, bandwidth: float | None = None, permutations: int = 1000, seed: int = 0
) -> MeanDiscrepancy:
    """Return the unbiased squared MMD of the two pools' margin vectors with its permutation p-value.

    Args:
        unlearned: margins, ``[models, n]``.
        retrained: margins, ``[other models, n]``.
        bandwidth: of the kernel exp(-distance^2 / (2 bandwidth^2)) on standardised margins; the median distance by default.
        permutations: relabellings.
        seed: of the relabellings.

    Raises:
        BadInput: matrices that do not fit or are not finite.
        NotEnoughEvidence: no example's margin varies, or fewer than 2 models in a pool.

    Source: Gretton et al., JMLR 2012, lemma 6.
    """
    if min(len(unlearned), len(retrained)) < 2:
        raise NotEnoughEvidence(f"a mean discrepancy needs 2 models in each pool, there are {len(unlearned)} and {len(retrained)}")
    gram, _ = _gram(unlearned, retrained)
    power = np.diag(gram)
    squares = np.maximum(power[:, None] + power - 2 * gram, 0)
    width = float(np.median(np.sqrt(squares[np.triu_indices(len(gram), 1)]))) if bandwidth is None else bandwidth
    kernel = np.exp(-squares / (2 * width**2))
    np.fill_diagonal(kernel, 0)
    label = np.repeat([True, False], [len(unlearned), len(retrained)])
    values = discrepancies(kernel, _relabelled(label, np.zeros(len(label), np.int64), permutations, seed).astype(np.float64))
    return MeanDiscrepancy(float(values[0]), float(np.mean(values >= values[0] - 1e-15)), width, values)


def optimal_auc(shifts: np.ndarray) -> float:
    """Return the best AUC for independent normal margins that differ by these shifts, in standard deviations: Phi(|d| / sqrt 2)."""
    return roc.normal_areas(float(np.linalg.norm(shifts)))["auc"]


def _gram(unlearned: np.ndarray, retrained: np.ndarray) -> tuple[np.ndarray, int]:
    """Return inner products of the models' standardised margin vectors, and over how many examples; those that never vary are left out."""
    matrices.check_pair(unlearned, retrained)
    total = len(unlearned) + len(retrained)
    gram, features = np.zeros((total, total)), 0
    for part in matrices.chunks((total, unlearned.shape[1])):
        block = np.concatenate([unlearned[:, part], retrained[:, part]]).astype(np.float64)
        block -= block.mean(axis=0)
        deviation = block.std(axis=0)
        block = block[:, deviation > 0] / deviation[deviation > 0]
        gram += block @ block.T
        features += block.shape[1]
    if not features:
        raise NotEnoughEvidence("no example's margin varies over the models")
    return gram, features


def _folds(first: int, second: int, count: int, seed: int) -> np.ndarray:
    if min(first, second) < count:
        raise BadInput("folds", f"{count} folds need {count} models in each pool, there are {first} and {second}.")
    both = matrices.folds(max(first, second), count, seed)
    return np.concatenate([_cut(both, size, count, seed) for size in (first, second)])


def _cut(assigned: np.ndarray, size: int, count: int, seed: int) -> np.ndarray:
    return assigned if size == len(assigned) else matrices.folds(size, count, seed)


def _relabelled(label: np.ndarray, fold: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """Return the labels and their permutations within folds, bool ``[models, 1 + permutations]``."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(label[:, None], permutations + 1, axis=1)
    for each in np.unique(fold):
        rows = np.flatnonzero(fold == each)
        labels[rows, 1:] = generator.permuted(labels[rows, 1:], axis=0)
    return labels


def _lda(gram: np.ndarray, train: np.ndarray, test: np.ndarray, labels: np.ndarray, features: int, penalty: float) -> np.ndarray:
    """Return held-out scores for every labelling, ``[test models, labellings]``.

    The direction of the shrunk discriminant is that of ridge regression on the labels, and shrinkage does not see the labels; so one
    factorisation serves all labellings.
    """
    from scipy import linalg

    inner, across = _centred(gram, train, test)
    models = len(inner)
    shrinkage, scale = _shrinkage(inner, features)
    target = np.where(labels, 1.0, -1.0)
    weights = linalg.solve(
        (1 - shrinkage) * inner / models + shrinkage * scale * np.eye(models), target - target.mean(axis=0), assume_a="pos"
    )
    return across @ weights


def _logistic(gram: np.ndarray, train: np.ndarray, test: np.ndarray, labels: np.ndarray, features: int, penalty: float) -> np.ndarray:
    """Return held-out scores for every labelling, fitted in the coordinates of the training models' principal axes."""
    from sklearn.linear_model import LogisticRegression

    inner, across = _centred(gram, train, test)
    values, vectors = np.linalg.eigh(inner / features)
    kept = values > 1e-10 * values[-1]
    axes = vectors[:, kept] / np.sqrt(values[kept])
    points, targets = inner @ axes / features, across @ axes / features
    fits = (LogisticRegression(C=1 / penalty, max_iter=500).fit(points, label) for label in labels.T)
    return np.stack([fit.decision_function(targets) for fit in fits], axis=1)


def _centred(gram: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inner, across = gram[np.ix_(train, train)], gram[np.ix_(test, train)]
    column, mean = inner.mean(axis=0), inner.mean()
    return inner - column - column[:, None] + mean, across - across.mean(axis=1, keepdims=True) - column + mean


def _shrinkage(inner: np.ndarray, features: int) -> tuple[float, float]:
    """Return the Ledoit-Wolf intensity towards the scaled identity, and that scale, from inner products alone."""
    models = len(inner)
    scale = np.trace(inner) / models / features
    norm = (inner**2).sum() / models**2
    noise = ((np.diag(inner) ** 2).sum() - models * norm) / models**2
    spread = norm - features * scale**2
    return float(np.clip(noise / spread, 1e-6, 1.0)) if spread > 0 else 1.0, float(scale)


def _error(scores: np.ndarray, label: np.ndarray, fold: np.ndarray) -> float | None:
    """Return DeLong's standard error of the mean of the folds' areas."""
    placed: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for each in np.unique(fold):
        one, zero = scores[(fold == each) & label], scores[(fold == each) & ~label]
        full = np.ones((len(one), 1), bool), np.ones((len(zero), 1), bool)
        for side, values in zip(placed, per_example.placements(one[:, None], zero[:, None], *full), strict=True):
            side.append(values[:, 0])
    error = float(np.sqrt(sum(np.concatenate(side).var(ddof=1) / sum(map(len, side)) for side in placed)))
    return error if error > 0 else None


def discrepancies(kernel: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return mean within one group + mean within the other - 2 x mean across of a kernel, for many labellings, float64 ``[labellings]``.

    Args:
        kernel: symmetric, ``[models, models]``, zeros on the diagonal.
        labels: 1 for the first group and 0 for the second, float64 ``[models, labellings]``, equally many ones in each column.
    """
    first = labels[:, 0].sum()
    second = len(labels) - first
    product = kernel @ labels
    within = np.einsum("mb,mb->b", labels, product)
    across = product.sum(axis=0) - within
    rest = kernel.sum() - within - 2 * across
    return within / (first * (first - 1)) + rest / (second * (second - 1)) - 2 * across / (first * second)
