"""Contrast the forget set with the retain set."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.config import Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps, needs_by_settings
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss, Term, cross_entropy
from expunge.engine.update import sgd
from expunge.methods.features.forget_accuracy import fallen_to


class ContrastiveUnlearning(Method):
    """Push the features of forgotten examples away from retained ones of their class and pull them to those of other classes.

    With unit features, retained examples of other classes P and of the same class N in the same step, temperature t and cosines s:
    ``-mean_P s / t + log sum_N exp(s / t)`` on the forget set beside the cross entropy on the retain set, half and half. Without N,
    as for whole classes, the second part is zero. The run stops when the forget accuracy has fallen to the original's on unseen data of the
    same classes; for whole classes to a tenth, which is guessing among ten.

    ``form=source_004`` contrasts forgotten examples with forgotten ones of other classes and is zero in a batch of one class.

    Source: Lee et al., Contrastive Unlearning, IJCAI 2025, arXiv 2401.10458; t = 0.7 and equal weights as released. Learning rate and
    length are ours, and so are batches of 64 for classes, chosen on small_cnn and 2,800 pictures of the bundled Fashion-MNIST by forget,
    retain and validation data: the forget accuracy of two classes becomes 7 and 9 %, the retain accuracy 86 and 90 % (with batches of
    256: 57 and 90 % for the first); a random tenth goes from 100 to 92 %, retained data to 99 %. A learning rate of 0.01 does nothing.
    """

    aliases = ("CU",)
    source = "Lee et al., Contrastive Unlearning: A Contrastive Approach to Machine Unlearning, IJCAI 2025, arXiv 2401.10458"
    deviations = (
        "the normaliser is subtracted once for each pair of P; the released code subtracts it for pairs of N too",
        "one retain batch for each forget batch",
    )
    needs = needs_by_settings("forget", "retain", validation=lambda method: method.target is None)
    scenario_defaults = {"class": {"target": 0.1, "batch_size": 64}}

    form: Literal["published", "source_004"] = hyper("published", "contrast with the retain set, or within the forget set at temperature 1")
    temperature: PositiveFloat = hyper(0.7, "divides the cosines; 1 for form=source_004 in its code", low=0.07, high=1.0, log=True)
    forget_share: Fraction = hyper(0.5, "weight of the contrast; the retain set has the rest", low=0.1, high=0.9)
    target: Fraction | None = hyper(None, "stop when the forget accuracy is at most this; nothing: the original's on validation data")
    lr: PositiveFloat = hyper(0.05, "learning rate", low=1e-3, high=1e-1, log=True)
    epochs: PositiveInt = hyper(30, "most passes over the forget set")
    batch_size: PositiveInt = hyper(256, "examples of each set in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""
        published = self.form == "published"
        if not published and len(ctx.stream("forget").labels.unique()) == 1:
            message = "the contrast of form=source_004 is zero for a single class, so this run is fine-tuning."
            ctx.report({"event": "warning", "message": message})
        contrast = against_retained(self.temperature) if published else within_forgotten(self.temperature)
        yield Phase(
            [
                Term("forget", contrast, weight=self.forget_share, features=True, uses=("retain",) if published else (), name="contrast"),
                Term("retain", cross_entropy, weight=1 - self.forget_share),
            ],
            epochs=self.epochs,
            optimizer=sgd(self.lr),
            batch_size=self.batch_size,
            epoch_of="forget",
            stop=fallen_to(ctx, self.target),
            name="contrast",
        )


def against_retained(temperature: float) -> Loss:
    """Return ``-mean over other classes of s / t + log sum over the same class of exp(s / t)``, retained examples of the same step."""

    def contrast(context: Context, batch: Batch, student: Forward) -> Tensor:
        retained = student.other("retain")
        scaled = F.normalize(student.features, dim=1) @ F.normalize(retained.features, dim=1).T / temperature
        same = batch.y[:, None] == retained.batch.y
        pull = mean_where(scaled, ~same)
        push = torch.where(same.any(1), scaled.masked_fill(~same & same.any(1, keepdim=True), -torch.inf).logsumexp(1), 0.0)
        return push - pull

    return contrast


def within_forgotten(temperature: float) -> Loss:
    """Return the mean over forgotten examples of other classes of ``-log softmax(s / t)`` over the batch; zero if there is none."""

    def contrast(context: Context, batch: Batch, student: Forward) -> Tensor:
        features = F.normalize(student.features, dim=1)
        log_share = torch.log_softmax(features @ features.T / temperature, dim=1)
        return -mean_where(log_share, batch.y[:, None] != batch.y)

    return contrast


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen entries in each row, zero in a row without any."""
    return torch.where(chosen, values, 0.0).sum(1) / chosen.sum(1).clamp_min(1)
