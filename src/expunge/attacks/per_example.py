"""One comparison for each example: how well its margins under some models are told from those under others.

All examples are compared at once by sorting the models' margins of each example. Scores are compared as float32. Per-example values and
values over all examples together answer different questions; neither stands for the other.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from expunge import statistics
from expunge.attacks import margins as matrices
from expunge.errors import BadInput
from expunge.statistics import NotEnoughEvidence

_NEGATIVE, _POSITIVE, _LEFT_OUT = 0, 1, 2


class Tests(NamedTuple):
    """One test for each example.

    Attributes:
        statistic: float64 ``[n]``.
        p_value: float64 ``[n]``, two-sided.
    """

    statistic: np.ndarray
    p_value: np.ndarray

    def rejected(self, q: float = 0.05) -> np.ndarray:
        """Return which examples differ at a false-discovery rate of q, bool ``[n]``; exact unlearning rejects any with chance q."""
        return statistics.benjamini_hochberg(self.p_value) < q


def auc(
    positive: np.ndarray, negative: np.ndarray, positive_mask: np.ndarray | None = None, negative_mask: np.ndarray | None = None
) -> np.ndarray:
    """Return each example's P(positive > negative) + P(equal) / 2, float64 ``[n]``; NaN where a side has no model.

    Args:
        positive: scores under models of one kind, ``[models, n]``.
        negative: scores under models of the other kind, ``[other models, n]``; may be the same array, with other entries masked in.
        positive_mask: which positive entries count, bool of their shape; None for all.
        negative_mask: which negative entries count.

    Raises:
        BadInput: matrices that do not fit, are not finite, or whose masks overlap in one array.
    """
    result = np.empty(positive.shape[1])
    for part, keys in _sorted_keys(positive, negative, positive_mask, negative_mask):
        wins, positives, negatives = _wins(keys)
        with np.errstate(invalid="ignore"):
            result[part] = np.where(positives * negatives > 0, wins / np.where(positives * negatives > 0, positives * negatives, 1), np.nan)
    return result


def mann_whitney(positive: np.ndarray, negative: np.ndarray) -> Tests:
    """Return each example's AUC and its two-sided p-value, from the normal law with corrections for ties and continuity.

    Close to exact from 8 models a side, and on the safe side in the tails. An example on which all models agree exactly has p = 1.

    Raises:
        BadInput: as `auc`.
        NotEnoughEvidence: fewer than 4 models on a side: no single example could be told apart.
    """
    n1, n0 = len(positive), len(negative)
    if min(n1, n0) < 4:
        raise NotEnoughEvidence(f"a per-example test needs 4 models on each side, there are {n1} and {n0}")
    areas, ties = np.empty(positive.shape[1]), np.empty(positive.shape[1])
    for part, keys in _sorted_keys(positive, negative, None, None):
        areas[part] = _wins(keys)[0] / (n1 * n0)
        ties[part] = _tie_term(keys >> 2)
    return Tests(areas, _two_sided(areas, ties, n1, n0))


class Relabelled:
    """The per-example areas of many divisions of one pool of models, from one ranking of its margins.

    Args:
        pool: margins, ``[models, n]``.

    Raises:
        BadInput: margins that are not finite.
    """

    def __init__(self, pool: np.ndarray):
        from scipy import stats

        matrices.check(pool)
        self.models, self.examples = pool.shape
        self.ranks, self.ties = np.empty(pool.shape), np.empty(pool.shape[1])
        for part in matrices.chunks(pool.shape):
            block = np.ascontiguousarray(pool[:, part].T, dtype=np.float32)
            self.ranks[:, part] = stats.rankdata(block, axis=1).T
            self.ties[part] = _tie_term(np.sort(block, axis=1))

    def mean_areas(self, chosen: np.ndarray) -> np.ndarray:
        """Return the mean over examples of `auc`, float64 ``[divisions]``; ``chosen`` as in `areas`."""
        return self._of_sums(chosen.astype(np.float64) @ self.ranks.mean(axis=1), chosen)

    def areas(self, chosen: np.ndarray) -> np.ndarray:
        """Return `auc` of each example, float64 ``[divisions, n]``.

        Args:
            chosen: which models are called unlearned, bool ``[divisions, models]``, equally many in each.
        """
        return self._of_sums(chosen.astype(np.float64) @ self.ranks, chosen)

    def p_values(self, chosen: np.ndarray) -> np.ndarray:
        """Return the p-values of `mann_whitney`, float64 ``[divisions, n]``; ``chosen`` as in `areas`."""
        n1 = int(chosen[0].sum())
        return _two_sided(self.areas(chosen), self.ties, n1, self.models - n1)

    def _of_sums(self, sums: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        n1 = int(chosen[0].sum())
        return (sums - n1 * (n1 + 1) / 2) / (n1 * (self.models - n1))


def _two_sided(areas: np.ndarray, ties: np.ndarray, n1: int, n0: int) -> np.ndarray:
    from scipy import stats

    total = n1 + n0
    variance = np.broadcast_to((total + 1 - ties / (total * (total - 1))) / (12 * n1 * n0), areas.shape)
    distance = np.maximum(np.abs(areas - 0.5) - 0.5 / (n1 * n0), 0)
    z = np.divide(distance, np.sqrt(np.maximum(variance, 0)), out=np.zeros_like(distance), where=variance > 1e-15)
    return 2 * stats.norm.sf(z)


def kolmogorov_smirnov(positive: np.ndarray, negative: np.ndarray) -> Tests:
    """Return each example's largest distance of the two empirical distributions and its asymptotic p-value.

    Sees any change of law, a narrowing as well as a shift. The 5 % critical distance at N models a side is 1.358 sqrt(2 / N).

    Raises:
        BadInput: as `auc`.
    """
    from scipy import stats

    n1, n0 = len(positive), len(negative)
    distance = np.empty(positive.shape[1])
    for part, keys in _sorted_keys(positive, negative, None, None):
        steps = np.where((keys & 3) == _POSITIVE, 1 / n1, -1 / n0).cumsum(axis=1)
        last = np.ones(keys.shape, dtype=bool)
        last[:, :-1] = (keys[:, 1:] >> 2) != (keys[:, :-1] >> 2)
        distance[part] = np.abs(np.where(last, steps, 0)).max(axis=1)
    return Tests(distance, stats.kstwobign.sf(distance * np.sqrt(n1 * n0 / (n1 + n0))))


def placements(
    positive: np.ndarray, negative: np.ndarray, positive_mask: np.ndarray, negative_mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each entry wins against the other side of its example, two float32 arrays of the entries' shapes.

    A positive's value is the share of its example's negatives below it, a negative's the share of positives above it (ties half);
    their masked means over models are both the AUC. Entries that do not count are 0.

    Raises:
        BadInput: as `auc`.
    """
    results = np.zeros(positive.shape, np.float32), np.zeros(negative.shape, np.float32)
    for part in matrices.chunks((len(positive) + len(negative), positive.shape[1])):
        blocks = positive[:, part], negative[:, part]
        coded = _codes(blocks[0], positive_mask, part, _POSITIVE), _codes(blocks[1], negative_mask, part, _NEGATIVE)
        codes = np.concatenate(coded)
        keys = _keys(np.concatenate(blocks), codes)
        order = np.argsort(keys, axis=1)
        below, above = _beaten(np.take_along_axis(keys, order, axis=1))
        shares = np.empty(keys.shape, dtype=np.float32)
        np.put_along_axis(shares, order, np.where(codes.T[np.arange(len(keys))[:, None], order] == _POSITIVE, below, above), axis=1)
        shares[codes.T == _LEFT_OUT] = 0
        results[0][:, part], results[1][:, part] = shares[:, : len(positive)].T, shares[:, len(positive) :].T
    return results


