"""Give the forgotten examples weights of their own."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.addons.applicability import scores_no_forgotten_data, takes_no_gradient_step
from expunge.addons.example_weights import Weigh, weigh_forgotten
from expunge.config import NonNegativeFloat, PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward

Rule = Literal["inverse_loss", "npo", "simnpo", "class_balanced"]

_SMALLEST_LOSS = 1e-3


class Reweight(Addon):
    """Multiplies the loss of every forgotten example by a weight, through which no gradient flows.

    With the loss ``l`` of the term, the cross entropy ``c`` with the true label and ``c_0`` that of the original:

    - ``inverse_loss``: ``l^-power``, divided by its mean over the batch: what is remembered best goes first.
    - ``npo``: ``2 sigmoid(beta (c_0 - c))``: ascent stops where an example is forgotten, compared with the original.
    - ``simnpo``: ``2 sigmoid(-beta c)``: the same without the original.
    - ``class_balanced``: every forgotten class has the same total weight, one on average.

    Losses on other data, penalties and one-shot edits are not touched.

    Source: Huang et al., SFRon, NeurIPS 2024, arXiv 2409.19732 (inverse loss); Zhang et al., NPO, 2024, arXiv 2404.05868, whose gradient
    is that of ascent times this weight; Fan et al., SimNPO, 2024, arXiv 2410.07163, with margin 0.
    """

    source = "arXiv 2409.19732; arXiv 2404.05868; arXiv 2410.07163"
    deviations = ("Losses below 1e-3 count as 1e-3.",)
    needs = {"forget"}

    rule: Rule = hyper("inverse_loss", "how an example's weight is found")
    power: NonNegativeFloat = hyper(1.0, "of inverse_loss", low=0.1, high=2)
    beta: PositiveFloat = hyper(0.1, "of npo and simnpo: how sharply weights fall with the loss", low=0.01, high=5, log=True)

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, losses on forgotten data weighted.

        Raises:
            NotApplicable: no phase had a loss on forgotten data.
        """
        yield from weigh_forgotten(self.name, steps, ctx, self.weights(ctx))

    def weights(self, ctx: Context) -> Weigh:
        """Return the function that weighs examples."""
        if self.rule == "inverse_loss":
            return lambda context, batch, student, losses: _inverse(losses, self.power)
        labels = ctx.stream("forget").source.labels.to(ctx.device)

        def missed(logits: Tensor, batch: Batch) -> Tensor:
            """Return the cross entropy with the true labels, whatever the method teaches, ``[B]``."""
            return F.cross_entropy(logits, labels[batch.index], reduction="none")

        def less_than_original(context: Context, batch: Batch, student: Forward, losses: Tensor) -> Tensor:
            return 2 * torch.sigmoid(self.beta * (missed(context.logits_of("original", batch.x), batch) - missed(student.logits, batch)))

        if self.rule == "npo":
            return less_than_original
        if self.rule == "simnpo":
            return lambda context, batch, student, losses: 2 * torch.sigmoid(-self.beta * missed(student.logits, batch))
        forget = ctx.stream("forget")
        table = class_weights(forget.index, forget.labels, len(forget.source)).to(ctx.device)
        return lambda context, batch, student, losses: table[batch.index]

    def refuse(self, method: Method) -> str:
        """Refuse methods without a loss on forgotten data."""
        return takes_no_gradient_step(method) or scores_no_forgotten_data(method)


def class_weights(index: Tensor, labels: Tensor, size: int) -> Tensor:
    """Return ``n / (classes * n_c)`` at the index of each of the n examples, float32 ``[size]``, one elsewhere."""
    present, which, count = labels.unique(return_inverse=True, return_counts=True)
    table = torch.ones(size)
    table[index] = len(labels) / (len(present) * count[which].float())
    return table


def _inverse(losses: Tensor, power: float) -> Tensor:
    found = losses.detach().abs().clamp_min(_SMALLEST_LOSS) ** -power
    return found / found.mean()
