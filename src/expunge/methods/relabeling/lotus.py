"""Distil from the original with a temperature that falls as the forget set is forgotten."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.config import Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.measure import accuracy, logits_of
from expunge.engine.method import Method, Steps, needs_by_settings
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch
from expunge.engine.terms import Term, match
from expunge.engine.update import adamw
from expunge.methods.distillation.bad_teacher import share_of

TOLERANCE = 0.01
"""How far the accuracy on the forget set falls below that on unseen data before it ends."""
_GAP = "lotus/gap"


class Lotus(Method):
    """Imitate the original's Gumbel-softmax: smooth on the forget set, as long as it is known better than unseen data, sharp on the rest.

    The temperature of an epoch is ``exp(alpha (a - b))``, a the model's accuracy on the forget set when the epoch begins, b the original's
    on unseen data, 0 for a class. It ends when a is 0.01 below b. On retained data the temperature goes to zero: a sampled label.

    Source: Spartalis et al., LoTUS, CVPR 2025, arXiv 2503.18314; settings of its code for a ResNet-18: AdamW 1e-4 with weight decay 5e-4,
    10 epochs (3 for a ViT), batches of 128, 30 % of the retain set, alpha 2 (8 for CIFAR-10, 32 for a class). They are for many steps: in
    one run on 2,800 pictures of the bundled Fashion-MNIST (small_cnn) a random tenth stayed at 97 %, and with lr 1e-3 went to 94 %.
    """

    aliases = ("LoTUS",)
    source = "Spartalis et al., LoTUS: Large-Scale Machine Unlearning with a Taste of Uncertainty, CVPR 2025, arXiv 2503.18314"
    deviations = (
        "the first epoch always runs; the code does nothing where the forget set is known less well than unseen data from the start",
        "unseen data are those of the forget set's classes, which changes nothing for a random subset",
    )
    needs = needs_by_settings("forget", "retain", validation=lambda method: method.target is None)
    scenario_defaults = {"class": {"alpha": 32.0, "target": 0.0}}

    alpha: PositiveFloat = hyper(2.0, "how fast the temperature rises with the difference of accuracies", low=1.0, high=32.0, log=True)
    retain_share: Fraction = hyper(0.3, "share of the retain set that is used", low=0.1, high=1.0, gt=0)
    target: Fraction | None = hyper(None, "accuracy on the forget set that it aims at; nothing: the original's on validation data, b")
    lr: PositiveFloat = hyper(1e-4, "learning rate of AdamW", low=1e-5, high=1e-2, log=True)
    epochs: PositiveInt = hyper(10, "passes over both sets, at most")
    batch_size: PositiveInt = hyper(128, "examples in a step")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on a shuffled mixture."""
        reference = unseen_accuracy(ctx) if self.target is None else self.target
        gap = Gap(reference, accuracy(ctx, "forget") - reference)

        def smooth(context: Context, batch: Batch) -> Tensor:
            return gumbel(context, batch) / math.exp(min(80.0, self.alpha * gap.latest(context)))

        yield Phase(
            [Term("forget", match(smooth)), Term(share_of(ctx, "retain", self.retain_share), match(sampled_label))],
            epochs=self.epochs,
            optimizer=adamw(self.lr, weight_decay=5e-4),
            batch_size=self.batch_size,
            order="mixed",
            stop=lambda context, progress: gap.measure(context) <= -TOLERANCE,
            name="distil by temperature",
        )


@dataclass(frozen=True)
class Gap:
    """How much better the forget set is known than unseen data.

    Attributes:
        reference: accuracy on unseen data, 0 to 1.
        first: the difference before the first epoch.
    """

    reference: float
    first: float

    def measure(self, context: Context) -> float:
        """Return the difference as it is now, and keep it for the epoch that begins."""
        found = accuracy(context, "forget") - self.reference
        context.memory[_GAP] = torch.tensor(found, dtype=torch.float64)
        return found

    def latest(self, context: Context) -> float:
        """Return the difference as it was when the running epoch began."""
        return float(context.memory.get(_GAP, self.first))


def unseen_accuracy(ctx: Context) -> float:
    """Return the model's accuracy on validation examples of the forget set's classes; 0 for whole classes, which are to be unknown."""
    if ctx.kind == "class":
        return 0.0
    logits, labels = logits_of(ctx, "validation")
    same = torch.isin(labels, ctx.stream("forget").labels)
    return float((logits.argmax(1) == labels)[same].double().mean()) if same.any() else 0.0


def gumbel(context: Context, batch: Batch) -> Tensor:
    """Return the original's logits plus Gumbel noise, keyed by seed, phase, epoch, example and class, ``[B, C]``."""
    logits = context.logits_of("original", batch.x)
    place = batch.index[:, None] * context.num_classes + torch.arange(context.num_classes, device=batch.index.device)
    u = randomness.uniform(context.seed, f"gumbel/{context.phase}", batch.epoch, place).clamp_min(1e-300)
    return logits - (-u.log()).log().to(logits.dtype)


def sampled_label(context: Context, batch: Batch) -> Tensor:
    """Return a label drawn from the original's distribution, int64 ``[B]``: its Gumbel-softmax at temperature zero."""
    return gumbel(context, batch).argmax(dim=1)
