"""PRMQ: prune almost everything, draw it anew, repair with the original's certainty, round to half precision."""

import math

import torch

from expunge.config import Flag, Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.edits import Edit, assign
from expunge.engine.kernels import squared_entropy_gap
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Vector, leaves
from expunge.engine.select import select
from expunge.engine.targets import teacher
from expunge.engine.terms import Term, match
from expunge.methods.reset_and_repair.repair import layer_parameters, repair
from expunge.methods.reset_and_repair.weighted_classes import class_weights, weighted_cross_entropy


class Prmq(Method):
    """Draws the smallest 99 % of all weights anew, and repairs the model on the retained data.

    Weights and biases of convolutions and linear layers, the head among them, are ranked together by size. The smallest weights are drawn
    uniformly from ``[-k, k]`` with ``k = fan_in^-1/2``; the smallest biases stay zero. The repair minimises the cross entropy, in which a
    class weighs ``count^-0.1``, plus the squared difference between the entropies of the original's and the student's answers. At the end
    everything is rounded to half precision and back.

    Source: fifth place (Sebastian) of the NeurIPS 2023 unlearning challenge, as described in Cadet et al., Deep Unlearn, arXiv
    2410.01276: 3.2 epochs, SGD, constant lr 5e-4, batches of 64.
    """

    aliases = ("PRMQ", "sebastian")
    source = "Sebastian, NeurIPS 2023 unlearning challenge; arXiv 2410.01276 (PRMQ)"
    deviations = (
        "class weights are scaled over the whole retain set; the code divides by their sum in each batch",
        "the last step of the fraction of an epoch is rounded down; the code takes one more",
    )
    needs = {"retain"}

    prune: Fraction = hyper(0.99, "share of the weights that is drawn anew", low=0.5, high=0.99)
    lr: PositiveFloat = hyper(5e-4, "learning rate", low=1e-4, high=1e-1, log=True)
    epochs: PositiveFloat = hyper(3.2, "passes over the retain set, not necessarily whole", low=1.0, high=10.0)
    batch_size: PositiveInt = hyper(64, "examples in a step")
    half_precision: Flag = hyper(True, "round weights and statistics to half precision at the end")

    def steps(self, ctx: Context) -> Steps:
        """Yield the reset, the repair and the rounding."""
        yield assign(pruned_and_redrawn(ctx, self.prune))
        weights = class_weights(ctx, "retain", power=0.1)
        yield repair(
            lr=self.lr,
            epochs=math.ceil(self.epochs),
            steps=max(1, int(self.epochs * ctx.stream("retain").steps(self.batch_size))),
            batch_size=self.batch_size,
            terms=[
                Term("retain", weighted_cross_entropy(weights)),
                Term("retain", match(teacher("original"), squared_entropy_gap), name="entropy gap"),
            ],
        )
        if self.half_precision:
            yield Edit("round to half precision", round_to_half)


def pruned_and_redrawn(ctx: Context, share: float) -> Vector:
    """Return new values of convolutions and linear layers: a share, the smallest of all, is drawn anew (weights) or zero (biases)."""
    layers = {**ctx.architecture.convs, **ctx.architecture.linears}
    parameters = leaves(ctx.model)
    old = {name: parameters[name].detach() for name in layer_parameters(ctx, *layers)}
    chosen = select({name: value.abs() for name, value in old.items()}, bottom=share)
    values = {}
    for name, value in old.items():
        new = torch.zeros_like(value)
        if value.dim() > 1:
            made = ctx.generator("prmq", name)
            new = (2 * torch.rand(value.shape, generator=made, device=value.device) - 1) * value[0].numel() ** -0.5
        values[name] = torch.where(chosen[name] != 0, new, value)
    return values


def round_to_half(context: Context) -> None:
    """Round every weight and statistic to the nearest float16; frozen weights and values beyond its range stay as they are."""
    kept = {id(leaves(context.model)[name]) for name in context.fixed}
    for value in [*context.model.parameters(), *context.model.buffers()]:
        if value.is_floating_point() and id(value) not in kept:
            rounded = value.half().to(value.dtype)
            value.copy_(torch.where(torch.isfinite(rounded), rounded, value))
