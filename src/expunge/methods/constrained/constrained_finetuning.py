"""Improve the retain set while the forget set stays as bad as unseen data."""

from expunge.config import hyper
from expunge.engine.context import Context
from expunge.engine.measure import mean_loss
from expunge.engine.method import Steps
from expunge.engine.terms import Term, cross_entropy
from expunge.methods.constrained.duality import EqualityTraining, Stop, condition_on


class ConstrainedFinetuning(EqualityTraining):
    """Minimise ``CE(retain)`` subject to ``CE(forget) = e``, where e is the original's loss on validation data.

    Source: the constrained unlearning project (source 002, ``constrained_learning`` with ``refining``): an equality, so that the multiplier
    may be negative; it ends when the validation loss has not fallen for two epochs while the forget loss is within e.
    """

    aliases = ("constrained_learning", "refining", "constrained-finetuning")
    source = "constrained unlearning project (source 002): constrained_learning, refining"
    deviations = (
        "e is measured on the whole validation set in eval mode before the first step; the code carries a validation loss over",
        "stop rules read whole splits; the code compares running means of the epoch",
    )
    scenarios = {"random", "subclass"}
    scenario_reason = "validation data say nothing about how a class is answered that was never seen; confusion_resolution fits."

    stop: Stop = hyper("refining", "when the run ends early; every rule reads whole splits after an epoch")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        constraint = self.constraint(mean_loss(ctx, "validation"), equality=True)
        yield self.phase(Term("retain", cross_entropy, group="objective"), condition_on("forget", constraint), constraint)
