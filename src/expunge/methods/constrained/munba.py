"""Let forgetting and retaining bargain over every step."""

from expunge.engine.combine import nash
from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.methods.constrained.two_goals import JoinedGradients


class Munba(JoinedGradients):
    """Step along the Nash bargaining direction of the retain gradient and the gradient of random labels on the forget set.

    For two players that is the sum of both gradients, each scaled to length one, with a common factor; gradients that point in opposite
    directions have no bargain, and the step is then none.

    Source: Wu and Harandi, MUNBa, ICCV 2025, arXiv 2411.15537: SGD 0.9 / 5e-4, clip 1; lr 0.01 and 10 epochs are the defaults of the
    argument parser that the released code inherits.
    """

    aliases = ("MUNBa",)
    source = "Wu and Harandi, MUNBa: Machine Unlearning via Nash Bargaining, ICCV 2025, arXiv 2411.15537"
    deviations = (
        "the exact solution; the released approximation adds 1e-8 to terms of the fourth order and fails for short gradients",
        "the forget set is repeated until the retain pass ends; the code goes on with plain retain steps",
        "random labels are never true; the code allows it",
    )

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        yield self.phase(nash, "bargain")
