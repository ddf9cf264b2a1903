"""Cross entropy in which rare classes count more."""

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.engine.context import Context
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss


def class_weights(ctx: Context, stream: str, power: float) -> Tensor:
    """Return one weight per class, float32 ``[C]`` on the device: ``count^-power``, scaled so that the examples' mean weight is 1.

    A power of 1 gives ``n / (classes * count)``, which is known as balanced. A class without examples has weight 0.
    """
    labels = ctx.stream(stream).labels
    count = torch.bincount(labels, minlength=ctx.num_classes).double()
    weights = torch.where(count > 0, count.clamp_min(1) ** -power, torch.zeros_like(count))
    return (weights / weights[labels].mean()).float().to(ctx.device)


def weighted_cross_entropy(weights: Tensor) -> Loss:
    """Return the loss ``w_y CE(x, y)`` of each example."""

    def weighted_cross_entropy_loss(context: Context, batch: Batch, student: Forward) -> Tensor:
        return weights[batch.y] * F.cross_entropy(student.logits, batch.y, reduction="none")

    return weighted_cross_entropy_loss


def factor_of_the_mean(weights: Tensor) -> Loss:
    """Return the wrong loss ``w_y mean(CE)``, in which the weights only change the length of the step; kept for comparison."""

    def misplaced_weights(context: Context, batch: Batch, student: Forward) -> Tensor:
        return weights[batch.y] * F.cross_entropy(student.logits, batch.y)

    return misplaced_weights
