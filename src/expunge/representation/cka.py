"""Centred kernel alignment of two models' features on the same inputs, with the linear kernel.

1 when the features are equal up to rotation, reflection, common scale and shift; near 0 for unrelated features. General linear maps
do change it. It is dominated by directions of large variance and by outliers: moving a few points far away brings it near 0. It is
never a verdict alone, and a value means something beside that of two retrained models only.
"""

from collections.abc import Iterable

import numpy as np

from expunge.statistics import NotEnoughEvidence


def unbiased(x: np.ndarray, y: np.ndarray) -> float:
    """Return CKA from unbiased estimates of HSIC, for features ``[n, D1]`` and ``[n, D2]`` of the same n >= 4 examples.

    Its expectation does not depend on n up to the ratio's own small bias; it can lie slightly below 0.

    Raises:
        NotEnoughEvidence: fewer than 4 examples, or features that do not vary.

    Source: Song et al., JMLR 2012, equation 4 (HSIC); Nguyen et al., ICLR 2021, section 3.1.
    """
    return minibatch([(x, y)])


def biased(x: np.ndarray, y: np.ndarray) -> float:
    """Return CKA from biased estimates of HSIC, as published codes compute it; for comparison only.

    Independent features of as many columns p give p / (n + p), not 0: with n = 512 and p = 512 that is one half.

    Source: Kornblith et al., ICML 2019, equations 3 and 4.
    """
    a, b = (_centred(value) for value in (x, y))
    norms = [float(np.linalg.norm(_cross(first, second))) for first, second in ((a, b), (a, a), (b, b))]
    if not norms[1] * norms[2] > 0:
        raise NotEnoughEvidence("CKA needs features that vary over the examples")
    return norms[0] ** 2 / (norms[1] * norms[2])


def minibatch(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return unbiased CKA over batches of feature pairs: numerators and denominators are summed, then the ratio is taken.

    Batches are weighted equally. They should be shuffled; each must hold at least 4 examples.

    Raises:
        NotEnoughEvidence: no batch, a batch that is too small, or features that do not vary.

    Source: Nguyen et al., ICLR 2021, equation 3.
    """
    sums = np.zeros(3)
    for x, y in batches:
        a, b = _centred(x), _centred(y)
        sums += [hsic(a, b), hsic(a, a), hsic(b, b)]
    return _ratio(*sums)


def minibatch_biased(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the mean over batches of biased CKA, which grows as batches shrink; for comparison only.

    Source: the code of Kim et al., arXiv 2503.06991 (batches of 512, averaged).
    """
    return float(np.mean([biased(x, y) for x, y in batches]))


def all_layers(batches: Iterable[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]) -> tuple[list[str], list[str], np.ndarray]:
    """Return the blocks of two models and the unbiased CKA of every pair of them, float64 ``[blocks, blocks]``.

    Args:
        batches: for each batch ``{block: [B, D]}`` of the first and of the second model, as `features.block_batches` yields.

    Raises:
        NotEnoughEvidence: as for `minibatch`.
    """
    cross, first, second = np.zeros(1), np.zeros(1), np.zeros(1)
    names: tuple[list[str], list[str]] | None = None
    for one, two in batches:
        names = list(one), list(two)
        left, right = ([_gram(_centred(value)) for value in part.values()] for part in (one, two))
        cross = cross + np.array([[_hsic_of_grams(a, b) for b in right] for a in left])
        first = first + np.array([_hsic_of_grams(a, a) for a in left])
        second = second + np.array([_hsic_of_grams(b, b) for b in right])
    if names is None:
        raise NotEnoughEvidence("CKA needs at least one batch")
    values = [[_ratio(cross[i, j], first[i], second[j]) for j in range(len(names[1]))] for i in range(len(names[0]))]
    return *names, np.array(values)


def grams(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Return the centred kernel matrices of several blocks' outputs ``[n, D]``, float32 ``[blocks, n, n]``: all that CKA needs of them."""
    return np.stack([_gram(_centred(value)) for value in blocks]).astype(np.float32)


def of_grams(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the unbiased CKA of every pair of blocks of two models, float64 ``[A, B]``, from `grams` on the same n examples.

    Raises:
        NotEnoughEvidence: as for `unbiased`.
    """
    a, b = (np.asarray(part, dtype=np.float64) for part in (first, second))
    own = [[_hsic_of_grams(gram, gram) for gram in part] for part in (a, b)]
    return np.array([[_ratio(_hsic_of_grams(one, two), own[0][i], own[1][j]) for j, two in enumerate(b)] for i, one in enumerate(a)])


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Return the unbiased estimate of HSIC with linear kernels, for features ``[n, D1]`` and ``[n, D2]``, n >= 4.

    With centred columns the hollow kernels' row sums are minus their diagonals, so that the estimate needs no n by n matrix:
    ``(|X'Y|^2 - n / (n - 2) sum k_ii l_ii + sum k_ii sum l_ii / ((n - 1) (n - 2))) / (n (n - 3))``.

    Raises:
        NotEnoughEvidence: fewer than 4 examples.

    Source: Song et al., JMLR 2012, equation 4.
    """
    a, b = _centred(x), _centred(y)
    narrow = a.shape[1] * b.shape[1] <= len(a) * len(a)
    cross = np.square(_cross(a, b)).sum() if narrow else (_gram(a) * _gram(b)).sum()
    return _hsic(float(cross), np.square(a).sum(axis=1), np.square(b).sum(axis=1))


def _hsic_of_grams(a: np.ndarray, b: np.ndarray) -> float:
    return _hsic(float(np.vdot(a, b)), np.diagonal(a), np.diagonal(b))


def _hsic(cross: float, k: np.ndarray, m: np.ndarray) -> float:
    n = len(k)
    if n < 4:
        raise NotEnoughEvidence(f"unbiased CKA needs 4 examples in a batch, there are {n}")
    return float((cross - n / (n - 2) * (k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2))) / (n * (n - 3)))


def _ratio(cross: float, first: float, second: float) -> float:
    if not (first > 0 and second > 0):
        raise NotEnoughEvidence("CKA needs features that vary over the examples")
    return float(cross / np.sqrt(first * second))


def _centred(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    return x - x.mean(axis=0)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x.T @ y


def _gram(x: np.ndarray) -> np.ndarray:
    return x @ x.T
