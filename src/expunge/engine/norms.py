"""Which norm layers follow a phase, and their running statistics."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from expunge.engine.context import Context
from expunge.engine.parameters import base_name, is_adapter, is_norm, modes_kept
from expunge.engine.stream import Stream


def layer_of(name: str) -> str:
    """Return the layer to which a parameter belongs, or which its adapter changes."""
    if is_adapter(name):
        return f".{name}".partition(".parametrizations.")[0].removeprefix(".")
    return base_name(name).rpartition(".")[0]


def norms_apart_from(model: nn.Module, movable: set[str]) -> Iterator[nn.Module]:
    """Yield the norm layers that cannot change; one without weights of its own goes with the layer before it."""
    layers = [layer_of(name) for name, _ in model.named_parameters()]
    moves = bool(layers) and layers[0] in movable
    for name, module in model.named_modules():
        if name in layers:
            moves = name in movable
        if is_norm(module) and not moves:
            yield module


@torch.no_grad()
def recalibrate(context: Context, streams: Sequence[Stream], size: int = 256, norms: Sequence[nn.Module] | None = None) -> None:
    """Replace the running statistics of norm layers (all by default) by the average over whole streams, in place.

    Batches are weighted equally, as with BatchNorm's ``momentum=None``.
    """
    chosen: list[Any] = list(filter(is_norm, context.model.modules()) if norms is None else norms)
    before = [module.momentum for module in chosen]
    with modes_kept(context.model):
        context.model.eval()
        try:
            for module in chosen:
                module.reset_running_stats()
                module.momentum = None
                module.train()
            for stream in streams:
                for batch in stream.batches(size, seed=context.seed, shuffle=True):
                    context.model(batch.x)
        finally:
            for module, momentum in zip(chosen, before, strict=True):
                module.momentum = momentum
