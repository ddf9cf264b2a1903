"""KLOM: the Kullback-Leibler divergence of binned margins, unlearned against retrained, for each example.

Of two pools of one law it is not 0: with 100 models a side and 20 bins it is .34 on average and .66 at the 95th percentile. Print it beside
`null_klom` or beside the value of two halves of the retrained models. It saturates near 11.5 and is not symmetric.
"""

from typing import Literal

import numpy as np

from expunge.attacks import margins as matrices

Quirks = Literal["none", "easydub", "data_unlearning_bench"]

CLIP, FLOOR = 100.0, 1e-5


def klom(unlearned: np.ndarray, retrained: np.ndarray, bins: int = 20, quirks: Quirks = "none") -> np.ndarray:
    """Return sum of P log(P / Q) in nats for each example, float64 ``[n]``.

    Args:
        unlearned: margins that give P, ``[models, n]``; clipped to -100 ... 100.
        retrained: margins that give Q, ``[other models, n]``; Q is raised to 1e-5 where P is not 0.
        bins: equal ones over the joint range of each example.
        quirks: ``none`` closes the last bin on the right. ``easydub`` loses each example's joint maximum as the published code does
            (an example whose unlearned margins all sit there gets 0). ``data_unlearning_bench`` does so too, scales Q to
            sum to 1 after raising it, and gives NaN there.

    Raises:
        BadInput: matrices that do not fit or are not finite.

    Source: easydub/EasyDUB-code, RoyRin/data-unlearning-bench; the summaries are the 95th percentile and the mean over a set.
    """
    matrices.check_pair(unlearned, retrained)
    result = np.empty(unlearned.shape[1])
    for part in matrices.chunks((len(unlearned) + len(retrained), unlearned.shape[1])):
        blocks = [np.clip(pool[:, part].astype(np.float64), -CLIP, CLIP) for pool in (unlearned, retrained)]
        edges = _edges(blocks, bins)
        first, second = (_count(block, edges, close=quirks == "none") for block in blocks)
        result[part] = _divergence(first, second, renormalise=quirks == "data_unlearning_bench")
    return result


def relabelled_klom(pool: np.ndarray, chosen: np.ndarray, bins: int = 20) -> np.ndarray:
    """Return `klom` of each example for many divisions of one pool of models, float32 ``[divisions, n]``.

    Args:
        pool: margins, ``[models, n]``.
        chosen: which models are called unlearned, bool ``[divisions, models]``; the others are the retrained ones.
        bins: as in `klom`.

    Raises:
        BadInput: margins that are not finite.
    """
    from scipy import sparse

    matrices.check(pool)
    result = np.empty((len(chosen), pool.shape[1]), dtype=np.float32)
    weights = chosen.T.astype(np.float64)
    for part in matrices.chunks((bins * len(chosen), pool.shape[1]), 1 << 23):
        block = np.clip(pool[:, part].astype(np.float64), -CLIP, CLIP)
        examples = block.shape[1]
        places = _places(block, _edges([block, block], bins)) * examples + np.arange(examples)
        models = np.broadcast_to(np.arange(len(pool))[:, None], places.shape)
        held = sparse.csr_matrix((np.ones(places.size), (places.ravel(), models.ravel())), shape=(bins * examples, len(pool)))
        first = (held @ weights).reshape(bins, examples, -1)
        second = np.asarray(held.sum(axis=1)).reshape(bins, examples, 1) - first
        result[:, part] = _divergence(first, second, renormalise=False).T
    return result


def null_klom(unlearned_models: int, retrained_models: int, examples: int = 2000, bins: int = 20, seed: int = 0) -> np.ndarray:
    """Return KLOM of simulated pools of one normal law, float64 ``[examples]``; it depends on the numbers of models and bins alone.

    Real margins have heavier tails and lower null values: prefer two halves of the retrained pool where there are enough models.
    """
    generator = np.random.default_rng(seed)
    unlearned, retrained = (generator.normal(size=(models, examples)) for models in (unlearned_models, retrained_models))
    return klom(unlearned, retrained, bins)


def _edges(blocks: list[np.ndarray], bins: int) -> np.ndarray:
    low = np.minimum(blocks[0].min(axis=0), blocks[1].min(axis=0))
    high = np.maximum(blocks[0].max(axis=0), blocks[1].max(axis=0))
    return np.linspace(low, np.where(low < high, high, low + 1), bins + 1)


def _places(block: np.ndarray, edges: np.ndarray, close: bool = True) -> np.ndarray:
    """Return each entry's bin; a value on an inner edge belongs to the bin on its right."""
    bins, column = len(edges) - 1, np.arange(block.shape[1])
    which = np.clip(((block - edges[0]) * (bins / (edges[-1] - edges[0]))).astype(np.int64), 0, bins - 1)
    # The quotient is off by one rounding beside an edge; the edges themselves decide.
    which -= block < edges[which, column]
    which += block >= edges[which + 1, column]
    return np.minimum(which, bins - 1) if close else which


def _count(block: np.ndarray, edges: np.ndarray, close: bool) -> np.ndarray:
    """Return counts ``[bins, n]``."""
    bins, examples, column = len(edges) - 1, block.shape[1], np.arange(block.shape[1])
    which = _places(block, edges, close)
    return np.bincount((which * examples + column).ravel(), minlength=(bins + 1) * examples).reshape(bins + 1, examples)[:bins]


def _divergence(first: np.ndarray, second: np.ndarray, renormalise: bool) -> np.ndarray:
    totals = first.sum(axis=0), second.sum(axis=0)
    p, q = (counts / np.maximum(total, 1) for counts, total in zip((first, second), totals, strict=True))
    q = np.where(p > 0, np.maximum(q, FLOOR), q)
    terms = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    divergence = (p * np.log(terms)).sum(axis=0)
    return np.where(totals[0] > 0, divergence + np.log(q.sum(axis=0)), np.nan) if renormalise else divergence
