"""Random labels with a soft saliency mask that opens."""

import torch

from expunge.config import Flag, Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import flat
from expunge.engine.targets import random_label
from expunge.engine.update import AfterStep, Step
from expunge.methods.relabeling.relabelled_training import Order, train_relabelled


class SalunSoft(Method):
    """Random labels on the forget set; after each step the smallest changes are undone and the others shrunk, ever less as time goes on.

    Source: Fan et al., SalUn, ICLR 2024, arXiv 2310.12508, appendix (soft thresholding; ``RL_proximal`` in the code): with the change
    ``d = theta - theta_0``, ``d <- sign(d) max(|d| - t, 0)`` where ``t`` makes a share ``frozen (1 - step / steps)`` of the entries zero.
    """

    aliases = ("RL_proximal", "SalUn-soft")
    source = "Fan et al., SalUn, ICLR 2024, arXiv 2310.12508 (soft variant)"
    deviations = (
        "the original is the anchor throughout; the code takes a new one each epoch",
        "the share falls with every step; in the code it is constant within an epoch",
    )
    needs = {"forget", "retain"}

    frozen: Fraction = hyper(0.5, "share of the weights that the first step leaves as they were", low=0.1, high=0.9)
    order: Order = hyper("mixed", "all forget batches and then all retain batches, or one shuffled pass over both")
    exclude_true: Flag = hyper(True, "never draw the true label")
    lr: PositiveFloat = hyper(0.01, "learning rate", low=5e-4, high=5e-2, log=True)
    epochs: PositiveInt = hyper(10, "passes over both sets")
    batch_size: PositiveInt = hyper(256, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on both sets."""
        yield train_relabelled(
            random_label("epoch", self.exclude_true),
            lr=self.lr,
            epochs=self.epochs,
            batch_size=self.batch_size,
            order=self.order,
            after_step=(shrink_change(self.frozen),),
        )


def shrink_change(share: float) -> AfterStep:
    """Return the rule that soft-thresholds the change from the original: a share of the entries returns at first, none at the end."""

    def shrink(step: Step) -> None:
        change = {name: value - step.context.original[name] for name, value in step.parameters.items()}
        size = flat(change).abs()
        count = int(share * (1 - step.progress.fraction) * size.numel())
        if not count:
            return
        threshold = torch.kthvalue(size, count).values
        for name, value in step.parameters.items():
            kept = step.context.original[name] + change[name].sign() * (change[name].abs() - threshold)
            value.copy_(torch.where(change[name].abs() <= threshold, step.context.original[name], kept))

    return shrink
