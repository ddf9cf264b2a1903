"""Random labels under a saliency mask."""

from typing import Literal

from expunge.config import Flag, Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.derivatives import gradient
from expunge.engine.method import Method, Steps
from expunge.engine.select import absolute, select
from expunge.engine.targets import random_label
from expunge.methods.relabeling.relabelled_training import Order, train_relabelled


class SalUn(Method):
    """Random labels on the forget set, moving only the weights that are salient for it.

    The result is sensitive to the learning rate, to about a tenth of it.

    Source: Fan et al., SalUn, ICLR 2024, arXiv 2310.12508: the mask is the largest half of ``|sum of the gradients of the forget loss|``
    over all weights, taken once at the original in eval mode. lr 0.013 and 10 epochs are the released example for 10 % of CIFAR-10; forks
    use them for classes too.
    """

    aliases = ("SalUn",)
    source = "Fan et al., SalUn: Empowering Machine Unlearning via Gradient-Based Weight Saliency, ICLR 2024, arXiv 2310.12508"
    deviations = (
        "the mask acts on the update; on the gradient, as released until February 2026, momentum and weight decay move masked weights",
        "saliency sums the gradients of examples; the code sums means of batches, which depends on the batch size",
        "the true label is never drawn; the code allows it: exclude_true=false",
    )
    needs = {"forget", "retain"}

    keep: Fraction = hyper(0.5, "share of the weights that may move", low=0.1, high=0.9)
    order: Order = hyper("sequential", "all forget batches and then all retain batches, or one shuffled pass over both")
    redraw: Literal["epoch", "once"] = hyper("epoch", "whether labels are drawn anew in every epoch")
    exclude_true: Flag = hyper(True, "never draw the true label")
    lr: PositiveFloat = hyper(0.013, "learning rate", low=5e-4, high=5e-2, log=True)
    epochs: PositiveInt = hyper(10, "passes over both sets")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on both sets, under the mask."""
        mask = select(absolute(gradient(ctx, "forget")), top=self.keep)
        target = random_label(self.redraw, self.exclude_true)
        yield train_relabelled(target, lr=self.lr, epochs=self.epochs, batch_size=self.batch_size, order=self.order, mask=mask)
