"""How far the weights of two models lie apart, layer by layer and block by block."""

from collections.abc import Mapping

import numpy as np
from torch import nn

from expunge.engine.architecture import Architecture
from expunge.engine.parameters import Vector, effective
from expunge.errors import BadInput, nearest


def by_layer(model: nn.Module, reference: nn.Module) -> dict[str, float]:
    """Return ``|theta - theta_ref| / |theta_ref|`` of every parameter by base name, Euclidean; inf where the reference is all zero.

    Models trained from different seeds lie far apart whatever they know, so a distance to a retrained model means something beside that
    of two retrained models only. Running statistics are no parameters and are left out; see `buffers`.

    Raises:
        BadInput: the two have different parameters or shapes.
    """
    return _relative(effective(model), effective(reference))


def buffers(model: nn.Module, reference: nn.Module) -> dict[str, float]:
    """Return the relative distance of every floating point buffer, such as the running statistics of norm layers."""
    first, second = ({name: value for name, value in net.named_buffers() if value.is_floating_point()} for net in (model, reference))
    return _relative(first, second)


def by_block(architecture: Architecture, model: nn.Module, reference: nn.Module) -> dict[str, float]:
    """Return the relative distance of every block's parameters taken together, in forward order; the last block is the head."""
    first, second = effective(model), effective(reference)
    _check_same(first, second)
    blocks = {block: architecture.parameters_of(block) for block in architecture.blocks}
    return {
        block: _distance({name: first[name] for name in names}, {name: second[name] for name in names}) for block, names in blocks.items()
    }


def overall(model: nn.Module, reference: nn.Module, without: tuple[str, ...] = ()) -> float:
    """Return the relative distance of all parameters taken together.

    Args:
        model: one model.
        reference: the other; its norm is the unit.
        without: base names that are left out, for example the head's, so that 0 means an encoder that is equal bit for bit.
    """
    first, second = ({name: value for name, value in effective(net).items() if name not in without} for net in (model, reference))
    _check_same(first, second)
    return _distance(first, second)


def _relative(first: Mapping, second: Mapping) -> dict[str, float]:
    _check_same(first, second)
    return {name: _distance({name: first[name]}, {name: second[name]}) for name in first}


def _check_same(first: Mapping, second: Mapping) -> None:
    odd = sorted(first.keys() ^ second.keys())
    if odd:
        raise BadInput("models", f"only one of them has the parameter {odd[0]!r}.", nearest(odd[0], first.keys() & second.keys()))
    for name in first:
        if first[name].shape != second[name].shape:
            raise BadInput("models", f"{name!r} has shapes {list(first[name].shape)} and {list(second[name].shape)}.")


def _distance(first: Vector, second: Vector) -> float:
    apart = sum(float((first[name].detach().double().cpu() - second[name].detach().double().cpu()).square().sum()) for name in first)
    size = sum(float(value.detach().double().square().sum()) for value in second.values())
    if size == 0:
        return float("inf") if apart > 0 else 0.0
    return float(np.sqrt(apart / size))
