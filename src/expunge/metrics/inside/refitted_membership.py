"""Membership under a new head."""

from typing import ClassVar

import numpy as np

from expunge.metrics.inside.readings import names, reading
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View
from expunge.representation import probe


class RefittedMembership(Metric):
    """AUC of the margin of forget against unseen examples under a new head that is fitted on retain features alone.

    No forget example is fitted on. What an edited head hides comes back, so that an edit of the head alone is caught as the original is,
    wherever the original itself remembers. Not for whole classes, whose rows such a head does not have; examples of a class without any
    retain example that was read are left out.

    What it does not catch: memory that only the old head held, and encoders that do not overfit: there the original lies in the band too.
    """

    label: ClassVar[str] = "refitted AUC"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "unseen")
    scenarios: ClassVar[tuple[str, ...]] = ("random", "subclass")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    inspection: ClassVar[tuple[str, ...]] = names("forget", "retain", "unseen")
    source: ClassVar[str] = "ours"
    above: ClassVar[str] = "under a new head the forget set still looks like training data"
    below: ClassVar[str] = "under a new head the forget set looks less like training data than unseen data do (over-unlearned)"

    def measure(self, view: View) -> Estimate:
        """Return the AUC with DeLong's standard error."""
        retain = reading(view, "retain")
        forget, unseen = (part.take(np.isin(part.labels, retain.labels)) for part in (reading(view, "forget"), reading(view, "unseen")))
        value, error = probe.refitted_membership(retain, forget, unseen)
        return Estimate(value, error, min(len(forget.labels), len(unseen.labels)))
