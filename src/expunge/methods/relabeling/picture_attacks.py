"""Adversarial neighbours of pictures: the nearest across the boundary, those of a wanted class, and those still recognised."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.parameters import at_least_single
from expunge.engine.stream import Batch

_TINY = 1e-10

Model = nn.Module | Callable[[Tensor], Tensor]


def gradient_and_logits(model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of each picture's cross entropy with ``y``, ``[B, ...]``, and the logits ``[B, C]``."""
    x = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        logits = at_least_single(model(x))
        (found,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
    return found, logits.detach()


def lengths(x: Tensor) -> Tensor:
    """Return the Euclidean length of each example, in a shape that divides them, ``[B, 1, ...]``."""
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))


def within_ball(x: Tensor, centre: Tensor, radius: float) -> Tensor:
    """Return the nearest points to ``x`` in the Euclidean ball around ``centre``, clipped to [0, 1]."""
    away = x - centre
    return (centre + away * (radius / lengths(away).clamp_min(_TINY)).clamp_max(1)).clamp(0, 1)


def nearest_across(model: Model, x: Tensor, y: Tensor, radius: float, moves: int) -> tuple[Tensor, Tensor]:
    """Return adversarial neighbours ``[B, ...]`` that are not searched for farther away than needed, and the classes they get, ``[B]``.

    Ascends the cross entropy with ``y`` by steps of a tenth of the radius within the ball of that radius, and goes on from there in one
    twice as wide, until the class changes; each picture rests as soon as its own does. One that is not ``y`` from the start stays as it
    is. Where no radius up to the diameter of the inputs' cube suffices, the last point gets the likeliest wrong class.

    Args:
        model: from inputs in [0, 1] to logits.
        x: ``[B, ...]``.
        y: int64 ``[B]``.
        radius: of the first ball.
        moves: steps in each ball.
    """
    found, label = x.clone(), y.clone()
    active, here, widest = torch.arange(len(x), device=x.device), x, x[0].numel() ** 0.5
    while len(active) and radius < 2 * widest:
        for _ in range(moves):
            slope, logits = gradient_and_logits(model, here, y[active])
            found[active], label[active] = here, logits.argmax(1)
            staying = label[active] == y[active]
            active, here, slope = active[staying], here[staying], slope[staying]
            if not len(active):
                break
            here = within_ball(here + radius / 10 * slope / lengths(slope).clamp_min(_TINY), x[active], radius)
        radius *= 2
    if len(active):
        with torch.no_grad():
            found[active], label[active] = here, model(here).scatter(1, y[active][:, None], float("-inf")).argmax(1)
    return found, label


def towards(model: Model, x: Tensor, start: Tensor, wanted: Tensor, *, radius: float, step: float, moves: int) -> Tensor:
    """Return neighbours that descend the cross entropy with a wanted class by steps of a length, within a Euclidean ball, ``[B, ...]``.

    Args:
        model: from inputs in [0, 1] to logits.
        x: centres of the balls, ``[B, ...]``.
        start: displacements to begin with, ``[B, ...]``; they are shortened to the radius.
        wanted: int64 ``[B]``.
        radius: of the balls.
        step: length of each step.
        moves: how many.
    """
    here = within_ball(x + start, x, radius)
    for _ in range(moves):
        slope, _ = gradient_and_logits(model, here, wanted)
        here = within_ball(here - step * slope / lengths(slope).clamp_min(_TINY), x, radius)
    return here


def somewhere_in_box(context: Context, batch: Batch, radius: float, purpose: str) -> Tensor:
    """Return uniform displacements of every pixel up to a radius, keyed by purpose, phase, epoch, example and pixel, ``[B, ...]``."""
    pixels = batch.x[0].numel()
    place = batch.index[:, None] * pixels + torch.arange(pixels, device=batch.index.device)
    u = randomness.uniform(context.seed, f"{purpose}/{context.phase}", batch.epoch, place)
    return radius * (2 * u - 1).to(batch.x.dtype).view(batch.x.shape)


def towards_in_box(model: Model, x: Tensor, start: Tensor, wanted: Tensor, *, radius: float, step: float, moves: int) -> Tensor:
    """Return the same for a largest change of every pixel instead of a length; ``step`` is then the change of each pixel in a step."""
    here = (x + start.clamp(-radius, radius)).clamp(0, 1)
    for _ in range(moves):
        slope, _ = gradient_and_logits(model, here, wanted)
        here = (x + (here - step * slope.sign() - x).clamp(-radius, radius)).clamp(0, 1)
    return here
