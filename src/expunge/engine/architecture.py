"""Where a classifier's head, features and blocks are, for any module from pictures to logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.engine.parameters import leaves, modes_kept
from expunge.errors import BadInput, nearest

_CONVOLUTIONS = nn.modules.conv._ConvNd
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PROBE = 8
"""Pictures that are enough to recognise the logits by their values."""


class Capture:
    """What the head received in the latest forward pass.

    Attributes:
        features: the head's input, ``[B, D]``, part of the graph; None before the first forward pass.
    """

    features: Tensor | None = None


class Architecture:
    """The parts of a classifier, found by running it once and by the types and nesting of its modules.

    Detection runs in evaluation mode without gradients and leaves weights, buffers, modes and random numbers as they are.
    Names are those that the model has without reparametrisation, so one Architecture serves every copy of a model.
    Only modules that the forward pass calls are listed: an adapter on any other would be bypassed in silence.

    Args:
        model: from ``x`` to logits ``[B, num_classes]``.
        example: a few inputs ``[B, ...]``, B >= 1, on the model's device.
        head: name of the layer that makes the logits; found by its values if None.

    Attributes:
        head_name: name of the layer that makes the logits.
        blocks: names of the repeating units in forward order, from the stem to the head. A layer without a matrix of weights,
            such as a normalisation, belongs to the unit before it; free parameters, such as a class token, to the stem.
        members: the modules of each block, by name.
        convs: the convolutions by name, in forward order.
        linears: the linear layers by name, in forward order.
        norms: the normalisation layers by name, in forward order.
        embed: the layers that receive the input: the first convolution or linear layer, and all lookup tables.

    Raises:
        BadInput: the model does not return logits, or no layer that makes them can be found.
    """

    def __init__(self, model: nn.Module, example: Tensor, head: str | None = None):
        self.model = model
        trace = _run(model, example[:_PROBE])
        self.head_name = _named_head(model, trace, head) if head else _find_head(model, trace)
        self.members = _blocks(model, self.head_name, trace.order)
        self.blocks = tuple(self.members)
        self._convs = trace.called(model, _CONVOLUTIONS)
        self._linears = trace.called(model, nn.Linear)
        self._norms = [name for name in trace.called(model, nn.Module) if _is_norm(model.get_submodule(name))]
        inputs = [name for name in trace.called(model, (_CONVOLUTIONS, nn.Linear)) if name != self.head_name][:1] or [self.head_name]
        self._embed = inputs + trace.called(model, nn.Embedding)

    def on(self, model: nn.Module) -> "Architecture":
        """Return the same names bound to a copy of the model, reparametrised or not."""
        other = copy(self)
        other.model = model
        return other

    def _bound(self, names: list[str]) -> dict[str, nn.Module]:
        return {name: self.model.get_submodule(name) for name in names}

    @property
    def head(self) -> nn.Module:
        """The layer that makes the logits: ``nn.Linear``, or a convolution that sees one pixel."""
        return self.model.get_submodule(self.head_name)

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.head.weight.shape[0]

    @property
    def num_features(self) -> int:
        """Number of features D, the inputs of the head."""
        return self.head.weight[0].numel()

    convs = property(lambda self: self._bound(self._convs))
    linears = property(lambda self: self._bound(self._linears))
    norms = property(lambda self: self._bound(self._norms))
    embed = property(lambda self: self._bound(self._embed))

    @contextmanager
    def capture_features(self, model: nn.Module | None = None) -> Iterator[Capture]:
        """Yield a `Capture` whose ``features`` are those of the latest forward pass, in any mode, with gradients.

        Args:
            model: a copy of the model; the model itself if None.
        """
        captured = Capture()

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            captured.features = inputs[0].flatten(1)

        handle = (model or self.model).get_submodule(self.head_name).register_forward_pre_hook(keep)
        try:
            yield captured
        finally:
            handle.remove()

    def forward_with_features(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[B, C]`` and features ``[B, D]`` of one forward pass of a copy of the model, in its own mode."""
        with self.capture_features(model) as captured:
            logits = model(x)
        assert captured.features is not None
        return logits, captured.features

    def features(self, x: Tensor) -> Tensor:
        """Return the features ``[B, D]`` of the model, in its own mode."""
        return self.forward_with_features(self.model, x)[1]

    def logits(self, features: Tensor) -> Tensor:
        """Return the head's output ``[B, C]`` for features ``[B, D]``."""
        return _apply(self.head, features)

    def parameters_of(self, block: str) -> list[str]:
        """Return the base names of a block's parameters, in the order of the model."""
        if block not in self.members:
            raise BadInput("block", f"no block is called {block!r}.", nearest(block, self.blocks))
        return [name for name in leaves(self.model) if self._block_of(name) == block]

    def last_blocks(self, k: int) -> list[str]:
        """Return the base names of the parameters of the last ``k`` blocks; ``k=1`` is the head alone.

        Raises:
            BadInput: fewer than ``k`` blocks, or ``k`` not positive.
        """
        if not 1 <= k <= len(self.blocks):
            raise BadInput("last_blocks", f"expected 1 to {len(self.blocks)}, the number of blocks, got {k}.")
        wanted = set(self.blocks[-k:])
        return [name for name in leaves(self.model) if self._block_of(name) in wanted]

    def _block_of(self, parameter: str) -> str:
        for block, modules in self.members.items():
            if any(parameter.startswith(module + ".") for module in modules):
                return block
        return self.blocks[0]

    def class_rows(self, label: int) -> dict[str, int]:
        """Return ``{parameter: row}`` of the head's entries that make the logit of a class, by base name."""
        if not 0 <= label < self.num_classes:
            raise BadInput("class", f"expected 0 to {self.num_classes - 1}, got {label}.")
        names = ["weight"] if self.head.bias is None else ["weight", "bias"]
        return {f"{self.head_name}.{name}": label for name in names}


