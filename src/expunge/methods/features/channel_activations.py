"""Which channels of which layers the forget set excites: layers with the norm layers behind them, and mean activations."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from expunge.engine.context import Context
from expunge.engine.parameters import modes_kept


@torch.no_grad()
def layers_and_norms(ctx: Context) -> dict[str, str]:
    """Return ``{layer: norm layer right behind it, or ""}`` of all convolutions and linear layers but the head, in forward order."""
    called: list[str] = []
    architecture = ctx.architecture
    parts = {**architecture.convs, **architecture.linears, **architecture.norms}
    handles = [module.register_forward_hook(lambda *_, name=name: called.append(name)) for name, module in parts.items()]
    try:
        with modes_kept(ctx.model):
            ctx.model.eval()
            ctx.model(next(ctx.stream("forget").batches(2)).x)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, following in zip(called, [*called[1:], ""], strict=True):
        if name not in architecture.norms and name != architecture.head_name:
            found[name] = following if following in architecture.norms and _fits(parts[name], parts[following]) else ""
    return found


def _fits(layer: nn.Module, norm: nn.Module) -> bool:
    own, after = (getattr(module, "weight", None) for module in (layer, norm))
    return isinstance(own, Tensor) and isinstance(after, Tensor) and after.shape == own.shape[:1]


@torch.no_grad()
def mean_activations(ctx: Context, layers: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the mean positive part of every channel over the forget set, ``{layer: [channels]}``, in eval mode."""
    total: dict[str, Tensor] = {}
    with modes_kept(ctx.model), _added_up(ctx, layers, total):
        ctx.model.eval()
        for batch in ctx.stream("forget").batches(256):
            ctx.model(batch.x)
    return {name: value / len(ctx.stream("forget")) for name, value in total.items()}


@contextmanager
def _added_up(ctx: Context, layers: Mapping[str, str], total: dict[str, Tensor]) -> Iterator[None]:
    def add(name: str, output: Tensor) -> None:
        channel = 1 if name in ctx.architecture.convs else output.dim() - 1
        others = [axis for axis in range(1, output.dim()) if axis != channel]
        value = output.float().clamp_min(0)
        total[name] = total.get(name, 0) + (value.mean(others) if others else value).sum(0)

    handles = [
        ctx.model.get_submodule(norm or name).register_forward_hook(lambda _module, _inputs, output, name=name: add(name, output))
        for name, norm in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
