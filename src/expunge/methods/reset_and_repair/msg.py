"""MSG: reset the weights on which both gradients agree, repair on the retained data."""

from typing import Literal

import torch
from torch import Tensor, nn

from expunge.config import Fraction, PositiveFloat, PositiveInt, hyper
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.derivatives import gradient
from expunge.engine.edits import Edit, assign
from expunge.engine.method import Method, Steps
from expunge.engine.parameters import Vector, leaves, shared_names
from expunge.engine.phase import Phase
from expunge.engine.select import Mask, select
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import adam, constant, linear, sgd, warm_up


class Msg(Method):
    """Resets the weights whose gradients on forgotten and retained data are alike, then fine-tunes on the retained data.

    The score is ``|g_r - g_f|`` of the mean gradients of the cross entropy over the forgotten data and as many retained examples, drawn
    by the seed. In every convolution the 30 % with the smallest score are drawn anew (He, fan-out), the convolutions' biases too. While
    fine-tuning, the other weights of the convolutions move a tenth as much; biases, norm layers and the head move freely. A net
    without convolutions uses its linear layers except the head.

    ``variant=source_001``: the score is ``min(|g_f|, |g_r|)`` in every tensor, selected weights are multiplied by N(0, 1), and the repair
    is plain Adam at one learning rate without the factor, an epoch of which has as many steps as a pass over the forget set; its setting
    is lr=1e-4 and epochs=29.

    Source: third place of the NeurIPS 2023 unlearning challenge ("Kookmin"), as described in Cadet et al., Deep Unlearn, arXiv 2410.01276;
    the variant is that of arXiv 2511.02435.
    """

    aliases = ("MSG", "kookmin")
    source = "third place of the NeurIPS 2023 unlearning challenge; arXiv 2410.01276"
    deviations = (
        "The tenth acts on the update, weight decay included, not on the gradient.",
        "source_001 takes the minimum of whole gradients; the code adds up minima of batch gradients, which depend on the batch size.",
    )
    needs = {"forget", "retain"}

    reset: Fraction = hyper(0.3, "share of each layer's weights that is reset", low=0.05, high=0.5)
    epochs: PositiveInt = hyper(5, "epochs of repair on the retained data; source_001: in steps of the forget set", low=1, high=30)
    lr: PositiveFloat = hyper(0.001, "largest learning rate", low=1e-4, high=1e-2, log=True)
    warm_up: Fraction = hyper(0.2, "share of the steps in which the learning rate rises; it falls to 0 in the rest; kookmin")
    slow: Fraction = hyper(0.1, "factor of the update of weights that were not reset; kookmin")
    batch_size: PositiveInt = hyper(256, "examples a batch")
    variant: Literal["kookmin", "source_001"] = hyper("kookmin", "which of the two published algorithms of this name")

    def steps(self, ctx: Context) -> Steps:
        """Yield the reset and the repair."""
        forget, retain = gradients(ctx)
        if self.variant == "source_001":
            chosen = select(
                {name: torch.minimum(forget[name].abs(), retain[name].abs()) for name in forget}, bottom=self.reset, per_tensor=True
            )
            yield multiply_by_noise(chosen)
            steps = self.epochs * ctx.stream("forget").steps(self.batch_size)
            passes = -(-steps // ctx.stream("retain").steps(self.batch_size))
            yield self.repair(adam(self.lr), None).but(schedule=constant, epochs=passes, steps=steps)
            return
        score = {name: (retain[name] - forget[name]).abs() for name in resettable(ctx)}
        chosen = select(score, bottom=self.reset, per_tensor=True)
        yield assign(redrawn(ctx, chosen))
        yield self.repair(sgd(self.lr), {name: torch.where(value != 0, 1.0, self.slow) for name, value in chosen.items()})

    def repair(self, optimizer, mask: Mask | None) -> Phase:
        """Return the fine-tuning on the retained data."""
        return Phase(
            [Term("retain", cross_entropy)],
            epochs=self.epochs,
            optimizer=optimizer,
            schedule=warm_up(self.warm_up, then=linear(0.0)),
            batch_size=self.batch_size,
            mask=mask,
            name="repair",
        )


def gradients(ctx: Context) -> tuple[Vector, Vector]:
    """Return the mean gradients over the forgotten data and over as many retained examples, by base name."""
    retain, count = ctx.stream("retain"), len(ctx.stream("forget"))
    drawn = randomness.shuffle(ctx.seed, "msg", 0, retain.index)[:count]
    return gradient(ctx, "forget", reduction="mean"), gradient(ctx, retain.subset(drawn), reduction="mean")


def resettable(ctx: Context) -> list[str]:
    """Return the names of the convolutions' weights; of the linear layers' without the head's if there are no convolutions."""
    layers: dict[str, nn.Module] = ctx.architecture.convs or ctx.architecture.linears
    shared, apart = shared_names(ctx.model), {*ctx.fixed, *ctx.architecture.class_rows(0)}
    return [name for name in dict.fromkeys(shared[f"{layer}.weight"] for layer in layers) if name not in apart]


def redrawn(ctx: Context, chosen: Mask) -> Vector:
    """Return the weights with the chosen entries drawn from He's normal distribution (fan-out), and new biases of their layers."""
    made, values, parameters = ctx.generator("msg"), {}, leaves(ctx.model)
    fresh = ctx.fresh_state("msg")
    for name, mask in chosen.items():
        weight = parameters[name].detach()
        fan_out = weight[:, 0].numel()
        new = torch.randn(weight.shape, generator=made, device=weight.device) * (2 / fan_out) ** 0.5
        values[name] = torch.where(mask != 0, new, weight)
        bias = name.removesuffix("weight") + "bias"
        if bias in parameters and bias not in ctx.fixed:
            values[bias] = fresh[bias]
    return values


def multiply_by_noise(chosen: Mask) -> Edit:
    """Return the edit that multiplies the chosen entries by independent N(0, 1) numbers."""

    def apply(context: Context) -> None:
        made, parameters = context.generator("msg"), leaves(context.model)
        for name, mask in chosen.items():
            value = parameters[name]
            noise: Tensor = torch.randn(value.shape, generator=made, device=value.device)
            value.copy_(torch.where(mask != 0, value * noise, value))

    return Edit("multiply by noise", apply)
