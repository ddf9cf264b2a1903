"""Maximum mean discrepancy of the margin vectors."""

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from expunge.attacks import set_level
from expunge.audits import relabelling, uncertainty
from expunge.audits.audit import Audit, Finding, Panel
from expunge.metrics.metric import Target, Tier


class SetDiscrepancy(Audit):
    """Unbiased squared MMD of unlearned and retrained models' vectors of forget margins, with a Gaussian kernel; 0 where the laws agree."""

    label: ClassVar[str] = "set discrepancy"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    tier: ClassVar[Tier] = "rigorous"
    minimum: ClassVar[int] = 6
    symmetric: ClassVar[bool] = True
    source: ClassVar[str] = "Gretton et al., A Kernel Two-Sample Test, JMLR 2012, lemma 6"
    above: ClassVar[str] = "the forget set as a whole has another law under unlearned models than under retrained ones"

    def statistic(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> float:
        """Return the squared discrepancy."""
        return set_level.mean_discrepancy(candidate.of("forget"), reference.of("forget"), permutations=0).value

    def relabel(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], draws: int, seed: int = 0) -> np.ndarray:
        """Return the squared discrepancy of many divisions, from one kernel matrix."""
        pair = candidate.of("forget"), reference.of("forget")
        return set_level.mean_discrepancy(*pair, permutations=draws - 1, seed=seed).relabelled

    def smallest_p_value(self, first: int, second: int) -> float:
        """Return the smallest p-value; divisions are drawn with repetition, however few there are."""
        drawn_from = math.comb(first + second, first)
        return relabelling.smallest_p_value(self.null_draws, first, second, self.target, self.symmetric, drawn_from)

    def describe(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> Finding:
        """Return the squared discrepancy with its error over models, and the width of the kernel."""
        found = set_level.mean_discrepancy(candidate.of("forget"), reference.of("forget"), permutations=0)

        def statistic(first: Panel, second: Panel) -> float:
            return set_level.mean_discrepancy(first.of("forget"), second.of("forget"), found.bandwidth, permutations=0).value

        error = uncertainty.jackknife(statistic, candidate, reference)
        limits = None if error is None else uncertainty.interval(found.value, *error, None)
        return Finding(found.value, None if error is None else error[0], limits, {"bandwidth": found.bandwidth})
