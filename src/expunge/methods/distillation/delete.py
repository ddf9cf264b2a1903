"""Distil the original without its true class."""

from typing import Literal

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.kernels import kl
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import masked_teacher
from expunge.engine.terms import Term, match
from expunge.engine.update import sgd


class Delete(Method):
    """Imitate, on the forget set alone, the original whose true class has probability zero; the other classes keep their proportions.

    Made for whole classes: neighbouring classes suffer, and a random subset drags the rest down with it. The defaults for other requests
    rest on 10 % of the bundled Fashion-MNIST: there the setting for a class takes retain accuracy from 100 to 40 %.

    Source: Zhou et al., DELETE, CVPR 2025, arXiv 2503.23751: ``KL(softmax(masked teacher) || student)``. The released settings for a class
    of CIFAR-10 are 20 epochs, SGD with momentum 0.9 and no weight decay, lr 1e-3, batches of 128.
    """

    source = "Zhou et al., Decoupled Distillation to Erase, CVPR 2025, arXiv 2503.23751"
    deviations = ("BatchNorm is frozen, an option of the released code that is off there: fidelity=reference",)
    needs = {"forget"}
    scenario_defaults = {"random": {"lr": 1e-5}, "subclass": {"lr": 1e-5}}

    lr: PositiveFloat = hyper(1e-3, "learning rate", low=1e-5, high=1e-2, log=True)
    epochs: PositiveInt = hyper(20, "passes over the forget set")
    batch_size: PositiveInt = hyper(128, "examples in a step")
    fidelity: Literal["paper", "reference"] = hyper("paper", "reference: BatchNorm in train mode")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on the forget set."""
        yield Phase(
            [Term("forget", match(masked_teacher, kl()))],
            epochs=self.epochs,
            optimizer=sgd(self.lr, weight_decay=0.0),
            batch_size=self.batch_size,
            norm="frozen" if self.fidelity == "paper" else "train",
            name="distil without the true class",
        )