def _sorted_keys(
    positive: np.ndarray, negative: np.ndarray, positive_mask: np.ndarray | None, negative_mask: np.ndarray | None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield ``(slice of examples, sorted keys [examples, entries])``."""
    _check(positive, negative, positive_mask, negative_mask)
    for part in matrices.chunks((len(positive) + len(negative), positive.shape[1])):
        if positive is negative and positive_mask is not None and negative_mask is not None:
            codes = np.where(positive_mask[:, part], _POSITIVE, np.where(negative_mask[:, part], _NEGATIVE, _LEFT_OUT))
            scores = positive[:, part]
        else:
            scores = np.concatenate([positive[:, part], negative[:, part]])
            codes = np.concatenate(
                [
                    _codes(scores[: len(positive)], positive_mask, part, _POSITIVE),
                    _codes(scores[len(positive) :], negative_mask, part, _NEGATIVE),
                ]
            )
        keys = _keys(scores, codes)
        keys.sort(axis=1)
        yield part, keys


def _check(positive: np.ndarray, negative: np.ndarray, positive_mask: np.ndarray | None, negative_mask: np.ndarray | None) -> None:
    matrices.check_pair(positive, negative)
    for mask, scores in ((positive_mask, positive), (negative_mask, negative)):
        if mask is not None and (mask.dtype != bool or mask.shape != scores.shape):
            raise BadInput("mask", f"expected bool {list(scores.shape)}, got {mask.dtype} {list(mask.shape)}.")
    if positive is negative and positive_mask is not None and negative_mask is not None and (positive_mask & negative_mask).any():
        raise BadInput("mask", "an entry is masked in as a positive and as a negative.")


def _codes(block: np.ndarray, mask: np.ndarray | None, part: slice, code: int) -> np.ndarray:
    return np.full(block.shape, code) if mask is None else np.where(mask[:, part], code, _LEFT_OUT)


def _keys(scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return integers ``[examples, entries]`` that sort as the float32 scores do, with the code in the lowest two bits.

    One sort of integers then brings the labels along, which is several times faster than sorting indices.
    """
    bits = np.ascontiguousarray(scores.T, dtype=np.float32) + np.float32(0)  # -0 becomes 0
    whole = bits.view(np.int32)
    ordered = (whole ^ ((whole >> 31) & 0x7FFFFFFF)).astype(np.int64)
    return (ordered << 2) | codes.T


def _wins(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return wins of positives over negatives (ties half), positives and negatives of each row of sorted keys."""
    codes = keys & 3
    positive, negative = codes == _POSITIVE, codes == _NEGATIVE
    before = negative.cumsum(axis=1, dtype=np.int32)
    wins = np.einsum("ij,ij->i", before, positive, dtype=np.int64).astype(np.float64)
    ranks = keys >> 2
    tied = np.flatnonzero((ranks[:, 1:] == ranks[:, :-1]).any(axis=1))
    if len(tied):
        low = _before_group(ranks[tied], before[tied], negative[tied])
        wins[tied] = (wins[tied] + np.einsum("ij,ij->i", low, positive[tied], dtype=np.int64)) / 2
    return wins, positive.sum(axis=1), before[:, -1].astype(np.int64)


def _before_group(ranks: np.ndarray, upto: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return how many counted entries lie strictly below each entry's group of equal values."""
    first = np.ones(ranks.shape, dtype=bool)
    first[:, 1:] = ranks[:, 1:] != ranks[:, :-1]
    return np.maximum.accumulate(np.where(first, upto - counted, 0), axis=1)


def _beaten(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for sorted keys the share of negatives below and of positives above each entry, ties half."""
    codes, ranks = keys & 3, keys >> 2
    shares = []
    for code in (_NEGATIVE, _POSITIVE):
        counted = codes == code
        upto = counted.cumsum(axis=1)
        low = _before_group(ranks, upto, counted)
        high = upto[:, -1:] - _before_group(ranks[:, ::-1].copy(), counted[:, ::-1].cumsum(axis=1), counted[:, ::-1])[:, ::-1]
        shares.append((low + high) / 2 / np.maximum(upto[:, -1:], 1))
    return shares[0], 1 - shares[1]


def _tie_term(ranks: np.ndarray) -> np.ndarray:
    """Return the sum of t^3 - t over groups of t equal values, ``[rows]``."""
    rows, entries = ranks.shape
    first = np.ones(ranks.shape, dtype=bool)
    first[:, 1:] = ranks[:, 1:] != ranks[:, :-1]
    starts = np.flatnonzero(first)
    sizes = np.diff(np.append(starts, rows * entries)).astype(np.float64)
    return np.bincount(starts // entries, weights=sizes**3 - sizes, minlength=rows)
