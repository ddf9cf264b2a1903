"""Step along the shortest average of forgetting and retaining."""

from expunge.config import Flag, hyper
from expunge.engine.combine import minimum_norm, of_unit_length
from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.methods.constrained.two_goals import JoinedGradients


class Mgda(JoinedGradients):
    """Step along the shortest vector between the retain gradient and the forget gradient, which worsens neither.

    On a model that fits its retain set that gradient is short, the shortest vector is nearly it, and almost nothing is forgotten; with
    ``normalize`` both gradients have length one, and the result is their mean.

    Source: Desideri, MGDA, 2012; Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018, arXiv 1810.04650,
    equation 4; their code offers the normalisation. Learning rate, epochs and clip are those of `munba`.
    """

    aliases = ("MGDA",)
    source = "Sener and Koltun, NeurIPS 2018, arXiv 1810.04650"

    normalize: Flag = hyper(True, "scale both gradients to length one first")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        yield self.phase(of_unit_length(minimum_norm) if self.normalize else minimum_norm, "go between")
