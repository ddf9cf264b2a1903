"""Membership, read from frozen features."""

from typing import ClassVar

from expunge.metrics.inside.readings import names, reading
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View
from expunge.representation import probe


class MembershipProbe(Metric):
    """AUC with which a linear classifier on frozen features tells held-out forget examples from unseen ones; 0.5 for no difference.

    What it does not catch: for random requests on small nets it caught neither the original nor an edit of the head alone, whose features
    are the original's (450 forget examples; with 40 it never does). It caught both for a whole class of 450. A value inside the band is
    therefore no evidence of forgetting.
    """

    label: ClassVar[str] = "membership probe"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    inspection: ClassVar[tuple[str, ...]] = names("forget", "unseen")
    source: ClassVar[str] = "Nasr et al., IEEE S&P 2019 (membership from hidden layers); the cross-validated linear form is ours"
    above: ClassVar[str] = "features tell the forget set from unseen data better than a retrained model's do"
    below: ClassVar[str] = "features tell the forget set from unseen data worse than a retrained model's do"

    def measure(self, view: View) -> Estimate:
        """Return the mean AUC over five folds, with the standard error of no difference."""
        inside, outside = reading(view, "forget"), reading(view, "unseen")
        value, error = probe.membership_probe(inside.features, outside.features)
        return Estimate(value, error, min(len(inside.labels), len(outside.labels)))
