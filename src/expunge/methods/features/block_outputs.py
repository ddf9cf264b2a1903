"""What every block of a model has just put out, for losses on all layers."""

from typing import Any, Self

from torch import Tensor, nn

from expunge.engine.architecture import Architecture


class BlockOutputs:
    """A context manager that keeps the pooled output of every block but the head in the latest forward pass of a model.

    Args:
        architecture: where the blocks are.
        model: the model, or a copy of it.
    """

    def __init__(self, architecture: Architecture, model: nn.Module):
        self.model = model
        self.last = [members[-1] for block, members in architecture.members.items() if block != architecture.head_name]
        self._x: Tensor | None = None
        self._kept: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._handles = [self.model.register_forward_pre_hook(self._begin)]
        for name in self.last:
            self._handles.append(self.model.get_submodule(name).register_forward_hook(self._keep(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._x, self._kept = None, {}

    def of(self, x: Tensor) -> list[Tensor]:
        """Return one tensor ``[B, D]`` for each block, part of the graph.

        Raises:
            RuntimeError: the latest forward pass was on other inputs.
        """
        if self._x is not x or len(self._kept) < len(self.last):
            raise RuntimeError("the outputs of the blocks belong to another batch")
        return [self._kept[name] for name in self.last]

    def _begin(self, _model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._x, self._kept = inputs[0], {}

    def _keep(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
            self._kept[name] = pooled(output[0] if isinstance(output, tuple) else output)

        return keep


def pooled(output: Tensor) -> Tensor:
    """Return ``[B, D]``: the mean over pixels of ``[B, D, ...]``, or over tokens of ``[B, T, D]``."""
    if output.dim() == 3:
        return output.float().mean(1)
    return output.float().flatten(2).mean(2) if output.dim() > 3 else output.float()
