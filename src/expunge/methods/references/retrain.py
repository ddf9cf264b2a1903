"""Exact unlearning."""

from expunge.engine.context import Context
from expunge.engine.edits import reinitialise
from expunge.engine.method import Method, Steps


class Retrain(Method):
    """Train from new random weights on the retain set, with the recipe of the original: what every method is compared with.

    It costs one full training. Several seeds are needed: what two retrained models differ by is the floor of every gap.
    """

    source = "Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934, section 3 (Retrain)"
    needs = {"retain", "recipe"}

    def steps(self, ctx: Context) -> Steps:
        """Yield new weights and statistics, then the recipe's own phases on the retain set."""
        yield reinitialise(None, "retrain")
        yield from ctx.recipe.steps(ctx, stream="retain")
