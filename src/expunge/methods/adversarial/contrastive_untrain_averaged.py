"""Answer the forget set so that not even averages of its losses betray it."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.config import PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Steps
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, cross_entropy
from expunge.methods.adversarial.contrast import AgainstDiscriminator
from expunge.methods.adversarial.opponents import counterpart, doubt


class ContrastiveUntrainAveraged(AgainstDiscriminator):
    """As `contrastive_untrain`, on losses averaged over groups, against a logistic regression fitted anew to each batch.

    Averages vary less than losses, so that one number shows membership. A group holds ``group_size`` examples, or the whole batch if that
    is smaller; examples that fill no group are left out.

    Source: the constrained unlearning project (source 002, batch averaging): groups of 16, 1000 gradient steps at 0.01 for the regression,
    whose error the student maximises.
    """

    aliases = ("batch_averaging", "contrastive-untrain-averaged")
    source = "constrained unlearning project (source 002): train_contrastive.py, batch averaging"
    deviations = (
        "a cross entropy on the retain set holds the student; the code has none: retain_weight=0",
        "the regression starts at zero instead of at random",
    )

    group_size: PositiveInt = hyper(16, "examples whose losses are averaged", low=1, high=64, log=True)
    fit_steps: PositiveInt = hyper(1000, "gradient steps of the regression in each batch")

    def steps(self, ctx: Context) -> Steps:
        """Yield one phase on pairs of batches."""

        def deceive(context: Context, batch: Batch, student: Forward) -> Tensor:
            unseen = counterpart(context, batch, "validation")
            known = F.cross_entropy(context.logits_of("original", unseen.x), unseen.y, reduction="none")
            own = averages(cross_entropy(context, batch, student), self.group_size)
            slope, offset = fit_logistic(own.detach(), averages(known, self.group_size), self.fit_steps)
            return spread(doubt(slope * own + offset), len(batch))

        yield self.phase(deceive, "deceive the regression")


def averages(losses: Tensor, size: int) -> Tensor:
    """Return the means of consecutive groups, ``[B // size]``; a batch smaller than a group is one group."""
    size = min(size, len(losses))
    return losses[: len(losses) // size * size].view(-1, size).mean(1)


def spread(values: Tensor, count: int) -> Tensor:
    """Return ``count`` equal numbers whose mean is the mean over groups, since a loss is one number per example."""
    return values.mean().expand(count)


@torch.no_grad()
def fit_logistic(ones: Tensor, zeros: Tensor, steps: int, lr: float = 0.01) -> tuple[float, float]:
    """Return slope and offset of a logistic regression of one variable after gradient descent from zero on the mean cross entropy.

    Args:
        ones: values ``[n]`` of the class one.
        zeros: values ``[m]`` of the class zero.
        steps: steps of gradient descent.
        lr: learning rate.
    """
    x = torch.cat([ones, zeros]).double().cpu().numpy()
    size = len(ones)
    slope = offset = 0.0
    for _ in range(steps):
        error = 0.5 * (1 + np.tanh(0.5 * (slope * x + offset)))
        error[:size] -= 1
        slope -= lr * float((error * x).mean())
        offset -= lr * float(error.mean())
    return slope, offset
