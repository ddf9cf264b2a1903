"""Improve the retain set while the forget set is answered by guessing."""

from expunge.engine.context import Context
from expunge.engine.method import Steps, needs_by_settings
from expunge.engine.terms import Term, cross_entropy
from expunge.methods.constrained.duality import EqualityTraining, blank_loss, condition_on


class ConfusionResolution(EqualityTraining):
    """Minimise ``CE(retain)`` subject to ``CE(forget) = e``, where e is the loss of a newly initialised net, about ``log C``.

    Made for a forget set with wrong labels, which a good model has to answer badly.

    Source: the constrained unlearning project (source 002, ``constrained_learning`` with ``confusion``): an equality, so that the
    multiplier may be negative.
    """

    aliases = ("confusion", "confusion-resolution")
    source = "constrained unlearning project (source 002): constrained_learning, confusion"
    deviations = (
        "all layers of the net that gives e are new; the code renews the first convolution, its norm layer and the head",
        "stop rules read whole splits; the code compares running means of the epoch",
    )
    needs = needs_by_settings("forget", "retain", validation=lambda method: method.stop in ("unlearning", "refining"))

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        constraint = self.constraint(blank_loss(ctx), equality=True)
        yield self.phase(Term("retain", cross_entropy, group="objective"), condition_on("forget", constraint), constraint)
