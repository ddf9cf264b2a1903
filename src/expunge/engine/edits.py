"""One-shot weight changes. Each function returns an `Edit`; the engine applies it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expunge.engine.context import Context
from expunge.engine.norms import recalibrate as recalibrate_norms
from expunge.engine.parameters import Vector, leaves, owner_of
from expunge.engine.select import Mask


@dataclass(frozen=True)
class Edit:
    """Change the weights once.

    Attributes:
        name: what it is called in logs.
        apply: changes the context's model in place; runs without gradients.
        reshapes: whether the edit changes the shape of a parameter, so that masks by name no longer fit.
        needs: what it may read; `run` sets it to what its maker declares.
        anew: whether every weight gets a new random value, so that nothing of the original is left.
    """

    name: str
    apply: Callable[[Context], None]
    reshapes: bool = False
    needs: frozenset[str] | None = None
    anew: bool = False


def add(vector: Mapping[str, Tensor], scale: float = 1.0) -> Edit:
    """Add ``scale * vector`` to the parameters that it names."""

    def apply(context: Context) -> None:
        parameters = leaves(context.model)
        for name, value in vector.items():
            parameters[name].add_(value.to(parameters[name].dtype), alpha=scale)

    return Edit("add", apply)


def scale(factors: Mapping[str, Tensor]) -> Edit:
    """Multiply the named parameters by factors, entry by entry."""

    def apply(context: Context) -> None:
        parameters = leaves(context.model)
        for name, factor in factors.items():
            parameters[name].mul_(factor)

    return Edit("scale", apply)


def add_noise(deviation: Mapping[str, Tensor], *purpose: object) -> Edit:
    """Add independent normal noise with a standard deviation for each entry."""

    def apply(context: Context) -> None:
        made = context.generator("noise", *purpose)
        parameters = leaves(context.model)
        for name, value in deviation.items():
            parameters[name].add_(torch.randn(value.shape, generator=made, device=value.device) * value)

    return Edit("add noise", apply)


def reinitialise(names: Iterable[str] | None = None, *purpose: object, buffers: bool = True) -> Edit:
    """Give the named parameters (all by default) new random values, and norm layers among them new statistics.

    Of those that are named, what the model's author has frozen stays.
    """
    named = None if names is None else set(names)

    def apply(context: Context) -> None:
        fresh = context.fresh_state(*purpose)
        wanted = None if named is None else named - context.fixed
        chosen = leaves(context.model).keys() if wanted is None else wanted
        owners = {owner_of(context.model, name)[0] for name in chosen}
        for name, parameter in leaves(context.model).items():
            if name in chosen:
                parameter.copy_(fresh[name])
        if buffers:
            for name, buffer in context.model.named_buffers():
                if (wanted is None or owner_of(context.model, name)[0] in owners) and name in fresh:
                    buffer.copy_(fresh[name])

    return Edit("reinitialise", apply, anew=named is None)


def reinitialise_where(mask: Mask, *purpose: object) -> Edit:
    """Give the entries where the mask is not zero new random values from the layer's own initialisation."""

    def apply(context: Context) -> None:
        fresh = context.fresh_state(*purpose)
        parameters = leaves(context.model)
        for name, value in mask.items():
            parameters[name].copy_(torch.where(value != 0, fresh[name], parameters[name]))

    return Edit("reinitialise", apply)


def assign(values: Vector) -> Edit:
    """Set the named parameters to given values."""

    def apply(context: Context) -> None:
        parameters = leaves(context.model)
        for name, value in values.items():
            parameters[name].copy_(value)

    return Edit("assign", apply)


def zero_where(mask: Mask) -> Edit:
    """Set entries to zero where the mask is zero: pruning."""
    return scale({name: (value != 0).to(value.dtype) for name, value in mask.items()})


def recalibrate(*streams: str) -> Edit:
    """Estimate the norm layers' running statistics anew on whole streams."""
    return Edit("recalibrate", lambda context: recalibrate_norms(context, [context.stream(name) for name in streams]))


def resize_head(rows: int) -> Edit:
    """Give the head more output rows (fresh ones) or fewer (the last are dropped); the other rows stay bit for bit."""

    def apply(context: Context) -> None:
        head: Any = context.architecture.head
        fresh = nn.Linear(head.in_features, rows, bias=head.bias is not None, device=head.weight.device, dtype=head.weight.dtype)
        bound = head.in_features**-0.5
        made = context.generator("resize head", rows)
        for new, old in ((fresh.weight, head.weight), (fresh.bias, head.bias)):
            if old is None:
                continue
            new.copy_((torch.rand(new.shape, generator=made, device=new.device) * 2 - 1) * bound)
            shared = min(rows, len(old))
            new[:shared] = old[:shared]
        head.weight = nn.Parameter(fresh.weight.detach().clone())
        if head.bias is not None:
            head.bias = nn.Parameter(fresh.bias.detach().clone())
        head.out_features = rows

    return Edit("resize head", apply, reshapes=True)
