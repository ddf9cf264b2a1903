"""Kullback-Leibler divergence of normal laws fitted to each forget example's margins."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from expunge.attacks import gaussian
from expunge.audits import relabelling, uncertainty
from expunge.audits.audit import Audit, Finding, Panel
from expunge.metrics.metric import Target, Tier


class GaussianKl(Audit):
    """Mean over forget examples of KL(unlearned || retrained) of fitted normal laws, less what equal laws give; 0 where they agree."""

    label: ClassVar[str] = "normal KL"
    unit: ClassVar[str] = "nats"
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    tier: ClassVar[Tier] = "standard"
    minimum: ClassVar[int] = 6
    source: ClassVar[str] = "closed form of two normal laws; the expectation under equal laws is exact"
    above: ClassVar[str] = "the margins of the forget examples have another mean or spread than under retrained models"

    def statistic(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> float:
        """Return the mean divergence."""
        return float(gaussian.gaussian_kl(candidate.of("forget"), reference.of("forget")).mean())

    def relabel(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], draws: int, seed: int = 0) -> np.ndarray:
        """Return the mean divergence of many divisions, from shared sums."""
        pool = np.concatenate([candidate.of("forget"), reference.of("forget")])
        return gaussian.relabelled_kl(pool, relabelling.divisions(candidate.models, reference.models, draws, seed))

    def describe(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> Finding:
        """Return the mean divergence with its interval over models and examples."""
        values = gaussian.gaussian_kl(candidate.of("forget"), reference.of("forget"))
        over_models = uncertainty.jackknife(lambda first, second: self.statistic(first, second, labels), candidate, reference)
        found = uncertainty.mean_finding(values, over_models, {"over_examples": uncertainty.quantiles(values)})
        return found if found.interval is None else replace(found, interval=_interval(values, candidate, reference))


def _interval(values: np.ndarray, candidate: Panel, reference: Panel) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of ``values``, on the scale of logarithms.

    A divergence grows with the square of a difference. Where a model moves all examples at once, small values come with small errors, and
    an interval that is as long below as above ends too low: the 95 % one held in 89 % of simulations, this one in 94 % or more. The
    logarithm is that of the plain divergence, which is positive; what equal laws give is taken off its ends.
    """
    offset = gaussian.null_gaussian_kl(candidate.models, reference.models)
    plain, error = float(values.mean()) + offset, uncertainty.jackknife(_log_divergence, candidate, reference)
    if error is None or plain <= 0:
        return None
    over_examples = float(values.std(ddof=1)) / np.sqrt(len(values)) / plain
    limits = uncertainty.interval(np.log(plain), float(np.hypot(error[0], over_examples)), error[1], None)
    return None if limits is None else (float(np.exp(limits[0])) - offset, float(np.exp(limits[1])) - offset)


def _log_divergence(candidate: Panel, reference: Panel) -> float:
    plain = gaussian.gaussian_kl(candidate.of("forget"), reference.of("forget"), debias=False).mean()
    return float(np.log(max(plain, np.finfo(float).tiny)))
