"""Give the forget set the labels across its nearest boundary."""

from typing import Literal

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.targets import adversarial_label
from expunge.engine.terms import Term, match
from expunge.engine.update import sgd


class BoundaryShrink(Method):
    """Train the forget set on the wrong class that the original sees after one small adversarial step, and read nothing else.

    Made for whole classes; at the published learning rates a random subset hardly changes.

    Source: Chen et al., Boundary Unlearning, CVPR 2023, arXiv 2303.11570 (boundary shrink): FGSM on the original in pixel space with
    epsilon 0.1, 10 epochs; lr 1e-5 is from the protocol of arXiv 2310.12508, whose range goes on to 1e-4.
    """

    aliases = ("BS", "BoundaryUnlearning")
    source = "Chen et al., Boundary Unlearning, CVPR 2023, arXiv 2303.11570"
    deviations = (
        "where the adversarial step does not leave the true class, the best wrong class is taken",
        "BatchNorm is frozen: in train mode its statistics become those of the forget set",
    )
    needs = {"forget"}

    epsilon: PositiveFloat = hyper(0.1, "adversarial step, in units of the [0, 1] pixel range", low=0.01, high=0.5, log=True)
    lr: PositiveFloat = hyper(1e-5, "learning rate", low=1e-6, high=1e-4, log=True)
    epochs: PositiveInt = hyper(10, "passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples in a step")
    fidelity: Literal["paper", "reference"] = hyper(
        "paper", "reference: the true label stays where the adversarial step fails, and BatchNorm is in train mode"
    )

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on the forget set."""
        paper = self.fidelity == "paper"
        yield Phase(
            [Term("forget", match(adversarial_label(self.epsilon, exclude_true=paper)))],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            norm="frozen" if paper else "train",
            name="shrink the boundary",
        )
