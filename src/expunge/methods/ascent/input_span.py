"""What the layers of a model get to see, as the span of their inputs: changes of weights across it leave their outputs as they are."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.engine.context import Context
from expunge.engine.parameters import Vector, shared_names
from expunge.methods.weight_edits.operator_inputs import told


def input_spans(ctx: Context, stream: str, share: float, size: int = 64) -> Vector:
    """Return, for the weight of every convolution and linear layer, the projection onto the main directions of the layer's inputs.

    The directions are eigenvectors of the sum of ``x x^T`` over examples, and over positions of a convolution's patches, in eval mode;
    the first ones are taken whose singular values (square roots of eigenvalues) add up to at most a share of their sum.

    Args:
        ctx: whose model.
        stream: the examples.
        share: of the sum of the singular values, 0 to 1.
        size: examples in a forward pass.

    Returns:
        Symmetric matrices ``[D, D]`` by base name of the weight, D being the entries of one output's weights.
    """
    sums: Vector = {}
    shared, layers = shared_names(ctx.model), {**ctx.architecture.convs, **ctx.architecture.linears}
    named = {name: shared[f"{name}.weight"] for name, layer in layers.items() if _is_readable(layer)}

    def add(name: str, layer: nn.Module, x: Tensor) -> None:
        rows = _rows(layer, x).float()
        sums[named[name]] = sums.get(named[name], 0) + (rows.T @ rows).double()

    with told(ctx, [name for name, weight in named.items() if weight not in ctx.fixed], add):
        for batch in ctx.stream(stream).batches(size):
            ctx.model(batch.x)
    return {name: main_directions(value, share) for name, value in sums.items()}


def main_directions(products: Tensor, share: float) -> Tensor:
    """Return the projection onto the eigenvectors of a sum of ``x x^T`` that hold a share of its singular values."""
    values, vectors = torch.linalg.eigh(products.double())
    singular, vectors = values.clamp_min(0).sqrt().flip(0), vectors.flip(1)
    count = int((singular.cumsum(0) <= share * singular.sum()).sum())
    return (vectors[:, :count] @ vectors[:, :count].T).to(products.dtype)


def across(gradient: Tensor, span: Tensor) -> Tensor:
    """Return the gradient of a weight ``[out, ...]`` without its component in the span of the inputs ``[D, D]``."""
    rows = gradient.flatten(1)
    return (rows - rows @ span.to(rows.dtype)).view_as(gradient)


def _is_readable(module: nn.Module) -> bool:
    """Return whether the patches that a layer sees can be listed: linear layers, and 2-d convolutions padded with zeros."""
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def _rows(module: nn.Module, x: Tensor) -> Tensor:
    """Return what multiplies one output's weights, one row for each example, position and group of channels."""
    if not isinstance(module, nn.Conv2d):
        return x.flatten(0, -2)
    patches = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
    each = module.weight[0].numel()
    return patches.view(len(x), module.groups, each, -1).transpose(2, 3).reshape(-1, each)
