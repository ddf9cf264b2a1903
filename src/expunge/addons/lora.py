"""Low-rank adapters."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from expunge.addons.applicability import (
    changes_nothing,
    changes_weights_after_steps,
    needs_all_parameters,
    takes_no_gradient_step,
    trains_anew,
)
from expunge.addons.matrices import in_attention, is_convolution, weights
from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.parameters import leaves, shared_names
from expunge.engine.phase import Phase
from expunge.errors import NotApplicable

Targets = Literal["all", "convolutions", "linears", "attention"]


class Adapter(nn.Module):
    """The reparametrisation ``W0 + mask * scale * reshape(B A)`` of a weight ``[out, ...]``.

    For a convolution this is a k x k convolution to ``rank`` channels followed by a 1 x 1 convolution.

    Attributes:
        A: ``[rank, in * kernel]``, drawn uniformly as a linear layer's weight.
        B: ``[out, rank]``, zero, so that nothing changes at first.
        mask: factors of the update, set by the phase.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, made: torch.Generator):
        super().__init__()
        inputs = weight[0].numel()
        drawn = torch.rand(rank, inputs, generator=made, device=weight.device, dtype=weight.dtype)
        self.A = nn.Parameter((drawn * 2 - 1) * inputs**-0.5)
        self.B = nn.Parameter(torch.zeros(len(weight), rank, device=weight.device, dtype=weight.dtype))
        self.scale = scale
        self.mask: Tensor | None = None

    def forward(self, original: Tensor) -> Tensor:
        """Return the weight that the layer computes with."""
        update = self.scale * (self.B @ self.A).view_as(original)
        return original + (update if self.mask is None else self.mask * update)


class Lora(Addon):
    """Lets every phase of a method change each weight by a matrix of low rank only, and everything else not at all.

    Convolutions, linear layers and attention projections get the update ``alpha / rank * B A``, where a convolution's weight counts as a
    matrix ``[out, in * kernel]``. Biases, norm layers and running statistics are frozen; the head moves freely, gets an adapter or is
    frozen. Adapters are put in before a phase and merged into the weights after it, so that edits, and what a method
    computes between its phases, see plain weights. A method that climbs a divergence from the original (`scrub`) needs statistics that move
    to get away from zero, where there is no slope: its first ascent does nothing here.

    Source: Hu et al., LoRA, ICLR 2022, arXiv 2106.09685; for unlearning: PruneLoRA, arXiv 2411.11907, with Adam, lr=1e-3, and rank 16 and
    alpha 32 for transformers.
    """

    aliases = ("LoRA",)
    source = "arXiv 2106.09685; arXiv 2411.11907"
    deviations = (
        "No dropout on the adapters' input: they change the weight itself, which reaches layers that attention reads without calling.",
        "The stem has an adapter too, and running statistics are frozen; the code does neither.",
    )

    rank: PositiveInt = hyper(8, "rank of the update", low=2, high=64, log=True)
    alpha: PositiveFloat = hyper(16.0, "scale of the update, divided by the rank", low=4, high=64, log=True)
    targets: Targets = hyper("all", "layers that get adapters")
    head: Literal["full", "adapter", "frozen"] = hyper(
        "full", "whether the layer that makes the logits is trained fully, by adapter, or not"
    )

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, phases with adapters.

        Raises:
            NotApplicable: nothing that a phase moves has an adapter, a rule of the phase changes weights after each step, or layers share a
                weight.
        """
        self.check_apart(ctx, [f"{name}.{attribute}" for name, _, attribute in self.places(ctx)])
        for step in steps:
            if not isinstance(step, Phase):
                yield step
                continue
            if step.after_step:
                raise NotApplicable("addons=lora", f"the phase {step.name!r} changes weights after each step, and adapters are no weights.")
            with self.adapters(ctx) as added:
                yield step.but(trainable=self.trainable(ctx, step, added), norm="frozen")

    @contextmanager
    def adapters(self, ctx: Context) -> Iterator[dict[str, str]]:
        """Put adapters in, yield ``{adapter parameter: base name}``, and merge them, whatever happens."""
        order = {module: list(module._parameters) for module in ctx.model.modules()}
        places = self.places(ctx)
        for name, module, attribute in places:
            made = ctx.generator("lora", ctx.phase, name, attribute)
            adapter = Adapter(getattr(module, attribute), self.rank, self.alpha / self.rank, made)
            parametrize.register_parametrization(module, attribute, adapter)
        try:
            yield {
                f"{name}.parametrizations.{attribute}.0.{part}".removeprefix("."): f"{name}.{attribute}".removeprefix(".")
                for name, _, attribute in places
                for part in "AB"
            }
        finally:
            for _, module, attribute in places:
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)
                for key in order[module]:  # back to the old order of parameters, which flat vectors follow
                    module._parameters[key] = module._parameters.pop(key)

    def places(self, ctx: Context) -> list[tuple[str, nn.Module, str]]:
        """Return layer, module and attribute of every weight that gets an adapter."""
        return [(name, module, attribute) for name, module, attribute in weights(ctx.model) if self.wants(ctx, name, module)]

    def check_apart(self, ctx: Context, names: list[str]) -> None:
        """Refuse weights that several layers share.

        Raises:
            NotApplicable: an adapter on one of the layers would part them.
        """
        shared = shared_names(ctx.model)
        for name in names:
            others = [other for other, first in shared.items() if first == shared[name] and other != name]
            if others:
                problem = f"the model uses one tensor as {name!r} and as {others[0]!r}, and an adapter would part the two."
                raise NotApplicable("addons=lora", problem, "Choose another add-on, or targets that leave this tensor out.")

    def wants(self, ctx: Context, name: str, module: nn.Module) -> bool:
        """Return whether a layer gets an adapter."""
        if name == ctx.architecture.head_name:
            return self.head == "adapter"
        if self.targets == "attention":
            return in_attention(ctx.model, name)
        return self.targets == "all" or (self.targets == "convolutions") == is_convolution(module)

    def trainable(self, ctx: Context, phase: Phase, added: dict[str, str]) -> frozenset[str]:
        """Return the names of what the phase moves: adapters of the weights that it would move, and the head."""
        own = leaves(ctx.model)
        wanted = phase.trainable if phase.trainable is not None else frozenset(name for name in own if own[name].requires_grad)
        chosen = {adapter for adapter, name in added.items() if name in wanted}
        if self.head == "full":
            chosen |= set(ctx.architecture.class_rows(0)) & wanted
        if not chosen:
            raise NotApplicable(
                "addons=lora", f"the phase {phase.name!r} moves only {sorted(wanted)[:3]}, and none of them has an adapter."
            )
        return frozenset(chosen)

    def refuse(self, method: Method) -> str:
        """Refuse methods without gradient steps, those that train a new model, and those with rules that are made for weights."""
        without_steps = changes_nothing(method) or trains_anew(method) or takes_no_gradient_step(method)
        return without_steps or changes_weights_after_steps(method) or needs_all_parameters(method)
