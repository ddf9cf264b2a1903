"""Exact unlearning with softened labels."""

from dataclasses import replace

from expunge.config import Fraction, hyper
from expunge.engine.context import Context
from expunge.engine.edits import reinitialise
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.terms import Term, smoothed_cross_entropy


class RetrainSmoothed(Method):
    """Train from new random weights on the retain set, with the recipe of the original, but with smoothed labels.

    The loss of the recipe's phases is replaced, whatever it was. To smooth the labels of the original too, write
    ``train.label_smoothing=0.1``; `retrain` then follows.

    Source: code of Jia et al., arXiv 2304.04934 (``retrain_ls``): cross entropy with label smoothing 0.1.
    """

    aliases = ("retrain_ls",)
    source = "Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934, released code"
    needs = {"retain", "recipe"}

    label_smoothing: Fraction = hyper(0.1, "share of the label that is spread over all classes", low=0.01, high=0.3, lt=1)

    def steps(self, ctx: Context) -> Steps:
        """Yield new weights and statistics, then the recipe's phases on the retain set with the other loss."""
        yield reinitialise(None, "retrain")
        loss = smoothed_cross_entropy(self.label_smoothing)
        for step in ctx.recipe.steps(ctx, stream="retain"):
            if isinstance(step, Phase):
                step = step.but(terms=[replace(term, loss=loss) if isinstance(term, Term) else term for term in step.terms])
            yield step
