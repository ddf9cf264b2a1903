"""Losses on pictures that have been moved: by noise, away from the features of retained data, or to a crop."""

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss
from expunge.methods.distillation.noisy_inputs import pixel_noise
from expunge.methods.features.class_statistics import features_of

Move = Callable[[Context, Batch], Tensor]
"""Returns other inputs ``[B, ...]`` of the same shape for a batch."""

EXAMPLES = 2000
"""Retained examples that stand for all where every pair counts."""


def on_moved(move: Move, loss: Loss, features: bool = False) -> Loss:
    """Return a loss on the moved inputs of each batch; the model runs on nothing else for it.

    Args:
        move: what moves the inputs.
        loss: the loss.
        features: whether the loss reads features.
    """

    def moved_loss(context: Context, batch: Batch, student: Forward) -> Tensor:
        moved = dataclasses.replace(batch, x=move(context, batch))
        return loss(context, moved, Forward(context, moved, student.precision, with_features=features))

    moved_loss.__name__ = f"{getattr(loss, '__name__', 'loss')} on moved inputs"
    return moved_loss


def noise(deviation: float) -> Move:
    """Return the move by independent normal noise."""
    return lambda context, batch: batch.x + deviation * pixel_noise(context, batch)


def random_crop(share: float) -> Move:
    """Return the move to one random square of a share of the side, the same for the whole batch, scaled back to full size."""

    def crop(context: Context, batch: Batch) -> Tensor:
        height, width = batch.x.shape[-2:]
        rows, columns = max(1, int(share * height)), max(1, int(share * width))
        first = batch.index[:1]
        top, left = (
            int(randomness.integers(context.seed, f"crop/{context.phase}", batch.epoch, first, free + 1, draw=draw))
            for draw, free in enumerate((height - rows, width - columns))
        )
        part = batch.x[..., top : top + rows, left : left + columns]
        return F.interpolate(part, size=(height, width), mode="bilinear", antialias=True)

    return crop


def away_in_features(ctx: Context, measure: str, step: float, moves: int) -> Move:
    """Return the move away from the features that the retained data have now.

    Args:
        ctx: whose model is, at present, the original.
        measure: ``mahalanobis`` or ``discrepancy``.
        step: length of each of the moves, in every pixel; negative to come nearer.
        moves: how many.
    """
    distance = mahalanobis(ctx) if measure == "mahalanobis" else discrepancy(ctx)

    def away(context: Context, batch: Batch) -> Tensor:
        x, model = batch.x.detach(), context.teacher("original")
        for _ in range(moves):
            x = x.clone().requires_grad_(True)
            with torch.enable_grad():
                far = distance(context.architecture.forward_with_features(model, x)[1].float())
            (gradient,) = torch.autograd.grad(far, x)
            x = (x.detach() + step * gradient.sign()).clamp(0, 1)
        return x

    return away


def mahalanobis(ctx: Context) -> Callable[[Tensor], Tensor]:
    """Return the mean Mahalanobis distance of features ``[B, D]`` to the mean of the retained data's; 1e-6 is added to variances."""
    retained, _ = features_of(ctx, "retain")
    mean, covariance = retained.mean(0), torch.cov(retained.double().T)
    inverse = torch.linalg.inv(covariance + 1e-6 * torch.eye(len(covariance), device=covariance.device)).float()

    def distance(features: Tensor) -> Tensor:
        centred = features - mean
        return ((centred @ inverse) * centred).sum(1).clamp_min(1e-12).sqrt().mean()

    return distance


def discrepancy(ctx: Context) -> Callable[[Tensor], Tensor]:
    """Return the squared maximum mean discrepancy between features and retained ones, up to a constant; kernel ``exp(-|x - y|^2 / 2)``."""
    retain = ctx.stream("retain")
    drawn = randomness.shuffle(ctx.seed, "discrepancy", 0, retain.index)[:EXAMPLES]
    retained, _ = features_of(ctx, retain.subset(drawn))

    def distance(features: Tensor) -> Tensor:
        return _kernel(features, features).mean() - 2 * _kernel(features, retained).mean()

    return distance


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    square = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    return (-0.5 * square.clamp_min(0)).exp()
