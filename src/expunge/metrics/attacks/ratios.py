"""Likelihood-ratio scores of one model's forgotten and unseen examples."""

import numpy as np

from expunge.attacks import lira, rmia
from expunge.attacks.moments import Moments, moments
from expunge.metrics.attacks.pairing import Targets, checked_reference, targets
from expunge.metrics.view import View
from expunge.statistics import NotEnoughEvidence

UNCHOSEN_SCALE = 0.3
"""The offline scale of the ratio attack where too few models are there to choose it: the paper's for CIFAR-10."""
ENOUGH = 20
"""Examples of each kind in the first base model from which the scale is chosen on it."""
BINS, BIN_SIZE = 20, 50
"""Most bins, and fewest examples in one, of the expected gain; many, so that no example's own gain matters to itself."""


def standard_scores(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return the one-sided standard scores of `expunge.attacks.lira.offline`, of forgotten and of unseen examples."""

    def compute() -> tuple[np.ndarray, np.ndarray]:
        found = targets(view)
        return found.split(lira.offline(found.margins[None], moments(found.references, found.outside))[0])

    return view.once("lira offline", compute)


def log_ratios(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return log-likelihood ratios in which both kinds of examples have an expected mean under training, forgotten and unseen.

    Source: `expunge.attacks.lira.online`, with equal variances and with the mean under training that examples as hard as this one have.
    """

    def compute() -> tuple[np.ndarray, np.ndarray]:
        found = targets(view)
        outside = moments(found.references, found.outside)
        return found.split(_linear_ratio(found.margins, outside, *_expected_gain(view, found, outside)))

    return view.once("lira online", compute)


def _linear_ratio(margins: np.ndarray, outside: Moments, gain: np.ndarray, variance: float) -> np.ndarray:
    if not variance > 0:
        raise NotEnoughEvidence("the base models' margins do not vary; an attack needs models that differ")
    return gain * (margins - outside.mean - gain / 2) / variance


def _expected_gain(view: View, found: Targets, outside: Moments) -> tuple[np.ndarray, float]:
    """Return how much training raises the margin of examples with such an outside mean, ``[n]``, and the variance of a margin."""
    reference = checked_reference(view, "forget")
    lira.check_counts(outside, "outside")
    inside = moments(reference.margins, reference.inside)
    out = Moments(*(values[found.forgotten] for values in (outside.count, outside.mean, outside.squares)))
    both = (inside.count > 0) & (out.count > 0)
    if not both.any():
        raise NotEnoughEvidence("not measurable: no base model was trained on a forget example; the ratio needs the margins of both kinds")
    gain = _smooth(out.mean[both], (inside.mean - out.mean)[both], outside.mean)
    pooled = Moments(inside.count + out.count - 1, out.mean, inside.squares + out.squares)
    return gain, float(pooled.pooled_variance()[0])


def _smooth(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the mean of y at other x: linear between means over bins of equal count, constant beyond them."""
    order = np.lexsort((y, x))
    bins = np.array_split(order, min(BINS, max(1, len(x) // BIN_SIZE)))
    centers, means = ([values[group].mean() for group in bins] for values in (x, y))
    return np.interp(at, centers, means)


def own_log_ratios(view: View) -> np.ndarray:
    """Return the forget set's log-likelihood ratios with each example's own means under both kinds of training, float64 ``[n]``.

    Raises:
        NotEnoughEvidence: an example that all base models, or none, were trained on.
    """
    reference = checked_reference(view, "forget")
    inside, outside = (moments(reference.margins, mask) for mask in (reference.inside, ~reference.inside))
    return lira.online(view.margin("forget")[None], inside, outside, "auto", "equal")[0]


def probability_ratios(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return the likelihood ratios of the robust attack, of forgotten and of unseen examples."""

    def compute() -> tuple[np.ndarray, np.ndarray]:
        found = targets(view)
        reference = rmia.reference_offline(found.references, ~found.outside, offline_scale(view))
        return found.split(rmia.ratio(found.margins, reference))

    return view.once("rmia", compute)


def offline_scale(view: View) -> float:
    """Return the scale with which base models attack one of themselves best; the judged model has no part in it."""
    reference = checked_reference(view, "forget")
    if len(reference.margins) < 3:
        return UNCHOSEN_SCALE
    able = (~reference.inside[1:]).any(axis=0)
    members = int(reference.inside[0, able].sum())
    if min(members, able.sum() - members) < ENOUGH:
        return UNCHOSEN_SCALE
    return rmia.choose_scale(reference.margins[:, able], reference.inside[:, able])
