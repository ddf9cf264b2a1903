"""KLOM: binned divergence of margins, comparable with published tables."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from expunge.attacks import klom
from expunge.audits import relabelling, uncertainty
from expunge.audits.audit import Audit, Finding, Panel
from expunge.config import PositiveInt, hyper
from expunge.metrics.metric import Target, Tier


class Klom(Audit):
    """95th percentile over forget examples of the divergence of binned margins, unlearned || retrained.

    Two pools of one law do not give 0: .66 with 100 normal models a side, more with fewer. Read it beside the null.
    """

    label: ClassVar[str] = "KLOM P95"
    unit: ClassVar[str] = "nats"
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    tier: ClassVar[Tier] = "rigorous"
    minimum: ClassVar[int] = 8
    limits: ClassVar[tuple[float, float] | None] = (0, float(-np.log(klom.FLOOR)))
    relative: ClassVar[bool] = True
    source: ClassVar[str] = "Georgiev et al., Attribute-to-Delete, ICLR 2025; bins and floor of EasyDUB"
    deviations: ClassVar[tuple[str, ...]] = ("the last bin is closed, so that the largest margin is not lost",)
    above: ClassVar[str] = "the margins of some forget examples have another law than under retrained models"

    bins: PositiveInt = hyper(20, "equal bins over the joint range of each example")

    @property
    def null_draws(self) -> int:
        """How many divisions make a null."""
        return 400

    def statistic(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> float:
        """Return the 95th percentile over forget examples."""
        return float(np.quantile(klom.klom(candidate.of("forget"), reference.of("forget"), self.bins), 0.95))

    def relabel(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], draws: int, seed: int = 0) -> np.ndarray:
        """Return the percentile of many divisions, from one binning: the joint range is the same for all."""
        pool = np.concatenate([candidate.of("forget"), reference.of("forget")])
        chosen = relabelling.divisions(candidate.models, reference.models, draws, seed)
        return np.quantile(klom.relabelled_klom(pool, chosen, self.bins).astype(np.float64), 0.95, axis=1)

    def describe(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> Finding:
        """Return the percentile, those of retain and unseen examples, and what simulated pools of one normal law give."""
        there = [part for part in ("forget", "retain", "unseen") if part in candidate.margins and candidate.margins[part].shape[1]]
        values = {part: klom.klom(candidate.of(part), reference.of(part), self.bins) for part in there}
        null = klom.null_klom(candidate.models, reference.models, 500, self.bins, seed)
        details = {part: uncertainty.quantiles(found) for part, found in values.items()}
        details["one_normal_law"] = uncertainty.quantiles(null)
        found = uncertainty.jackknife(lambda first, second: self.statistic(first, second, labels), candidate, reference)
        value = float(np.quantile(values["forget"], 0.95))
        error = None if found is None or not found[0] else found[0]
        return Finding(value, error, uncertainty.interval(value, error, found[1] if found else None, self.limits), details)
