"""Random labels for the forget set."""

from typing import Literal

from expunge.config import Flag, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.targets import random_label
from expunge.methods.relabeling.relabelled_training import Order, train_relabelled


class RandomLabel(Method):
    """Train on random wrong labels for the forget set and on true labels for the retain set.

    It overshoots membership tests: the forget set becomes less certain than unseen data.

    Source: Golatkar et al., CVPR 2020, arXiv 1911.04933; the loop of Fan et al., SalUn, arXiv 2310.12508 (RL): 10 epochs, SGD 0.9 / 5e-4,
    the forget set before the retain set in each epoch on CIFAR-10, both shuffled together on CIFAR-100 and TinyImageNet.
    """

    aliases = ("RL",)
    source = "Golatkar et al., CVPR 2020, arXiv 1911.04933; loop of arXiv 2310.12508"
    deviations = ("the true label is never drawn, as the papers say; the released code allows it: exclude_true=false",)
    needs = {"forget", "retain"}

    order: Order = hyper("sequential", "all forget batches and then all retain batches, or one shuffled pass over both")
    redraw: Literal["epoch", "once"] = hyper("epoch", "whether labels are drawn anew in every epoch")
    exclude_true: Flag = hyper(True, "never draw the true label")
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-3, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over both sets")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on both sets."""
        target = random_label(self.redraw, self.exclude_true)
        yield train_relabelled(target, lr=self.lr, epochs=self.epochs, batch_size=self.batch_size, order=self.order)
