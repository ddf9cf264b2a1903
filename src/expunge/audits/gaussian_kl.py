"""Kullback-Leibler divergence of normal laws fitted to each forget example's margins."""

from collections.abc import Mapping
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
        found = uncertainty.jackknife(lambda first, second: self.statistic(first, second, labels), candidate, reference)
        return uncertainty.mean_finding(values, found, {"over_examples": uncertainty.quantiles(values)})
