"""Noise that a model is most wrong about, as examples."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.engine.context import Context
from expunge.engine.parameters import modes_kept
from expunge.engine.stream import Size
from expunge.engine.update import adam


def learn_noise(ctx: Context, label: int, like: Tensor, count: int, *, steps: int, lr: float, decay: float) -> Tensor:
    """Return inputs ``[count, ...]`` on which the model, in eval mode, is as wrong as possible about a label.

    With inputs ``mean + deviation * n``, maximises ``CE - decay mean ||n||^2`` over ``n`` by Adam from standard normal numbers. The model
    stays as it is.

    Args:
        ctx: whose model.
        label: the label that the model should not give.
        like: inputs ``[m, channels, ...]``, whose mean and deviation of each channel are used.
        count: how many inputs.
        steps: steps of Adam.
        lr: its learning rate.
        decay: weight of the mean squared length of ``n``.
    """
    across = [0, *range(2, like.dim())]
    mean, deviation = like.mean(across, keepdim=True), like.std(across, keepdim=True)
    noise = nn.Parameter(torch.randn((count, *like.shape[1:]), generator=ctx.generator("learned noise", label), device=ctx.device))
    labels = torch.full((count,), label, device=ctx.device)
    optimizer = adam(lr).make({"noise": noise})
    with modes_kept(ctx.model):
        ctx.model.eval()
        for _ in range(steps):
            entropy = F.cross_entropy(ctx.model(mean + deviation * noise).float(), labels)
            loss = decay * noise.flatten(1).square().sum(1).mean() - entropy
            (noise.grad,) = torch.autograd.grad(loss, noise)
            optimizer.step()
    return (mean + deviation * noise).detach()


class RepeatedNoise:
    """A source in which every example occurs several times, each time under an index of its own, so that shuffles part the copies.

    Args:
        inputs: float ``[n, ...]``, on the device.
        labels: int64 ``[n]``.
        copies: how often each occurs.
    """

    resident = True

    def __init__(self, inputs: Tensor, labels: Tensor, copies: int):
        self._inputs, self.labels = inputs, labels.cpu().repeat(copies)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Tensor, size: Size, *, augment: bool, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(x, y)`` for consecutive chunks of ``order``; nothing is augmented."""
        for chunk in order.split(size):
            place = (chunk % len(self._inputs)).to(self._inputs.device)
            yield self._inputs[place], self.labels[chunk].to(self._inputs.device)
