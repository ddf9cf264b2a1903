"""Where a classifier's head, features and blocks are, for any module from pictures to logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

from torch import Tensor, nn

from expunge.engine import detection
from expunge.engine.detection import CONVOLUTIONS
from expunge.engine.divided import gathered
from expunge.engine.parameters import leaves, shared_names
from expunge.errors import BadInput, nearest

_PROBE = 8
"""Pictures that are enough to recognise the logits by their values."""


class Capture:
    """What the head received in the latest forward pass.

    Attributes:
        features: the head's input, ``[B, D]``, part of the graph (the mean over pixels or tokens when the head sees several);
            None before the first forward pass.
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
        trace = detection.run(model, example[:_PROBE])
        self.head_name = detection.named_head(model, trace, head) if head else detection.find_head(model, trace)
        self.members = detection.blocks(model, self.head_name, trace.order)
        self.blocks = tuple(self.members)
        self._convs = trace.called(model, CONVOLUTIONS)
        self._linears = trace.called(model, nn.Linear)
        self._norms = [name for name in trace.called(model, nn.Module) if detection.is_normalisation(model.get_submodule(name))]
        inputs = [name for name in trace.called(model, (CONVOLUTIONS, nn.Linear)) if name != self.head_name][:1] or [self.head_name]
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
        """The layer that makes the logits: ``nn.Linear``, or a convolution whose output is averaged over pixels."""
        return self.model.get_submodule(self.head_name)

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return len(detection.weight_of(self.head))

    @property
    def num_features(self) -> int:
        """Number of features D, the inputs of the head."""
        return detection.weight_of(self.head)[0].numel()

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

        def keep(head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            captured.features = gathered(detection.head_input(head, inputs[0]))

        keep.gathers = True  # type: ignore[attr-defined]
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
        return detection.apply_head(self.head, features)

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
        names, shared = ["weight"] if self.head.bias is None else ["weight", "bias"], shared_names(self.model)
        return {shared[f"{self.head_name}.{name}"]: label for name in names}
