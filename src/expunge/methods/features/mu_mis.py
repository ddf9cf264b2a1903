"""MU-Mis: level the sensitivity of the logits to the inputs."""

from collections.abc import Callable

import torch

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import modes_kept
from expunge.engine.phase import Phase
from expunge.engine.terms import Progress, Term
from expunge.engine.update import sgd
from expunge.methods.features.input_sensitivity import other_sensitivity, sensitivity_gap

_LOWEST = "mu_mis/lowest"


class MuMis(Method):
    """Lower the sensitivity of the true class's logit to the forgotten inputs and raise that of another class, and read nothing else.

    With ``s_c`` the norm of the gradient of logit c with respect to the input, summed over pixels, the loss of an example is
    ``s_y^2 - s_c^2`` with a random other class c. It has no lower bound: the run ends when ``s_c`` over the whole forget set is ``rise``
    above the lowest value that it has had, the original's included. Every step differentiates twice, and costs about nine forward
    passes.

    Made for classes and subclasses; on random subsets the source itself finds it behind others. For a class of the bundled Fashion-MNIST
    (small_cnn, 3,000 pictures) ``s_c`` rises from the start: .25 above it 13 % of the class are still known and the other classes are at
    93 of 96 %, .4 above it 3 and 89 %, and twice as high none and 69 %. For a random tenth it falls and does not come back: a learning
    rate of 1e-4 destroyed the model, and the default for such requests is so small that little happens.

    Source: Cheng et al., MU-Mis, ICLR 2026, arXiv 2402.15109, equation 3 and algorithm 1. The published learning rates and thresholds were
    not available.
    """

    aliases = ("MU-Mis", "MUMis")
    source = "Cheng et al., Remaining-data-free Machine Unlearning by Suppressing Sample Contribution, ICLR 2026, arXiv 2402.15109"
    deviations = (
        "for the rule that ends the run each example keeps its other class, and the rule looks at the whole forget set every few steps",
        "inputs are pixels in [0, 1], normalised inside of the model",
        "BatchNorm is frozen, and there is no weight decay",
        "learning rate, length and threshold are ours",
    )
    needs = {"forget"}
    scenario_defaults = {"random": {"lr": 3e-6}}

    rise: PositiveFloat = hyper(
        0.25, "stop when the sensitivity of other classes is this share above its lowest so far", low=0.05, high=1.0, log=True
    )
    check_every: PositiveInt = hyper(5, "steps between two looks at the whole forget set")
    lr: PositiveFloat = hyper(3e-5, "learning rate", low=1e-7, high=1e-2, log=True)
    epochs: PositiveInt = hyper(30, "most passes over the forget set")
    batch_size: PositiveInt = hyper(128, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on the forget set."""
        yield Phase(
            [Term("forget", sensitivity_gap, name="sensitivity gap")],
            epochs=self.epochs,
            optimizer=sgd(self.lr, weight_decay=0.0),
            batch_size=self.batch_size,
            norm="frozen",
            stop=risen(ctx, self.rise),
            stop_every=self.check_every,
            name="level the sensitivities",
        )


def risen(ctx: Context, share: float) -> Callable[[Context, Progress], bool]:
    """Return the rule that ends a phase once the sensitivity of other classes is a share above the lowest value that it has had.

    Args:
        ctx: the context, before the first step, whose value is the first of them.
        share: the share.
    """
    with modes_kept(ctx.model):
        ctx.model.eval()
        first = other_sensitivity(ctx)

    def rule(context: Context, progress: Progress) -> bool:
        now, lowest = other_sensitivity(context), float(context.memory.get(_LOWEST, first))
        context.memory[_LOWEST] = torch.tensor(min(now, lowest), dtype=torch.float64)
        return now > (1 + share) * lowest

    return rule
