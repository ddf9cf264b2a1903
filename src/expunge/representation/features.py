"""Features of a model over a stream, as arrays: the head's input, any block's output, the logits."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from expunge.engine.architecture import Architecture
from expunge.engine.parameters import modes_kept
from expunge.engine.stream import Stream, scoring_size
from expunge.errors import BadInput, nearest


class Batches(Protocol):
    """Inputs ``[n, ...]`` in batches: a tensor, or what makes them when they are asked for."""

    def __len__(self) -> int: ...

    def split(self, size: int, /) -> Iterable[Tensor]:
        """Return consecutive batches of ``size`` inputs, the last one perhaps shorter."""
        ...


class Reading(NamedTuple):
    """What a model says about a stream, in the order of the stream's index.

    Attributes:
        features: the head's input, float32 ``[n, D]``.
        logits: float32 ``[n, C]``.
        labels: int64 ``[n]``.
    """

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> "Reading":
        """Return some rows, by position or by a mask."""
        return Reading(self.features[rows], self.logits[rows], self.labels[rows])


def join(*readings: Reading) -> Reading:
    """Return readings of one model one after the other."""
    return Reading(*(np.concatenate(parts) for parts in zip(*readings, strict=True)))


@torch.no_grad()
def read(architecture: Architecture, model: nn.Module, stream: Stream, size: int = 0) -> Reading:
    """Return features and logits over a whole stream: evaluation mode, no augmentation, each example once.

    Args:
        architecture: of the model or of one that it is a copy of.
        model: left as it is, modes and running statistics included.
        stream: the examples.
        size: examples a batch; 0 chooses.

    Raises:
        BadInput: the stream is empty, or features or logits are not finite.
    """
    parts = []
    with modes_kept(model):
        model.eval()
        for batch in stream.batches(scoring_size(model, size)):
            logits, features = architecture.forward_with_features(model, batch.x)
            parts.append(Reading(_array(features), _array(logits), batch.y.cpu().numpy()))
    if not parts:
        raise BadInput(stream.name, "the stream holds no example.", "Choose a part of the split that does.")
    reading = join(*parts)
    _check_finite(stream.name, reading.features, reading.logits)
    return reading


@torch.no_grad()
def read_arrays(architecture: Architecture, model: nn.Module, x: Batches, labels: np.ndarray, size: int = 0) -> Reading:
    """Return features and logits of inputs ``[n, ...]`` as the model takes them (pictures in [0, 1]), with their labels ``[n]``."""
    device = next(model.parameters()).device
    with modes_kept(model):
        model.eval()
        pairs = [
            [_array(part) for part in architecture.forward_with_features(model, chunk.to(device))]
            for chunk in x.split(scoring_size(device, size))
        ]
    logits, features = map(np.concatenate, zip(*pairs, strict=True))
    _check_finite("inputs", features, logits)
    return Reading(features, logits, np.asarray(labels, dtype=np.int64))


@torch.no_grad()
def block_batches(architecture: Architecture, models: Sequence[nn.Module], stream: Stream, size: int = 256, seed: int = 0) -> Iterator:
    """Yield for each batch one ``{block: float32 [B, D]}`` for each model, all models on the same examples.

    Batches are shuffled: data sets are often sorted by class, and a batch of one class shows the geometry within it alone. A block's
    output is that of its last module, flattened; the last block is the head, whose output is the logits. Memory is that of one batch.

    Args:
        architecture: of the models, which are copies of one architecture.
        models: left as they are.
        stream: the examples.
        size: examples a batch; a last batch below 4 examples is left out, for no unbiased estimate exists on it.
        seed: of the order.
    """
    for batch in stream.batches(size, seed=seed, shuffle=True):
        if len(batch) >= 4:
            yield tuple(_blocks_of(architecture, model, batch.x) for model in models)


def _blocks_of(architecture: Architecture, model: nn.Module, x: Tensor) -> dict[str, np.ndarray]:
    with modes_kept(model), capture_outputs(model, {name: modules[-1] for name, modules in architecture.members.items()}) as found:
        model.eval()
        model(x)
    missing = architecture.members.keys() - found.keys()
    if missing:
        raise BadInput("blocks", f"the forward pass does not call {sorted(missing)[0]!r}.", nearest(sorted(missing)[0], found))
    return {name: found[name] for name in architecture.blocks}


@contextmanager
def capture_outputs(model: nn.Module, modules: dict[str, str]) -> Iterator[dict[str, np.ndarray]]:
    """Yield a mapping that a forward pass fills with the flattened outputs ``[B, D]`` of modules.

    Args:
        model: the model.
        modules: what an output is called -> name of the module.
    """
    found: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            value = output[0] if isinstance(output, tuple) else output
            assert isinstance(value, Tensor)
            found[name] = _array(value.detach().flatten(1))

        return hook

    handles = [model.get_submodule(module).register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _array(value: Tensor) -> np.ndarray:
    # A copy: an activation in place after the module would change what was captured.
    return value.detach().to("cpu", torch.float32, copy=True).numpy()


def _check_finite(where: str, *arrays: np.ndarray) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise BadInput(where, "the model's features or logits are not finite.", "The model diverged; report it as a failure.")
