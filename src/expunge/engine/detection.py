"""How a classifier is put together, read off one forward pass and the nesting of its modules."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.engine.parameters import modes_kept
from expunge.errors import BadInput, nearest

CONVOLUTIONS = nn.modules.conv._ConvNd
_HEADS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class Trace:
    """One forward pass: the logits, when each module was called first, and the features that each possible head saw last."""

    logits: Tensor
    order: dict[str, int] = field(default_factory=dict)
    candidates: dict[str, Tensor] = field(default_factory=dict)

    def called(self, model: nn.Module, kind: type | tuple[type, ...]) -> list[str]:
        """Return the names of the called modules of some types, in the order of their first call."""
        modules = dict(model.named_modules())
        return [name for name in sorted(self.order, key=self.order.__getitem__) if isinstance(modules[name], kind)]


def run(model: nn.Module, example: Tensor) -> Trace:
    """Return the trace of one forward pass in evaluation mode, which leaves the model and all random numbers as they are.

    Raises:
        BadInput: the model does not return finite logits ``[B, classes]``.
    """
    order: dict[str, int] = {}
    candidates: dict[str, Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if "parametrizations" in name.split("."):
            continue
        handles.append(module.register_forward_pre_hook(_note_order(order, name)))
        if isinstance(module, _HEADS):
            handles.append(module.register_forward_hook(_keep_features(candidates, name, len(example))))
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    try:
        with modes_kept(model), torch.no_grad(), torch.random.fork_rng(devices=[example.device] if example.is_cuda else []):
            model.eval()
            logits = torch.func.functional_call(model, buffers, (example,))
    finally:
        for handle in handles:
            handle.remove()
    _check_logits(logits, len(example))
    return Trace(logits, order, candidates)


def _note_order(order: dict[str, int], name: str) -> Callable[..., None]:
    def note(_module: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
        order.setdefault(name, len(order))

    return note


def _keep_features(candidates: dict[str, Tensor], name: str, examples: int) -> Callable[..., None]:
    def keep(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        candidates.pop(name, None)
        if not inputs or inputs[0].ndim < 2:
            return
        features = head_input(module, inputs[0])
        if features.shape == (examples, weight_of(module)[0].numel()):
            candidates[name] = features.clone()

    return keep


def _check_logits(logits: object, examples: int) -> None:
    if not isinstance(logits, Tensor):
        raise BadInput("model", f"returns a {type(logits).__name__}, expected a tensor of logits.", "Wrap it in a module that does.")
    if logits.ndim != 2 or len(logits) != examples:
        raise BadInput("model", f"returns shape {list(logits.shape)} for {examples} examples, expected logits [{examples}, classes].")
    if not logits.isfinite().all():
        raise BadInput("model", "returns logits that are not finite.", "Its weights are damaged, or its input is.")


def find_head(model: nn.Module, trace: Trace) -> str:
    """Return the name of the last called layer that is linear in its input and gives the logits.

    Raises:
        BadInput: no such layer, or several when all logits are zero.
    """
    wide = {name: model.get_submodule(name) for name in trace.candidates}
    wide = {name: layer for name, layer in wide.items() if len(weight_of(layer)) == trace.logits.shape[1]}
    told_apart = len(wide) < 2 or bool(trace.logits.any())
    for name, layer in reversed(wide.items()):
        if told_apart and _same(apply_head(layer, trace.candidates[name]), trace.logits):
            return name
    hint = f"Layers that could be it: {', '.join(wide)}." if wide else "No layer has as many outputs."
    remedy = 'If the model ends with softmax or a scale, remove it; otherwise name the layer, for example head="net.fc".'
    raise BadInput("model", f"no linear layer's output equals the logits. {hint}", remedy)


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding, coarse enough for half precision and TF32."""
    tolerance = max(torch.finfo(b.dtype).eps ** 0.5, 1e-3)
    return bool((a.to(b.dtype) - b).abs().max() <= tolerance * b.abs().max())


