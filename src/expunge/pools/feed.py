"""The batches of many models at once: each model's own examples, order and augmentation, gathered in one go."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from expunge.data.augmentation import Augmentation, Draws, crop_and_flip, draw
from expunge.data.source import LoaderSource, TensorSource
from expunge.engine import randomness
from expunge.engine.order import Reading
from expunge.engine.stream import Stream, even_sizes
from expunge.training.shifts import AlternatingSource, flipped_in


@dataclass(frozen=True)
class Together:
    """One batch of every model.

    Attributes:
        x: inputs ``[M, B, ...]`` on the device.
        y: labels, int64 ``[M, B]``.
        counts: examples that are no padding, of each model.
        weights: 1 for an example, 0 for padding, float ``[M, B]``; None where nothing is padded.
    """

    x: Tensor
    y: Tensor
    counts: tuple[int, ...]
    weights: Tensor | None

    @property
    def sizes(self) -> Tensor | int:
        """Examples of each model: float ``[M]``, or a number where all are alike."""
        return self.counts[0] if self.weights is None else self.weights.sum(1)


class Feed:
    """Batches for many models, one stream each, in lockstep.

    Models may have different examples and different numbers of them, as long as an epoch takes all of them the same number of steps.
    Where their batches differ in size, the shorter ones are padded with examples of weight 0.

    Args:
        readings: of each model.

    Raises:
        ValueError: numbers of steps, batch sizes or sources differ.
    """

    def __init__(self, readings: Sequence[Reading]):
        first = readings[0]
        self.streams: list[Stream] = [next(iter(reading.streams.values())) for reading in readings]
        self.seeds, self.augment, self.size = [reading.seed for reading in readings], first.augment, first.joint_size
        self.steps = self.streams[0].steps(self.size)
        if {stream.steps(self.size) for stream in self.streams} != {self.steps} or {reading.joint_size for reading in readings} != {
            self.size
        }:
            raise ValueError("models that are trained at once need the same number of steps in an epoch")
        self.source, self.augmentation = _plain(self.streams[0].source)
        if any(_plain(stream.source)[0] is not self.source for stream in self.streams):
            raise ValueError("models that are trained at once need examples of one source")
        self.labels = [_table(stream) for stream in self.streams]
        self.sizes = [even_sizes(len(stream), self.size) for stream in self.streams]

    def epoch(self, number: int) -> Iterator[Together]:
        """Yield the batches of an epoch; what they hold depends on its number alone."""
        orders = [
            randomness.shuffle(seed, stream.name, number, stream.index) for seed, stream in zip(self.seeds, self.streams, strict=True)
        ]
        draws = self._draws(orders, number)
        y = [table[order] for table, order in zip(self.labels, orders, strict=True)]
        first = 0
        for width, alike in groupby(map(max, zip(*self.sizes, strict=True))):
            steps = range(first, first + sum(1 for _ in alike))
            yield from self._part(orders, y, draws, steps, width)
            first = steps.stop

    def _part(self, orders: list[Tensor], y: list[Tensor], draws: list[Draws] | None, steps: range, width: int) -> Iterator[Together]:
        """Yield the batches of some steps, padded to ``width`` examples of each model."""
        models = len(orders)
        places = [_places(sizes, steps, width) for sizes in self.sizes]

        def arranged(values: Sequence[Tensor]) -> Tensor:
            return torch.stack([value[place] for value, place in zip(values, places, strict=True)]).transpose(0, 1).flatten()

        labels = arranged(y).to(self.source.device)
        drawn = None if draws is None else Draws(*(arranged(column) for column in zip(*draws, strict=True)))
        batches = self.source.batches(arranged(orders), models * width, augment=False, seed=0, epoch=0)
        parts = [None] * len(steps) if drawn is None else list(drawn.split(models * width))
        for step, (x, _), own, part in zip(steps, batches, labels.split(models * width), parts, strict=True):
            x = x if part is None else self._augmented(x, part)
            counts, weights = tuple(sizes[step] for sizes in self.sizes), None
            if min(counts) < width:
                weights = (torch.arange(width) < torch.tensor(counts)[:, None]).to(x)
            yield Together(x.unflatten(0, (models, width)), own.view(models, width), counts, weights)

    def _draws(self, orders: list[Tensor], epoch: int) -> list[Draws] | None:
        """Return what happens to the pictures of each model in an epoch, keyed by its own seed."""
        if not self.augment or self.augmentation is None:
            return None
        found = []
        for stream, seed, order in zip(self.streams, self.seeds, orders, strict=True):
            drawn = draw(self.augmentation, seed, epoch, order)
            if isinstance(stream.source, AlternatingSource) and stream.source.flip:
                drawn = drawn._replace(flipped=flipped_in(seed, epoch, order))
            found.append(drawn)
        return found

    def _augmented(self, x: Tensor, draws: Draws) -> Tensor:
        assert self.augmentation is not None
        return crop_and_flip(x.permute(0, 2, 3, 1).contiguous(), self.augmentation, draws).permute(0, 3, 1, 2)


def _plain(source: object) -> tuple[TensorSource | LoaderSource, Augmentation | None]:
    """Return the source without augmentation, and the augmentation.

    Moving and mirroring pixels commutes with scaling them, so augmented batches are the same bit for bit.

    Raises:
        ValueError: a source of another kind, whose augmentation is unknown, or one that cuts out parts while it decodes.
    """
    if isinstance(source, AlternatingSource):
        return _plain(source.source)[0], source.shifts
    if isinstance(source, TensorSource | LoaderSource) and source._alterations.smallest_cut == 1:
        return source, source._alterations.augmentation
    raise ValueError(f"a {type(source).__name__} brings an augmentation of its own")


def _table(stream: Stream) -> Tensor:
    """Return the labels of a stream by data set index, int64 ``[N]``."""
    table = stream.source.labels.clone()
    table[stream.index] = stream.labels
    return table


def _places(sizes: Sequence[int], steps: range, width: int) -> Tensor:
    """Return where the examples of some steps stand in an epoch, int64 ``[steps, width]``; a short batch repeats its last one."""
    ends = torch.tensor(sizes).cumsum(0)[steps.start : steps.stop, None]
    starts = ends - torch.tensor(sizes)[steps.start : steps.stop, None]
    return torch.minimum(starts + torch.arange(width), ends - 1)
