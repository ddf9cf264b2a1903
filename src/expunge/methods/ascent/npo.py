"""Climb on the forget set, ever more gently."""

import torch.nn.functional as F
from torch import Tensor

from expunge.config import NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss, Term, cross_entropy
from expunge.engine.update import sgd


class Npo(Method):
    """Negative preference optimisation: ascent whose gradient fades as the true class becomes less likely than for the original.

    The loss ``2/b log(1 + (p / p_0)^b)`` of the true class's probability is bounded below by zero; its gradient is that of ascent at the
    original and vanishes once ``p`` is far below ``p_0``. Each step descends on a retain batch too.

    Source: Zhang et al., Negative Preference Optimization, COLM 2024, arXiv 2404.05868, equation 3, made for language models with b = 0.1;
    one label takes the place of a sequence. With 0.1 the loss of a whole class still runs away and takes the retain set along (60 nats on
    the small task of the tests), so that b is 1 here. Learning rate and epochs are ours.
    """

    aliases = ("NPO",)
    source = "Zhang et al., Negative Preference Optimization, COLM 2024, arXiv 2404.05868"
    needs = {"forget", "retain"}

    beta: PositiveFloat = hyper(1.0, "how soon the ascent fades; towards 0 it is plain ascent", low=0.05, high=2, log=True)
    weight: PositiveFloat = hyper(1.0, "weight of the forget set", low=0.01, high=1, log=True)
    retain_weight: NonNegativeFloat = hyper(1.0, "weight of the cross entropy on the retain set")
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the retain set")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        yield Phase(
            [
                Term("retain", cross_entropy, weight=self.retain_weight),
                Term("forget", negative_preference(self.beta), weight=self.weight),
            ],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            epoch_of="retain",
            name="ascend gently and descend",
        )


def negative_preference(beta: float) -> Loss:
    """Return the loss ``2/b log(1 + (p / p_0)^b)`` with the true class's probability under the student and the original."""

    def negative_preference_loss(context: Context, batch: Batch, student: Forward) -> Tensor:
        own = F.cross_entropy(student.logits, batch.y, reduction="none")
        original = F.cross_entropy(context.logits_of("original", batch.x), batch.y, reduction="none")
        return 2 / beta * F.softplus(beta * (original - own))

    return negative_preference_loss
