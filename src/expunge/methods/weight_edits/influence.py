"""Influence unlearning."""

from typing import Literal

import torch

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.derivatives import conjugate_gradient, fisher_product, gradient, published_woodfisher
from expunge.engine.edits import add
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Vector
from expunge.engine.stream import Stream


class Influence(Method):
    """Moves the weights once by the influence function's estimate of what leaving the forgotten data out would change.

    ``theta + alpha H^-1 v`` with ``v = G_f / N - n_f / (N n_r) G_r``, where ``G`` are sums of gradients of the cross entropy over the
    forgotten and the retained data and N counts both. H is the damped empirical Fisher matrix ``F + damping I`` of retained examples;
    conjugate gradients solve for the product. The residual that they reach is reported.

    Source: Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934, section 3, after Koh and Liang,
    ICML 2017; Fisher matrix after Singh and Alistarh, WoodFisher, NeurIPS 2020.
    """

    aliases = ("wfisher", "IU", "woodfisher")
    source = "arXiv 2304.04934"
    deviations = (
        "The code's recursion rescales a single gradient and is no inverse Fisher product; it is form=published, in closed form.",
        "Retained examples are drawn at random by the seed; the code takes the first ones (form=published does so too).",
    )
    needs = {"forget", "retain"}

    alpha: PositiveFloat = hyper(
        1.0, "length of the step; 1 is the estimate itself, and whole classes are over-corrected first", low=0.1, high=20, log=True
    )
    form: Literal["damped", "published"] = hyper("damped", "inverse Fisher product, or the recursion of the published code")
    damping: PositiveFloat = hyper(1.0, "multiple of the identity added to the Fisher matrix; 1 in the code", low=1e-3, high=1, log=True)
    examples: PositiveInt = hyper(1000, "retained examples that make the Fisher matrix")
    iterations: PositiveInt = hyper(50, "most steps of conjugate gradients; each passes the examples four times")

    def steps(self, ctx: Context) -> Steps:
        """Yield one edit."""
        vector = forget_direction(ctx)
        if self.form == "published":
            yield add(published_woodfisher(ctx, "retain", vector, self.examples), self.alpha)
            return
        retain = ctx.stream("retain")
        drawn = randomness.shuffle(ctx.seed, self.name, 0, retain.index)[: self.examples]
        solution, residual = damped_inverse_product(ctx, retain.subset(drawn), vector, self.damping, self.iterations)
        ctx.report({"event": "conjugate gradients", "residual": residual})
        yield add(solution, self.alpha)


def forget_direction(ctx: Context) -> Vector:
    """Return ``v``: minus the gradient of the mean loss over the retained data plus that over all data, by base name."""
    forgotten, retained = len(ctx.stream("forget")), len(ctx.stream("retain"))
    everything = forgotten + retained
    forget, retain = gradient(ctx, "forget"), gradient(ctx, "retain")
    return {name: forget[name] / everything - forgotten / (everything * retained) * retain[name] for name in forget}


def damped_inverse_product(ctx: Context, stream: Stream, vector: Vector, damping: float, iterations: int) -> tuple[Vector, float]:
    """Return ``(F + damping I)^-1 vector`` for the empirical Fisher matrix of a stream, and the relative residual."""

    def product(direction: Vector) -> Vector:
        image = fisher_product(ctx, stream, direction)
        return {name: torch.add(image[name], value, alpha=damping) for name, value in direction.items()}

    return conjugate_gradient(product, vector, iterations=iterations)
