"""Climb the loss of the forget set."""

import math
from collections.abc import Callable
from typing import Literal

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.measure import mean_loss
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import teacher
from expunge.engine.terms import Progress, Term, cross_entropy, match
from expunge.engine.update import sgd


class GradientAscent(Method):
    """Raise the cross entropy on the forget set, and read nothing else.

    The loss has no upper bound: nearly every setting does nothing or destroys the model. ``ceiling`` ends the run once the forget set
    is answered as badly as by guessing, which needs no other data.

    Source: Thudi et al., arXiv 2109.13398; Jia et al., arXiv 2304.04934, section 3 (GA): 5 epochs, SGD 0.9 / 5e-4, lr 1e-4 for a class. For
    random subsets the authors searched 1e-5 to 1e-1 and answered that 5e-4 to 1e-3 works; that answer is the default there, and the
    ceiling is ours. ``labels=original`` is ``GA_softlabel`` of the code of arXiv 2503.06991.
    """

    aliases = ("GA", "NegGrad")
    presets = {"GA_softlabel": {"labels": "original"}}
    source = "Thudi et al., Unrolling SGD, EuroS&P 2022, arXiv 2109.13398; settings of arXiv 2304.04934"
    deviations = ("BatchNorm is frozen: in train mode, as in the code, its statistics become those of the forget set",)
    needs = {"forget"}
    scenario_defaults = {"random": {"lr": 5e-4, "ceiling": 1.0}, "subclass": {"ceiling": 1.0}}

    lr: PositiveFloat = hyper(1e-4, "learning rate", low=1e-5, high=1e-1, log=True)
    epochs: PositiveInt = hyper(5, "passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples in a step")
    ceiling: PositiveFloat | None = hyper(
        None, "stop after an epoch that leaves the mean forget loss above this many times the loss of guessing, log C; nothing: never"
    )
    labels: Literal["true", "original"] = hyper("true", "whose cross entropy is raised: with the labels, or with the original's answers")
    fidelity: Literal["paper", "reference"] = hyper("paper", "reference: BatchNorm in train mode, as in the released code")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on the forget set."""
        loss = cross_entropy if self.labels == "true" else match(teacher("original"))
        yield Phase(
            [Term("forget", loss, weight=-1.0)],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            norm="frozen" if self.fidelity == "paper" else "train",
            stop=at_ceiling(self.ceiling),
            name="ascend on the forget set",
        )


def at_ceiling(times: float | None) -> Callable[[Context, Progress], bool] | None:
    """Return the rule that ends ascent once the mean forget loss exceeds so many times log C, in nats; None for no rule."""
    if times is None:
        return None
    return lambda ctx, progress: mean_loss(ctx, "forget") > times * math.log(ctx.num_classes)
