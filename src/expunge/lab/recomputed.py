"""Norm layers whose statistics are computed anew wherever the weights are: those of reference examples that go through the net as well.

Running statistics belong to the weights with which they were gathered. At other weights they are of another net, and the loss there would
be one that no training could meet.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from expunge.engine.parameters import leaves, unflat

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Layers that can be replaced; a subclass may compute something else."""


class RecomputedNorm(nn.Module):
    """A BatchNorm whose first inputs are the reference examples: they give mean and variance, and all inputs are normalised by these.

    The reference examples are normalised as in training, by the variance over n, all others as afterwards in evaluation, by the one over
    n - 1: what the layer would do after a pass over the reference examples as one batch.

    Args:
        norm: whose weight and bias it has, under the same names.
        references: how many of the inputs are reference examples, 2 or more.

    Source: Ioffe & Szegedy, Batch Normalization, 2015, algorithm 2; recomputed at each point as in Li et al., NeurIPS 2018, and Izmailov et
        al., Averaging Weights Leads to Wider Optima, UAI 2018, section 3.2.
    """

    def __init__(self, norm: Any, references: int):
        super().__init__()
        self.references, self.eps = references, norm.eps
        self.register_parameter("weight", norm.weight)
        self.register_parameter("bias", norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` normalised, ``[references + n, channels, ...]``."""
        axes, shape = [axis for axis in range(x.dim()) if axis != 1], [1, -1, *[1] * (x.dim() - 2)]
        known = x[: self.references]
        mean, variance = known.mean(axes), known.var(axes, correction=0)
        count = known.numel() // known.shape[1]
        rest = variance * (count / (count - 1))
        parts = [
            (part - mean.view(shape)) * torch.rsqrt(spread.view(shape) + self.eps)
            for part, spread in ((known, variance), (x[self.references :], rest))
        ]
        made = torch.cat(parts)
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        return made if weight is None or bias is None else made * weight.view(shape) + bias.view(shape)


def has_norms(model: nn.Module) -> bool:
    """Return whether a model has layers that `with_references` replaces."""
    return any(type(module) in NORMS for module in model.modules())


def with_references(model: nn.Module, references: int) -> nn.Module:
    """Return a copy of a model that computes the statistics of its norm layers from its first inputs, in evaluation mode.

    Args:
        model: with parameters that keep their names.
        references: how many inputs give the statistics.
    """
    made = copy.deepcopy(model).eval()
    for parent in list(made.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in NORMS:
                setattr(parent, name, RecomputedNorm(child, references))
    return made


@torch.no_grad()
def answers_at(model: nn.Module, weights: Tensor, references: Tensor, x: Tensor) -> np.ndarray:
    """Return the logits of nets with other weights, whose statistics are those of the references there, float32 ``[M, n, C]``.

    Net by net: convolutions of many nets at once take twice as long on a processor.

    Args:
        model: whose architecture they have.
        weights: one net a row, ``[M, P]``.
        references: inputs that give the statistics, ``[r, ...]``.
        x: inputs, ``[n, ...]``.
    """
    own = {name: value.detach() for name, value in leaves(model).items()}
    template, inputs = with_references(model, len(references)), torch.cat([references, x])
    rows = weights.to(next(iter(own.values())))
    return torch.stack([functional_call(template, unflat(row, own), (inputs,))[len(references) :].float().cpu() for row in rows]).numpy()
