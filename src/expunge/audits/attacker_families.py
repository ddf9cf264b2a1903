"""Source 003's version of the challenge score: four families of attackers, each on models that it was not fitted on."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from expunge.audits.audit import Audit, Finding, Panel
from expunge.config import Fraction, PositiveInt, hyper
from expunge.metrics.metric import Target, Tier
from expunge.representation import challenge
from expunge.representation.challenge import Rates

BINS, WIDTH = 13, 0.5
UnseenErrors = Literal["half", "discard"]


class AttackerFamilies(Audit):
    """Mean over forget examples of 2^-bin of the privacy loss that the best of four attacker families reaches; 1 when none reaches 0.5.

    Fixed thresholds, the best threshold, two normal laws and a logistic regression, on the margin. The last three are judged on models
    that they were not fitted on; the best of all rules is still taken on the models that it is judged on, so that retrained models do
    not get 1: compare with them. Few models cannot show a large loss: an error that none makes counts as half a model's.
    """

    label: ClassVar[str] = "attacker families"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.HIGHER
    tier: ClassVar[Tier] = "standard"
    minimum: ClassVar[int] = 8
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    relative: ClassVar[bool] = True
    source: ClassVar[str] = "source 003 (challenge score with attacks on one statistic), after the NeurIPS 2023 challenge"
    deviations: ClassVar[tuple[str, ...]] = (
        "the statistic is log(p / (1 - p)) of the label; the source takes a softmax of a softmax",
        "an error that no model makes counts as half a model's; the source discards the rule, so that more distance can score better",
        "the normal attacker is judged on other models, and its outside branch is an outside",
    )
    below: ClassVar[str] = "an attacker tells the forget examples' margins from those of retrained models better than chance allows"

    examples: PositiveInt = hyper(200, "forget examples, drawn at random, that the score and its null rest on")
    delta: Fraction = hyper(0.01, "delta of (epsilon, delta); an earlier version of the source has .1")
    unseen_errors: UnseenErrors = hyper("half", "what an error counts that no model makes; the source has discard")

    @property
    def null_draws(self) -> int:
        """How many divisions make a null; each costs a tenth of a second."""
        return 40

    def statistic(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> float:
        """Return the score of the drawn examples."""
        return float(score(self._losses(candidate, reference, seed)["all"]).mean())

    def describe(self, candidate: Panel, reference: Panel, labels: Mapping[str, np.ndarray], seed: int = 0) -> Finding:
        """Return the score, with that of each family alone and quantiles of the privacy loss, at most the last bin's."""
        losses = self._losses(candidate, reference, seed)
        capped = np.minimum(losses["all"], BINS * WIDTH)
        details = {
            "examples": len(capped),
            "families": {name: float(score(values).mean()) for name, values in losses.items() if name != "all"},
            "median_epsilon": float(np.median(capped)),
            "q95_epsilon": float(np.quantile(capped, 0.95)),
        }
        return Finding(float(score(losses["all"]).mean()), None, None, details)

    def _losses(self, candidate: Panel, reference: Panel, seed: int) -> dict[str, np.ndarray]:
        first, second = (panel.of("forget").astype(np.float64) for panel in (candidate, reference))
        drawn = np.sort(np.random.default_rng(seed).permutation(first.shape[1])[: self.examples])
        rates = challenge.families(first[:, drawn], second[:, drawn], seed)
        losses = {name: privacy_loss(found, self.delta, self.unseen_errors) for name, found in rates.items()}
        return {**losses, "all": np.maximum.reduce(list(losses.values()))}


def privacy_loss(rates: Rates, delta: float, unseen_errors: UnseenErrors = "half") -> np.ndarray:
    """Return each example's largest epsilon over the rules of a family, float64 ``[n]``, at least 0.

    Args:
        rates: of the family's rules.
        delta: of (epsilon, delta).
        unseen_errors: an error that no model makes counts as ``half`` a model's; ``discard`` leaves a rule without one of the two
            errors out, and takes one without either as infinite.

    Source: source 003; the challenge's estimate ``max(log((1 - d - FPR) / FNR), log((1 - d - FNR) / FPR))``.
    """
    high, low = np.atleast_2d(rates.false_positive), np.atleast_2d(rates.false_negative)
    perfect, kept = (high == 0) & (low == 0), (high > 0) & (low > 0)
    least = 0.5 / rates.models
    high, low = np.maximum(high, least), np.maximum(low, least)
    with np.errstate(divide="ignore"):
        found = [np.log(np.maximum(1 - delta - one, 0) / other) for one, other in ((high, low), (low, high))]
    values = np.maximum(*found)
    if unseen_errors == "discard":
        values = np.where(perfect, np.inf, np.where(kept, values, 0.0))
    return np.maximum(values.max(axis=0), 0.0)


def score(epsilons: np.ndarray) -> np.ndarray:
    """Return 2^-bin, float64 ``[n]``: 1 below 0.5, halved by every further 0.5, the 13th bin without end."""
    return 2.0 ** -np.minimum(np.floor(epsilons / WIDTH), BINS - 1)
