"""Ascent on labels with negative smoothing, which two methods share."""

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from expunge.config import Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss, Term, cross_entropy
from expunge.engine.update import sgd

Negative = Annotated[float, Field(strict=True, lt=0, allow_inf_nan=False)]


class Unsmoothed(Method):
    """The hyper-parameters of ascent on negatively smoothed labels, and its phase."""

    needs = {"forget", "retain"}

    smoothing: Negative = hyper(-0.5, "rate a of the labels (1 - a) onehot + a / C of the forget set", low=-4.0, high=-0.1)
    retain_share: Fraction = hyper(0.9, "weight p of the retain set; the forget set has the rest", low=0.5, high=0.999)
    lr: PositiveFloat = hyper(0.01, "learning rate", low=1e-4, high=1e-1, log=True)
    epochs: PositiveInt = hyper(10, "passes over the set that defines an epoch")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")

    def phase(self, epoch_of: Literal["forget", "retain"]) -> Phase:
        """Return the phase on pairs of batches."""
        return Phase(
            [
                Term("retain", cross_entropy, weight=self.retain_share),
                Term("forget", unsmoothed_cross_entropy(self.smoothing), weight=self.retain_share - 1),
            ],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            epoch_of=epoch_of,
            norm="train",
            name="ascend on negatively smoothed labels",
        )


def unsmoothed_cross_entropy(smoothing: float) -> Loss:
    """Return the cross entropy with ``(1 - a) onehot + a / C``, written out: torch silently takes a negative rate for none."""

    def unsmoothed_cross_entropy_loss(context: Context, batch: Batch, student: Forward) -> Tensor:
        log_p = F.log_softmax(student.logits, dim=1)
        return (1 - smoothing) * F.nll_loss(log_p, batch.y, reduction="none") - smoothing * log_p.mean(1)

    return unsmoothed_cross_entropy_loss
