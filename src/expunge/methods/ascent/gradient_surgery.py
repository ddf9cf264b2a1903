"""Climb on the forget set where the retain set does not change to first order, then repair."""

import torch
from torch import Tensor

from expunge.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, hyper
from expunge.engine.combine import orthogonal
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Vector
from expunge.engine.phase import Phase
from expunge.engine.terms import Penalty, Progress, Term, cross_entropy
from expunge.engine.update import adamw, sgd


class GradientSurgery(Method):
    """Ascend along the forget gradient without its component along the retain gradient of an equally large random batch, then fine-tune.

    ``g = -(g_f - (g_f.g_r / |g_r|^2) g_r)`` over all weights together, whatever the sign of the product. The ascent has no bound, so that
    the number of steps decides; few are taken.

    Source: the second unlearning repository (source 003, ``surgery``): 3 passes over the forget set in batches of 2048, SGD 0.09 with
    momentum 0.95; then 4 epochs of AdamW 2e-3 / 5e-4, halved each epoch, batches of 1024, with 1e-3 times the sum over tensors of their
    mean absolute value. Made for few examples of many: with a random tenth of 2,800 pictures of the bundled Fashion-MNIST nothing is lost
    and little forgotten (98 % of 100 %); with a class the ascent destroys small_cnn beyond the repair (retain accuracy 12 %).
    """

    aliases = ("surgery",)
    source = "source 003: unl_algorithms, surgery; projection after Yu et al., NeurIPS 2020, arXiv 2001.06782"
    needs = {"forget", "retain"}

    lr: PositiveFloat = hyper(0.09, "learning rate of the ascent", low=1e-3, high=1e-1, log=True)
    momentum: NonNegativeFloat = hyper(0.95, "momentum of the ascent", lt=1)
    epochs: PositiveInt = hyper(3, "ascending passes over the forget set", low=1, high=5)
    batch_size: PositiveInt = hyper(2048, "examples of each set in an ascending step")
    repair_epochs: NonNegativeInt = hyper(4, "passes over the retain set afterwards")
    repair_lr: PositiveFloat = hyper(2e-3, "learning rate of AdamW afterwards", low=1e-4, high=1e-2, log=True)
    repair_batch_size: PositiveInt = hyper(1024, "examples in a step afterwards")
    sparsity: NonNegativeFloat = hyper(1e-3, "weight of the sum over tensors of their mean absolute value, afterwards")

    def steps(self, ctx: Context) -> Steps:
        """Yield the ascent and the repair."""
        yield Phase(
            [Term("forget", cross_entropy, weight=-1.0), Term("retain", cross_entropy)],
            epochs=self.epochs,
            optimizer=sgd(self.lr, momentum=self.momentum, weight_decay=0.0),
            batch_size=self.batch_size,
            epoch_of="forget",
            combine=orthogonal("forget", to="retain"),
            name="ascend beside the retain gradient",
        )
        if self.repair_epochs:
            yield Phase(
                [Term("retain", cross_entropy), Penalty(mean_sizes, weight=self.sparsity, name="mean sizes")],
                epochs=self.repair_epochs,
                optimizer=adamw(self.repair_lr, weight_decay=5e-4),
                schedule=halved_each_epoch,
                batch_size=self.repair_batch_size,
                name="repair",
            )


def mean_sizes(context: Context, parameters: Vector) -> Tensor:
    """Return the sum over tensors of their mean absolute value, which is not the L1 norm."""
    return torch.stack([value.abs().mean() for value in parameters.values()]).sum()


def halved_each_epoch(progress: Progress) -> float:
    """Return the factor of the learning rate: 1, 1/2, 1/4, ..."""
    return 0.5**progress.epoch