@dataclass
class _Trace:
    """One forward pass: the logits, when each module was called first, and what layers that may be the head saw and said."""

    logits: Tensor
    order: dict[str, int] = field(default_factory=dict)
    candidates: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def called(self, model: nn.Module, kind: type | tuple[type, ...]) -> list[str]:
        modules = dict(model.named_modules())
        return [name for name in sorted(self.order, key=self.order.__getitem__) if isinstance(modules[name], kind)]


def _run(model: nn.Module, example: Tensor) -> _Trace:
    order: dict[str, int] = {}
    candidates: dict[str, tuple[Tensor, Tensor]] = {}
    handles = []

    def on_call(name: str):
        def note(_module: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
            order.setdefault(name, len(order))

        return note

    def on_return(name: str):
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if output.flatten(1).shape == (len(example), module.weight.shape[0]) and inputs[0][0].numel() == module.weight[0].numel():
                candidates.pop(name, None)
                candidates[name] = (inputs[0].flatten(1), output.flatten(1))

        return keep

    for name, module in model.named_modules():
        if "parametrizations" in name.split("."):
            continue
        handles.append(module.register_forward_pre_hook(on_call(name)))
        if isinstance(module, nn.Linear | _CONVOLUTIONS):
            handles.append(module.register_forward_hook(on_return(name)))
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    try:
        with modes_kept(model), torch.no_grad(), torch.random.fork_rng(devices=[example.device] if example.is_cuda else []):
            model.eval()
            logits = torch.func.functional_call(model, buffers, (example,))
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(logits, Tensor):
        raise BadInput("model", f"returns a {type(logits).__name__}, expected a tensor of logits.", "Wrap it in a module that does.")
    if logits.ndim != 2 or len(logits) != len(example):
        raise BadInput(
            "model", f"returns shape {list(logits.shape)} for {len(example)} examples, expected logits [{len(example)}, classes]."
        )
    if not logits.isfinite().all():
        raise BadInput("model", "returns logits that are not finite.", "Its weights are damaged, or its input is.")
    return _Trace(logits, order, candidates)


def _find_head(model: nn.Module, trace: _Trace) -> str:
    for name in reversed(trace.candidates):
        features, output = trace.candidates[name]
        if torch.equal(output.to(trace.logits.dtype), trace.logits) and _is_head(model.get_submodule(name), features, trace.logits):
            return name
    wide = [name for name, (_, output) in trace.candidates.items() if output.shape == trace.logits.shape]
    hint = f"Layers that could be it: {', '.join(wide)}." if wide else "No layer has as many outputs."
    remedy = 'If the model ends with softmax or a scale, remove it; otherwise name the layer, for example head="net.fc".'
    raise BadInput("model", f"no linear layer's output equals the logits. {hint}", remedy)


def _is_head(head: nn.Module, features: Tensor, logits: Tensor) -> bool:
    """Guards against a subclass that computes something else, and against logits that were changed in place."""
    tolerance = 1e-3 * float(logits.abs().max()) + 1e-6
    return bool((_apply(head, features).to(logits.dtype) - logits).abs().max() <= tolerance)


def _apply(head: nn.Module, features: Tensor) -> Tensor:
    return F.linear(features, head.weight.flatten(1), head.bias)


def _named_head(model: nn.Module, trace: _Trace, name: str) -> str:
    modules = dict(model.named_modules())
    if name not in modules:
        raise BadInput("head", f"the model has no module {name!r}.", nearest(name, trace.called(model, nn.Linear)))
    if not isinstance(modules[name], nn.Linear | _CONVOLUTIONS):
        found = type(modules[name]).__name__
        raise BadInput("head", f"{name!r} is a {found}, expected a linear layer.", nearest(name, trace.called(model, nn.Linear)))
    if name not in trace.order:
        raise BadInput("head", f"the forward pass does not call {name!r}.", nearest(name, trace.called(model, nn.Linear)))
    return name


def _blocks(model: nn.Module, head: str, order: dict[str, int]) -> dict[str, tuple[str, ...]]:
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


def _is_norm(module: nn.Module) -> bool:
    if _children(module):
        return False
    return isinstance(module, _NORMS) or type(module).__name__.endswith(("Norm", "Norm2d"))


def _is_weight_layer(module: nn.Module) -> bool:
    return not _is_norm(module) and any(parameter.ndim >= 2 for parameter in module.parameters())


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
    return any(_is_repeated(part) for part in module.modules() if isinstance(part, _CONTAINERS))


def _is_repeated(container: nn.Module) -> bool:
    kinds = [type(child) for child in _children(container).values() if _children(child) and _weight_layers(child) > 1]
    return len(kinds) > len(set(kinds))