def head_input(head: nn.Module, x: Tensor) -> Tensor:
    """Return the head's input as ``[B, D]``: the mean over pixels or tokens when the head sees several."""
    if x[0].numel() == weight_of(head)[0].numel():
        return x.flatten(1)
    if isinstance(head, nn.Linear):
        return x.flatten(1, -2).mean(1)
    return x.flatten(2).mean(2)


def apply_head(head: nn.Module, features: Tensor) -> Tensor:
    """Return logits ``[B, C]`` for features ``[B, D]``."""
    return F.linear(features, weight_of(head).flatten(1), cast("Tensor | None", head.bias))


def weight_of(layer: nn.Module) -> Tensor:
    """Return the layer's matrix of weights, as it is computed with."""
    return cast(Tensor, layer.weight)


def named_head(model: nn.Module, trace: Trace, name: str) -> str:
    """Return ``name`` if it is a linear layer that the forward pass calls.

    Raises:
        BadInput: it is not.
    """
    modules = dict(model.named_modules())
    if name not in modules:
        raise BadInput("head", f"the model has no module {name!r}.", nearest(name, trace.called(model, nn.Linear)))
    if not isinstance(modules[name], _HEADS):
        found = type(modules[name]).__name__
        raise BadInput("head", f"{name!r} is a {found}, expected a linear layer.", nearest(name, trace.called(model, nn.Linear)))
    if name not in trace.order:
        raise BadInput("head", f"the forward pass does not call {name!r}.", nearest(name, trace.called(model, nn.Linear)))
    return name


def blocks(model: nn.Module, head: str, order: dict[str, int]) -> dict[str, tuple[str, ...]]:
    """Return ``{block: modules}`` in forward order."""
    parts = []
    for name, opens in _parts(model, "", head):
        calls = [call for module, call in order.items() if module == name or module.startswith(name + ".")]
        if calls:
            parts.append((name == head, min(calls), name, opens))
    blocks: dict[str, tuple[str, ...]] = {}
    for _, _, name, opens in sorted(parts):
        if opens or not blocks:
            blocks[name] = (name,)
        else:
            last = next(reversed(blocks))
            blocks[last] = (*blocks[last], name)
    return blocks


def _parts(module: nn.Module, name: str, head: str) -> Iterator[tuple[str, bool]]:
    """Yield the units below a module, and whether each opens a block of its own."""
    if not _has_parameters(module):
        return
    if name == head or not _children(module):
        yield name, name == head or _is_weight_layer(module)
    elif not name or head.startswith(name + ".") or _is_stage(module):
        for child_name, child in _children(module).items():
            yield from _parts(child, f"{name}.{child_name}" if name else child_name, head)
    else:
        yield name, True


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Return the children that hold weights of the model, by name."""
    children = {name: child for name, child in module.named_children() if name != "parametrizations"}
    return {name: child for name, child in children.items() if _has_parameters(child)}


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def is_normalisation(module: nn.Module) -> bool:
    """Return whether a module is one normalisation layer, by its type or its type's name."""
    if _children(module):
        return False
    return isinstance(module, _NORMS) or type(module).__name__.endswith(("Norm", "Norm2d"))


def _is_weight_layer(module: nn.Module) -> bool:
    return not is_normalisation(module) and any(parameter.ndim >= 2 for parameter in module.parameters())


def _weight_layers(module: nn.Module) -> int:
    return sum(not _children(part) and _is_weight_layer(part) for part in module.modules())


def _is_stage(module: nn.Module) -> bool:
    """Return whether a module is a row of units, not a unit: a container of several layers, or one that holds repeated units.

    A container of one weight layer (convolution, normalisation, activation) is a unit, and so is a module whose containers
    hold only such units, for example an inverted residual.
    """
    children = list(_children(module).values())
    if type(module) in _CONTAINERS:
        return any(_children(child) for child in children) or _weight_layers(module) > 1
    if len(children) > 1 and len({type(child) for child in children}) == 1 and _is_repeated(module):
        return True
    return any(_is_repeated(part) for part in module.modules() if isinstance(part, _CONTAINERS))


def _is_repeated(container: nn.Module) -> bool:
    kinds = [type(child) for child in _children(container).values() if _children(child) and _weight_layers(child) > 1]
    return len(kinds) > len(set(kinds))
