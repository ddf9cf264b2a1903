"""Which tensors of a model are weights of its layers: what can be pruned, and what an adapter can change."""

from collections.abc import Iterator

from torch import nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (layer name, layer, attribute) of every weight of a convolution, linear layer or attention projection.

    The projections that `nn.MultiheadAttention` holds as plain parameters are included, and so is its output layer, whose weight it
    reads without calling it.
    """
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
            yield name, module, "weight"
        elif isinstance(module, nn.MultiheadAttention):
            for attribute in _PROJECTIONS:
                if getattr(module, attribute, None) is not None:
                    yield name, module, attribute


def is_convolution(module: nn.Module) -> bool:
    """Return whether a layer is a convolution."""
    return isinstance(module, _CONVOLUTIONS)


def is_patch_embedding(module: nn.Module) -> bool:
    """Return whether a layer cuts pictures into patches that do not overlap: an embedding in the form of a convolution."""
    return isinstance(module, nn.Conv2d) and module.kernel_size == module.stride and module.kernel_size[0] > 1


def in_attention(model: nn.Module, name: str) -> bool:
    """Return whether a layer is an attention layer or lies in one, by the names of the classes around it."""
    path = name.split(".")
    owners = [model.get_submodule(".".join(path[:length])) for length in range(1, len(path) + 1)]
    return any("attention" in type(owner).__name__.lower() for owner in owners)
