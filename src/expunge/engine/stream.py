"""Deterministic batches on the device."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from expunge.engine import randomness


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
    """Examples by index, wherever they lie: on the device, in memory, on disk."""

    labels: Tensor
    """int64 ``[N]``, on the CPU."""

    def batches(self, order: Tensor, size: int, *, augment: bool, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(x, y)`` on the device for consecutive chunks of ``order`` (int64, CPU), ``size`` examples each.

        Augmentation is keyed by (seed, epoch, index), so that it does not depend on ``size`` or on ``order``.
        """
        ...

    def __len__(self) -> int: ...


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
        """Return the number of batches in an epoch; the last one may be short."""
        return -(-len(self) // size)

    def batches(self, size: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = False, augment: bool = False) -> Iterator[Batch]:
        """Yield one epoch. The order and the augmentation depend on seed, epoch and index only."""
        order = randomness.shuffle(seed, self.name, epoch, self.index) if shuffle else self.index
        for chunk, (x, y) in zip(order.split(size), self.source.batches(order, size, augment=augment, seed=seed, epoch=epoch), strict=True):
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
