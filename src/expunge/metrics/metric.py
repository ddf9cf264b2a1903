"""What a metric is: a label, a unit, a target, and one of two verbs."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Literal

import numpy as np

from expunge.config import Component
from expunge.errors import BadInput
from expunge.metrics.view import View

DAMAGE = "damages the model"
"""The finding of a utility metric below its band; a verdict names it first."""
UNLIKE = "is less accurate on the data that stay than models that never saw the rest"
"""The same finding for the original, which nothing has damaged."""


Tier = Literal["fast", "standard", "rigorous"]
TIERS: tuple[Tier, ...] = ("fast", "standard", "rigorous")
"""Tiers of evaluation, each with all of those before it."""


def in_tier(component: Any, tier: Tier) -> bool:
    """Return whether a component belongs to a tier or to one below it."""
    return TIERS.index(component.tier) <= TIERS.index(tier)


class Target(StrEnum):
    """Which value of a metric is the good one. Printed with every column, so that nothing reads as "low is good" when it is not."""

    RETRAINED = "retrained"
    """Closer to the retrained models' value is better; both sides fail."""
    ZERO_UP_TO_BAND = "zero_up_to_band"
    """A distance to the retrained model: as small as between two retrained models; above fails."""
    HIGHER = "higher"
    """Higher is better, up to the retrained models' value; below fails."""
    LOWER = "lower"
    """Lower is better, down to the retrained models' value; above fails."""
    REPORT = "report"
    """Shown, never judged."""


@dataclass(frozen=True)
class Estimate:
    """A metric of one model, or of a pair.

    Attributes:
        value: in the metric's unit.
        standard_error: from the sampling of examples, in the same unit; None where no formula is valid. It says nothing about
            how much another training seed would change the value.
        n: examples that the value rests on; for two groups the smaller one.
    """

    value: float
    standard_error: float | None
    n: int


class Metric(Component):
    """A metric of one model overrides `measure`; one of a model and a retrained reference overrides `compare`.

    Class attributes: ``label`` (column head), ``unit`` ("%", "nats" or ""), ``target``, ``parts`` of the view that it needs, ``limits``
    of its values, ``scenarios`` in which it means something, ``counts`` (the value is a count over n, so that one example is its
    resolution), ``tested`` (False for summaries of other metrics: judged in the table, not counted in the verdict), ``above`` and
    ``below`` (what a value outside the retrained models' band means), ``tier`` (the first in which it is computed), ``references``
    (it needs a base pool), ``inspection`` (names of what it needs from inside the model), and ``band_models`` (retrained models that
    the band of a costly pair metric rests on at most).
    """

    label: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.REPORT
    parts: ClassVar[tuple[str, ...]] = ()
    scenarios: ClassVar[tuple[str, ...]] = ("random", "class", "subclass")
    counts: ClassVar[bool] = False
    tested: ClassVar[bool] = True
    limits: ClassVar[tuple[float, float] | None] = None
    above: ClassVar[str] = ""
    below: ClassVar[str] = ""
    tier: ClassVar[Tier] = "fast"
    references: ClassVar[bool] = False
    inspection: ClassVar[tuple[str, ...]] = ()
    band_models: ClassVar[int | None] = None

    def measure(self, view: View) -> Estimate:
        """Return the metric of one model."""
        raise NotImplementedError(f"{self.name} compares a model with a retrained one")

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the metric of a model against a retrained model."""
        raise NotImplementedError(f"{self.name} is a metric of one model")

    @classmethod
    def is_pair(cls) -> bool:
        """Return whether the metric needs a retrained reference."""
        return cls.compare is not Metric.compare

    @classmethod
    def needs_retrained(cls) -> bool:
        """Return whether the metric means nothing without a retrained model."""
        return cls.is_pair()

    @classmethod
    def resolution(cls, n: int) -> float:
        """Return what one example of n changes, in the metric's unit; 0 for a metric that does not count."""
        return (100.0 if cls.unit == "%" else 1.0) / n if cls.counts else 0.0


def share(hits: np.ndarray) -> Estimate:
    """Return the percentage of true entries with its binomial standard error, which is 0 when all agree."""
    fraction, n = float(np.mean(hits)), len(hits)
    return Estimate(100 * fraction, 100 * float(np.sqrt(fraction * (1 - fraction) / n)), n)


def average(values: np.ndarray) -> Estimate:
    """Return the mean over examples with its standard error."""
    n = len(values)
    error = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else None
    return Estimate(float(np.mean(values)), error, n)


def check_aligned(view: View, reference: View, part: str) -> None:
    """Refuse two views whose examples are not the same ones in the same order.

    Raises:
        BadInput: the labels or the number of outputs differ.
    """
    logits, labels = view.of(part)
    other_logits, other_labels = reference.of(part)
    if logits.shape != other_logits.shape or not np.array_equal(labels, other_labels):
        found = f"the two models were asked about different examples ({list(logits.shape)} and {list(other_logits.shape)} outputs)."
        raise BadInput(f"view.{part}", found, "Take both from one split.")
