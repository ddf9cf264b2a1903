"""Exact unlearning towards flat minima."""

from expunge.config import Flag, PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.edits import reinitialise
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.update import sam


class RetrainSam(Method):
    """Train from new random weights on the retain set, with the recipe of the original, by sharpness-aware minimisation.

    To train the original so too, write ``train=standard train.sam_radius=2``; `retrain` then follows. A step costs two gradients. The
    radius of the code is for long training of large nets: on digits with ``tiny`` and ``small_cnn`` 2 leaves 17 % accuracy, 0.5 gives 99 %.

    Source: code of Jia et al., arXiv 2304.04934 (``retrain_sam``): adaptive SAM with radius 2.
    """

    source = "Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934, released code"
    deviations = ("the code makes its optimiser anew in every epoch, so that momentum is lost; here it goes on",)
    needs = {"retain", "recipe"}

    radius: PositiveFloat = hyper(2.0, "radius of the displacement; 2 is usual when adaptive, 0.05 when not", low=0.02, high=5.0, log=True)
    adaptive: Flag = hyper(True, "whether its direction is scaled by the squared weights")

    def steps(self, ctx: Context) -> Steps:
        """Yield new weights and statistics, then the recipe's phases on the retain set with displaced gradients."""
        yield reinitialise(None, "retrain")
        for step in ctx.recipe.steps(ctx, stream="retain"):
            yield step.but(perturb=sam(self.radius, self.adaptive)) if isinstance(step, Phase) else step
