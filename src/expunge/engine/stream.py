"""Deterministic batches on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from expunge.engine import parallel, randomness


@dataclass(frozen=True)
class Batch:
    """Examples that are used together.

    Attributes:
        x: inputs, float ``[B, ...]``, on the device; pictures lie in [0, 1].
        y: labels, int64 ``[B]``.
        index: data set indices, int64 ``[B]``; what randomness is keyed by.
        name: the stream they come from.
        epoch: the epoch they are drawn for.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    name: str
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.index)


class Source(Protocol):
    """Examples by index, wherever they lie: on the device, in memory, on disk.

    One that has them on the device says so by ``resident = True``; the others are read in shares where several ranks work on one model.
    """

    labels: Tensor
    """int64 ``[N]``, on the CPU; those that batches carry."""

    def batches(self, order: Tensor, size: "Size", *, augment: bool, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(x, y)`` on the device for consecutive chunks of ``order`` (int64, CPU), which ``order.split(size)`` are.

        Augmentation is keyed by (seed, epoch, index), so that it does not depend on ``size`` or on ``order``.
        """
        ...

    def __len__(self) -> int: ...


Size = int | Sequence[int]
"""Examples in every chunk but the last, which may be short; or those in each chunk. What `torch.Tensor.split` takes."""


def scoring_size(where: nn.Module | torch.device, chosen: int = 0) -> int:
    """Return how many examples to take at once in passes without gradients, in which every example counts alone; ``chosen`` if not 0.

    On a processor 64: what more of them leave between two layers no longer fits its caches (``benchmarks/evaluation_passes.py``).
    """
    if chosen:
        return chosen
    device = where if isinstance(where, torch.device) else next(where.parameters()).device
    return 64 if device.type == "cpu" else 250


def even_sizes(count: int, size: int) -> list[int]:
    """Return the sizes of the fewest batches of at most ``size`` that hold ``count`` examples; they differ by one at most.

    A last batch of a few examples, which plain chunks may leave, would count as much as a full one and ruin BatchNorm's statistics.
    """
    steps = -(-count // size)
    return [count // steps + (place < count % steps) for place in range(steps)]


class Stream:
    """A named part of a data set, as batches.

    Args:
        name: ``forget``, ``retain``, ``validation`` or what a method builds.
        source: where the examples are.
        index: their data set indices, int64 ``[n]``.
        labels: other labels for these examples, int64 ``[n]``; the source's own if None.
    """

    def __init__(self, name: str, source: Source, index: Tensor, labels: Tensor | None = None):
        self.name, self.source, self.index = name, source, torch.as_tensor(index, dtype=torch.int64).cpu()
        self._labels = None
        if labels is not None:
            self._labels = torch.full((len(source),), -1, dtype=torch.int64)
            self._labels[self.index] = labels.cpu()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def labels(self) -> Tensor:
        """Labels in the order of ``index``, int64 ``[n]``, on the CPU."""
        return (self.source.labels if self._labels is None else self._labels)[self.index]

    def steps(self, size: int) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self) // size)

    def batches(self, size: Size, *, seed: int = 0, epoch: int = 0, shuffle: bool = False, augment: bool = False) -> Iterator[Batch]:
        """Yield one epoch, whose order and augmentation depend on seed, epoch and index only.

        A shuffled epoch is there to train on: it is spread evenly over its batches, see `even_sizes`. In stored order all batches hold
        ``size`` examples but the last, for passes in which every example counts alone; or as many each as ``size`` lists.
        """
        if not len(self):
            return
        order = randomness.shuffle(seed, self.name, epoch, self.index) if shuffle else self.index
        sizes = even_sizes(len(order), size) if shuffle and isinstance(size, int) else size
        found = _read(self.source, order, sizes, augment=augment, seed=seed, epoch=epoch)
        for chunk, (x, y) in zip(order.split(sizes), found, strict=True):
            if self._labels is not None:
                y = self._labels[chunk].to(x.device)
            yield Batch(x, y, chunk.to(x.device), self.name, epoch)

    def subset(self, index: Tensor, name: str | None = None) -> "Stream":
        """Return the stream of some of these examples, given by data set index."""
        part = Stream(name or self.name, self.source, index)
        part._labels = self._labels
        return part

    def relabelled(self, labels: Tensor, name: str | None = None) -> "Stream":
        """Return the stream with other labels, int64 ``[n]`` in the order of ``index``."""
        return Stream(name or self.name, self.source, self.index, labels)


def _read(source: Source, order: Tensor, size: Size, **how: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield whole batches. What does not lie on the device is read by several ranks in shares, and then passed around."""
    chunks = order.split(size)
    if parallel.ranks() == 1 or getattr(source, "resident", False) or min(map(len, chunks)) < parallel.ranks():
        yield from source.batches(order, size, **how)
        return
    shares = [chunk[parallel.share(len(chunk))] for chunk in chunks]
    own = source.batches(torch.cat(shares), [len(part) for part in shares], **how)
    for chunk, (x, _) in zip(chunks, own, strict=True):
        yield parallel.put_together(x, len(chunk)), source.labels[chunk].to(x.device)
