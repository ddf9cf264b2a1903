"""Take the conflict out of forgetting and retaining."""

from typing import Literal

from expunge.config import hyper
from expunge.engine.combine import pcgrad
from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.methods.constrained.two_goals import JoinedGradients


class Pcgrad(JoinedGradients):
    """Add the retain gradient and the forget gradient after each has lost its component against the other.

    Source: Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, arXiv 2001.06782, algorithm 1; with ``project=forget`` only
    the forget gradient gives way, as in gradient-projection methods of unlearning. Learning rate, epochs and clip are those of `munba`;
    for random subsets half the learning rate, chosen on small tasks, where 0.01 costs retain accuracy.
    """

    aliases = ("PCGrad", "UNGrad", "pcgrad_unlearning")
    source = "Yu et al., NeurIPS 2020, arXiv 2001.06782"

    scenario_defaults = {"random": {"lr": 5e-3}}

    project: Literal["both", "forget"] = hyper("both", "whose gradient loses its component against the other")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        yield self.phase(pcgrad(only="forget" if self.project == "forget" else None), "avoid conflicts")
