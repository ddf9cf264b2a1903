"""Raise the loss on the forget set as far as the loss on the retain set allows."""

from expunge.config import hyper
from expunge.engine.context import Context
from expunge.engine.measure import mean_loss
from expunge.engine.method import Steps, needs_by_settings
from expunge.engine.terms import Term, cross_entropy
from expunge.methods.constrained.duality import ConstrainedTraining, Stop, condition_on


class ConstrainedUnlearning(ConstrainedTraining):
    """Minimise ``-CE(forget)`` subject to ``CE(retain) <= e``, where e is the original's loss on the retain set.

    The forget loss has no upper bound, so that the stop rule decides how much is forgotten: ``unlearning`` ends when the mean forget loss
    has reached that of validation data; for whole classes and sub-classes, which a model that never saw them answers worse than
    validation data, ``confusion`` ends at the loss of a newly initialised net.

    Source: the constrained unlearning project (source 002, ``untrain_constrained``): pairs of batches, SGD with momentum 0.9 and no weight
    decay, lr 0.001 for ``penalty`` and 0.01 to 0.025 for ``lagrangian``; penalty 10, which grows by 5 % after an epoch with a mean
    gradient norm below 5; multiplier 1.
    """

    aliases = ("untrain_constrained", "constrained-unlearning")
    source = "constrained unlearning project (source 002): train_constrained_unlearning.py"
    deviations = (
        "e is measured on the whole retain set in eval mode before the first step; the code takes an epoch's mean in train mode",
        "stop rules read whole splits; the code compares running means of the epoch",
        "augmented_lagrangian also serves this inequality (its factor is cut off at zero); the code has it for equalities alone",
    )
    needs = needs_by_settings("forget", "retain", validation=lambda method: method.stop in ("unlearning", "refining"))
    scenario_defaults = {"class": {"stop": "confusion"}, "subclass": {"stop": "confusion"}}

    stop: Stop = hyper("unlearning", "when the run ends early; every rule reads whole splits after an epoch")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        constraint = self.constraint(mean_loss(ctx, "retain"), equality=False)
        objective = Term("forget", cross_entropy, weight=-1.0, group="objective")
        yield self.phase(objective, condition_on("retain", constraint), constraint)
