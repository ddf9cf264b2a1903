"""The likelihood-ratio attack on one forget set: unlearned or retrained?"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from expunge.attacks import ulira
from expunge.audits import games
from expunge.audits.audit import Audit, Finding, Panel
from expunge.metrics.metric import Target, Tier


class UliraEfficacy(Audit):
    """Mean per-example AUC of a likelihood-ratio attack that tells unlearned from retrained models; 0.5 where it cannot.

    Attack models and target models are kept apart. From 64 models a side it sees a change of spread as well as a shift.
    """

    label: ClassVar[str] = "U-LiRA efficacy AUC"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    tier: ClassVar[Tier] = "rigorous"
    minimum: ClassVar[int] = 8
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    area: ClassVar[bool] = True
    source: ClassVar[str] = (
        "Hayes et al., Inexact Unlearning Needs More Careful Evaluations, 2024, arXiv 2403.01218; RULI, USENIX Security 2025"
    )
    above: ClassVar[str] = "an attacker tells unlearned from retrained models by single forget examples"

    @property
    def null_draws(self) -> int:
        """How many divisions make a null; each fits the attack anew."""
        return 40

    def statistic(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> float:
        """Return the mean AUC on target models that the attack has not seen."""
        return _attacked(candidate, reference, seed).mean_auc().value

    def describe(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> Finding:
        """Return the mean AUC with its interval, rates at low false-positive rates, and bounds on epsilon."""
        return games.finding(_attacked(candidate, reference, seed), float(min(candidate.models, reference.models) - 1), seed)


def _attacked(candidate: Panel, reference: Panel, seed: int) -> ulira.Attacked:
    return games.attack(ulira.fixed_efficacy_game(candidate.of("forget"), reference.of("forget")), seed, block=1)
