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

    Source: main_cka of the code of arXiv 2503.06991, as described there: batches of 512, averaged.
    """
    return float(np.mean([biased(x, y) for x, y in batches]))


def all_layers(batches: Iterable[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]) -> tuple[list[str], list[str], np.ndarray]:
    """Return the blocks of two models and the unbiased CKA of every pair of them, ``[blocks, blocks]``.

    Args:
        batches: for each batch ``{block: [B, D]}`` of the first and of the second model, as `features.block_batches` yields.
    """
    cross: np.ndarray | None = None
    for one, two in batches:
        names = list(one), list(two)
        kernels = [[_hollow_kernel(_centred(value)) for value in part.values()] for part in (one, two)]
        products = [np.array([[_hsic_of_kernels(k, m) for m in right] for k in left]) for left, right in _sides(kernels)]
        own = [np.diag(products[1]), np.diag(products[2])]
        total = [products[0], *own]
        sums = total if cross is None else [before + now for before, now in zip(sums, total, strict=True)]  # noqa: F821
        cross = sums[0]
    if cross is None:
        raise NotEnoughEvidence("CKA needs at least one batch")
    values = np.array([[_ratio(sums[0][i, j], sums[1][i], sums[2][j]) for j in range(len(names[1]))] for i in range(len(names[0]))])
    return names[0], names[1], values
