"""Climb on the forget set while descending on the retain set."""

from typing import Literal

from expunge.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.terms import Penalty, Term, cross_entropy, distance_to
from expunge.engine.update import adam, sgd


class NeggradPlus(Method):
    """Each step descends on a retain batch and ascends, weighted less, on a forget batch.

    Source: Kurmanji et al., SCRUB, NeurIPS 2023, arXiv 2302.09880, section 5 (NegGrad+):
    ``a [CE(retain) + l/2 ||theta - theta_0||^2] - (1 - a) CE(forget)``, an epoch being a pass over the retain set. The paired form of
    arXiv 2511.02435 (NGPlus) is ``optimizer=adam lr=1e-4 epochs=30 epoch_of=forget``. The two separate steps of the constrained unlearning
    project (source 002), 0.1 on the retain set and 0.05 on the forget set, are ``order=interleave alpha=0.667 lr=0.15 epoch_of=forget``,
    with one momentum for both and, as there, without weight decay.

    The paper's weights are .95 to .9999. For whole classes .95 goes on climbing when nothing is left to forget: on 10,000 pictures of
    CIFAR-10 the retain accuracy fell to 14 %, with .999 to 89 % of 94.
    """

    aliases = ("NGPlus", "NG+", "NegGrad+", "neggradplus")
    source = "Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023, arXiv 2302.09880; arXiv 2511.02435"
    needs = {"forget", "retain"}
    scenario_defaults = {"class": {"alpha": 0.999}}

    alpha: Fraction = hyper(0.95, "weight of the retain set; the forget set has the rest", low=0.9, high=0.9999)
    anchor: NonNegativeFloat = hyper(0.0, "weight of the squared distance to the original")
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the set that defines an epoch")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")
    optimizer: Literal["sgd", "adam"] = hyper("sgd", "SGD 0.9 / 5e-4 (interleave: 0.9 / 0), or Adam without weight decay")
    epoch_of: Literal["retain", "forget"] = hyper("retain", "the set that defines an epoch; the other is repeated or cut")
    order: Literal["zip", "interleave"] = hyper("zip", "one step for both sets, or a retain step and then a forget step")
    fidelity: Literal["paper", "reference"] = hyper("paper", "reference: BatchNorm frozen, as in the code of arXiv 2410.01276")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        terms: list[Term | Penalty] = [
            Term("retain", cross_entropy, weight=self.alpha),
            Term("forget", cross_entropy, weight=self.alpha - 1),
        ]
        if self.anchor:
            terms.append(Penalty(distance_to(ctx.original), weight=self.alpha * self.anchor, name="distance to the original"))
        decay = 0.0 if self.order == "interleave" else 5e-4
        yield Phase(
            terms,
            epochs=self.epochs,
            optimizer=sgd(self.lr, weight_decay=decay) if self.optimizer == "sgd" else adam(self.lr),
            batch_size=self.batch_size,
            order=self.order,
            epoch_of=self.epoch_of,
            norm="train" if self.fidelity == "paper" else "frozen",
            name="ascend and descend",
        )
