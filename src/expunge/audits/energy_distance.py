"""Energy distance of each forget example's margins."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from expunge.attacks import gaussian
from expunge.audits import relabelling, uncertainty
from expunge.audits.audit import Audit, Finding, Panel
from expunge.metrics.metric import Target, Tier


class EnergyDistance(Audit):
    """Mean over forget examples of the unbiased energy distance of unlearned and retrained margins; 0 where their laws agree."""

    label: ClassVar[str] = "energy distance"
    unit: ClassVar[str] = "margin"
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    tier: ClassVar[Tier] = "rigorous"
    symmetric: ClassVar[bool] = True
    source: ClassVar[str] = "Székely & Rizzo, Energy statistics, JSPI 2013"
    above: ClassVar[str] = "the margins of the forget examples have another law than under retrained models"

    def statistic(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> float:
        """Return the mean distance."""
        return float(gaussian.energy_distance(candidate.of("forget"), reference.of("forget")).mean())

    def relabel(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], draws: int, seed: int = 0) -> np.ndarray:
        """Return the mean distance of many divisions, from one matrix of distances between models."""
        pool = np.concatenate([candidate.of("forget"), reference.of("forget")])
        return gaussian.relabelled_energy(pool, relabelling.divisions(candidate.models, reference.models, draws, seed))

    def describe(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> Finding:
        """Return the mean distance with its interval over models and examples."""
        values = gaussian.energy_distance(candidate.of("forget"), reference.of("forget"))
        found = uncertainty.jackknife(lambda first, second: self.statistic(first, second, labels), candidate, reference)
        return uncertainty.mean_finding(values, found, {"over_examples": uncertainty.quantiles(values)})
