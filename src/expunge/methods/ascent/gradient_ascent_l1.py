"""Climb the loss of the forget set and draw the weights towards zero."""

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.terms import Penalty, Term, cross_entropy, l1
from expunge.engine.update import sgd
from expunge.methods.ascent.gradient_ascent import at_ceiling


class GradientAscentL1(Method):
    """Raise the cross entropy on the forget set under an L1 penalty, and read nothing else.

    The penalty is a sum over all parameters, so a good strength falls with model size. It does not bound the ascent: see `gradient_ascent`,
    whose ceiling is the default here for requests that are not whole classes.

    Source: code of Jia et al., arXiv 2304.04934 (``GA_l1``): ``-CE(forget) + alpha ||theta||_1``, 5 epochs, SGD 0.9 / 5e-4, lr 1e-4.
    """

    aliases = ("GA_l1",)
    source = "Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934, released code"
    deviations = (
        "BatchNorm is frozen: in train mode, as in the code, its statistics become those of the forget set",
        "the released argument parser's alpha=0.2, shared with other methods, destroys the model; the default is that of l1_sparse",
    )
    needs = {"forget"}
    scenario_defaults = {"random": {"lr": 5e-4, "ceiling": 1.0}, "subclass": {"ceiling": 1.0}}

    alpha: PositiveFloat = hyper(1e-4, "strength of the penalty", low=1e-6, high=1e-3, log=True)
    lr: PositiveFloat = hyper(1e-4, "learning rate", low=1e-5, high=1e-1, log=True)
    epochs: PositiveInt = hyper(5, "passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples in a step")
    ceiling: PositiveFloat | None = hyper(
        None, "stop after an epoch that leaves the mean forget loss above this many times the loss of guessing, log C; nothing: never"
    )

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on the forget set."""
        yield Phase(
            [Term("forget", cross_entropy, weight=-1.0), Penalty(l1, weight=self.alpha, group="forget", name="L1")],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            norm="frozen",
            stop=at_ceiling(self.ceiling),
            name="ascend on the forget set, towards zeros",
        )
