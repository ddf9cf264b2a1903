"""Normal noise on pictures, and losses on noisy pictures."""

import dataclasses

import torch
from torch import Tensor

from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.kernels import mean_squared_logits
from expunge.engine.stream import Batch
from expunge.engine.terms import Forward, Loss


def pixel_noise(ctx: Context, batch: Batch, draw: int = 0) -> Tensor:
    """Return standard normal numbers in the shape of the inputs, keyed by seed, phase, epoch, example and pixel.

    Args:
        ctx: the context.
        batch: the examples.
        draw: number of the draw, when an example needs several in an epoch.
    """
    pixels = batch.x[0].numel()
    place = batch.index[:, None] * pixels + torch.arange(pixels, device=batch.index.device)
    values = randomness.normal(ctx.seed, f"pixel noise/{ctx.phase}", batch.epoch, place, draw)
    return values.to(batch.x.dtype).view(batch.x.shape)


def match_original_on_noisy_inputs(deviation: float) -> Loss:
    """Return the mean squared difference from the original's logits on the same pictures, both noisy, ``[B]``."""

    def noisy_logits(context: Context, batch: Batch, student: Forward) -> Tensor:
        noisy = dataclasses.replace(batch, x=batch.x + deviation * pixel_noise(context, batch)) if deviation else batch
        logits = Forward(context, noisy, student.precision).logits
        return mean_squared_logits(context.logits_of("original", noisy.x), logits)

    return noisy_logits
