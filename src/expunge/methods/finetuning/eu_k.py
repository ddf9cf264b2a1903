"""Exact unlearning of the last k blocks."""

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import reinitialise
from expunge.engine.method import Method, Steps
from expunge.methods.finetuning.last_blocks import train_last_blocks


class EuK(Method):
    """Give the last k blocks new random weights and train them on the retain set; everything before them stays bit for bit.

    The last blocks never see the forget set, but they read features that did.

    Source: Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning, arXiv 2201.06640, section 4 (EU-k).
    """

    aliases = ("euk", "EU-k", "EU")
    source = "Goel et al., arXiv 2201.06640"
    deviations = (
        "BatchNorm of frozen blocks keeps its statistics; released codes let them drift",
        "weight decay is 5e-4, as in the other fine-tuning here; the constrained unlearning project (source 002) has none",
    )
    needs = {"retain"}

    blocks: PositiveInt = hyper(1, "how many blocks start anew, counted from the end; 1 is the head alone", low=1, high=5)
    lr: PositiveFloat = hyper(0.1, "learning rate", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the retain set")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield new weights for the last blocks, then one phase on the retain set."""
        yield reinitialise(ctx.architecture.last_blocks(self.blocks), "eu_k")
        yield train_last_blocks(ctx, self.blocks, lr=self.lr, epochs=self.epochs, batch_size=self.batch_size)
