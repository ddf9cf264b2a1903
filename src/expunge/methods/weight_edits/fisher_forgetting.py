"""Fisher forgetting."""

from typing import Literal

import torch
from torch import Tensor

from expunge.config import PositiveFloat, hyper
from expunge.engine.context import Context
from expunge.engine.derivatives import batch_fisher, fisher_diagonal
from expunge.engine.edits import add_noise, assign
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Vector


class FisherForgetting(Method):
    """Adds normal noise to every weight, the more the less the retained data depend on it.

    With F the Fisher diagonal over the retained data, averaged over examples in eval mode, the variance is
    ``alpha min(1 / (F + 1e-8), 1e3)`` (at most 1e2 before alpha in the head), replaced by its mean over dimension 1 in tensors of two or
    more dimensions, then times 10 in the head and in one-dimensional tensors. For wholly forgotten classes their rows of the head are
    drawn anew with mean 0 and variance 1e-3.

    The effect turns from none to ruin within a decade of alpha, so that alpha has to be searched.

    Source: Golatkar et al., Eternal Sunshine of the Spotless Net, CVPR 2020, arXiv 1911.04933; the variance rules are those of the code of
    Jia et al., arXiv 2304.04934 (``fisher_new``).
    """

    aliases = ("fisher_new", "fisher", "FF")
    source = "arXiv 1911.04933; variance rules of the code of arXiv 2304.04934"
    deviations = (
        "The Fisher diagonal is taken per example; the code squares gradients of batch means (form=published).",
        "The head and the rows of forgotten classes are found by running the model; the code goes by shapes and by the size of the set.",
        "fisher, an earlier function of the code, is form=first.",
    )
    needs = {"retain"}

    alpha: PositiveFloat = hyper(1e-9, "scale of the variance", low=1e-10, high=1e-6, log=True)
    form: Literal["exact", "sampled", "published", "first"] = hyper(
        "exact",
        "Fisher diagonal: expectation over the model's labels (C backward passes), one label drawn from the model, squared gradients of "
        "batch means as in the code, or true labels with the noise rule of the code's first version",
    )

    def steps(self, ctx: Context) -> Steps:
        """Yield one edit, or two for whole classes."""
        head = set(ctx.architecture.class_rows(0))
        if self.form == "first":
            yield add_noise(first_deviation(fisher_diagonal(ctx, "retain"), head, self.alpha), self.name)
            return
        fisher = batch_fisher(ctx, "retain") if self.form == "published" else fisher_diagonal(ctx, "retain", self.form)
        variance = noise_variance(fisher, head, self.alpha)
        centres: dict[str, Tensor] = {}
        if ctx.forget_classes:
            ctx.free_head()
        for label in ctx.forget_classes:
            for name, row in ctx.architecture.class_rows(label).items():
                centres.setdefault(name, ctx.original[name].clone())[row] = 0
                variance[name][row] = 1e-3
        if centres:
            yield assign(centres)
        yield add_noise({name: value.sqrt() for name, value in variance.items()}, self.name)


def noise_variance(fisher: Vector, head: set[str], alpha: float) -> Vector:
    """Return the variance of the noise for every parameter entry.

    Args:
        fisher: Fisher diagonal by base name.
        head: base names of the head's parameters.
        alpha: scale.
    """
    variance = {}
    for name, value in fisher.items():
        spread = alpha * (1 / (value + 1e-8)).clamp_max(1e2 if name in head else 1e3)
        if spread.dim() > 1:
            spread = spread.mean(dim=1, keepdim=True).expand_as(spread)
        variance[name] = spread * (10 if name in head or value.dim() == 1 else 1)
    return {name: value.contiguous() for name, value in variance.items()}


def first_deviation(fisher: Vector, head: set[str], alpha: float) -> Vector:
    """Return the standard deviation of the code's first version: ``min(sqrt(alpha / F), 1e-3)``, times 10 in the head's bias.

    The code takes tensors whose last dimension is the number of classes, as a bias ``[C]`` and not a weight ``[C, D]`` of the head.
    """
    capped = {name: torch.minimum((alpha / value).sqrt(), torch.full_like(value, 1e-3)) for name, value in fisher.items()}
    return {name: value * (10 if name in head and value.dim() == 1 else 1) for name, value in capped.items()}
