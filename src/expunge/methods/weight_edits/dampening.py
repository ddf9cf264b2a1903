"""Shrinking weights by how much more they matter to the forgotten data, which the dampening methods share."""

from collections.abc import Callable

import torch
from torch import Tensor

from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.derivatives import gradient
from expunge.engine.parameters import Vector
from expunge.engine.stream import Stream
from expunge.engine.terms import Loss, cross_entropy


def factors(forget: Vector, everything: Vector, alpha: float, dampening: float, floor: float = 0.0) -> Vector:
    """Return what each weight is multiplied by, from the importances for the forgotten and for all data.

    Args:
        forget: importances for the forgotten data.
        everything: importances for all data.
        alpha: weights with ``forget > alpha everything`` are chosen.
        dampening: the factor of a chosen weight is ``min(dampening everything / forget, 1)``.
        floor: the smallest factor.
    """
    result = {}
    for name, value in forget.items():
        shrink = (dampening * everything[name] / value).clamp(floor, 1)
        result[name] = torch.where(value > alpha * everything[name], shrink, torch.ones_like(value))
    return result


def forgotten_and_all(ctx: Context, importance: Callable[[Stream], Vector], *, additive: bool) -> tuple[Vector, Vector]:
    """Return the importances for the forgotten data, and for forgotten and retained data together.

    Args:
        ctx: whose streams.
        importance: maps a stream to importances.
        additive: whether it is a mean over examples, so that the second can be had from its parts.
    """
    forget, retain = ctx.stream("forget"), ctx.stream("retain")
    important = importance(forget)
    if additive:
        return important, over_all(important, importance(retain), len(forget), len(retain))
    return important, importance(together(forget, retain))


def over_all(forget: Vector, retain: Vector, forgotten: int, retained: int) -> Vector:
    """Return the importance over forgotten and retained data together, from the means over each and their numbers of examples."""
    share = forgotten / (forgotten + retained)
    return {name: share * forget[name] + (1 - share) * retain[name] for name in retain}


def over_batch_means(ctx: Context, stream: Stream, size: int, power: Callable[[Tensor], Tensor], loss: Loss = cross_entropy) -> Vector:
    """Return the average over shuffled batches of a function of the gradient of the batch's mean loss; it depends on ``size``.

    Args:
        ctx: whose model, in eval mode.
        stream: the examples.
        size: examples in a batch.
        power: what is taken of each gradient, `torch.square` or `torch.abs`.
        loss: per-example loss.
    """
    order = randomness.shuffle(ctx.seed, "squared batch means", 0, stream.index)
    total: Vector = {}
    for chunk in order.split(size):
        for name, value in gradient(ctx, stream.subset(chunk), loss, reduction="mean", size=size).items():
            total[name] = total.get(name, 0) + power(value)
    return {name: value / stream.steps(size) for name, value in total.items()}


def together(first: Stream, second: Stream) -> Stream:
    """Return the stream of two streams' examples."""
    return Stream("everything", first.source, torch.cat([first.index, second.index]))
