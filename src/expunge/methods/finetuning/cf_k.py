"""Catastrophic forgetting of the last k blocks."""

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.methods.finetuning.last_blocks import train_last_blocks


class CfK(Method):
    """Train the last k blocks on the retain set; everything before them stays bit for bit, running statistics too.

    It forgets less than fine-tuning by construction.

    Source: Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning, arXiv 2201.06640, section 4 (CF-k).
    """

    aliases = ("cfk", "CF-k", "CF")
    source = "Goel et al., arXiv 2201.06640"
    deviations = (
        "BatchNorm of frozen blocks keeps its statistics; released codes let them drift",
        "weight decay is 5e-4, as in the other fine-tuning here; the constrained unlearning project (source 002) has none",
    )
    needs = {"retain"}

    blocks: PositiveInt = hyper(1, "how many blocks are trained, counted from the end; 1 is the head alone", low=1, high=5)
    lr: PositiveFloat = hyper(0.1, "learning rate", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the retain set")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on the retain set."""
        yield train_last_blocks(ctx, self.blocks, lr=self.lr, epochs=self.epochs, batch_size=self.batch_size)
