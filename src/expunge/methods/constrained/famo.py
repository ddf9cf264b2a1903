"""Let forgetting and retaining fall at the same relative rate."""

from typing import Literal

from expunge.config import NonNegativeFloat, PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.engine.terms import Term, cross_entropy
from expunge.methods.constrained.even_weights import EvenProgress
from expunge.methods.constrained.two_goals import JoinedGradients, forget_term


class Famo(JoinedGradients):
    """Weigh both losses so that their logarithms fall alike: the one that has just gained less in proportion gets more weight.

    With ``z = softmax(w)`` the step follows ``sum_i c_i g_i``, where ``c_i`` is proportional to ``z_i / loss_i`` and the c add up to one.
    After it ``w`` takes a step of Adam along ``J^T (log loss_before - log loss_after) + decay w``, J being the derivative of the softmax
    and both losses being taken on the batch of the step.

    On a model that fits its retain set the logarithm of that loss has far to fall, which takes all the weight, and nothing is forgotten;
    ``floor`` is added to both losses against that.

    Source: Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, arXiv 2306.03792, algorithm 1, with the released
    settings: rate 0.025, decay 0.001. Learning rate, epochs and clip are those of `munba`.
    """

    aliases = ("FAMO",)
    source = "Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, arXiv 2306.03792"
    deviations = (
        "w follows Adam, as in the released code; the algorithm of the paper takes plain gradient steps",
        "one is added to both losses, which the source does not do: floor=1e-8",
        "ascent is no goal here: the logarithm needs losses with the lower bound zero",
    )

    forget: Literal["random_label", "uniform"] = hyper(
        "random_label", "how the forget set is forgotten: random wrong labels, or the uniform distribution"
    )
    weight_lr: PositiveFloat = hyper(0.025, "step of the weights of the losses", low=1e-3, high=0.1, log=True)
    floor: PositiveFloat = hyper(1.0, "added to both losses before anything else; 1e-8 as released", low=1e-8, high=1.0, log=True)
    decay: NonNegativeFloat = hyper(1e-3, "pull of the weights towards equality", low=1e-5, high=1e-1, log=True)

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        rule = EvenProgress(self.weight_lr, self.decay, self.floor)
        terms = [
            Term("retain", rule.losses.watch("retain", cross_entropy)),
            Term("forget", rule.losses.watch("forget", forget_term(self.forget).loss)),
        ]
        yield self.phase(rule.combine, "even progress").but(terms=terms, follow=(rule.update,))
