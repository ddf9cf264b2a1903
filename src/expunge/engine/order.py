"""In which order the batches of several streams come, and what an epoch is."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.stream import Batch, Stream, even_sizes
from expunge.engine.terms import Every, Term
from expunge.errors import BadInput

Order = Literal["zip", "sequential", "interleave", "mixed"]


@dataclass(frozen=True)
class Reading:
    """The batches of a phase. What an epoch holds depends on its number alone, never on the epochs before it.

    Attributes:
        streams: by name: those of the terms first, then those that terms only use.
        own: names of the terms' streams.
        every: in which steps the terms of a stream contribute, see `Term`; in all where it is not listed.
        order: see `Phase`.
        epoch_of: the stream that defines an epoch; the longest if None.
        sizes: examples in a batch, by stream.
        seed: keys order and augmentation.
        augment: whether pictures are augmented.
    """

    streams: Mapping[str, Stream]
    own: Sequence[str]
    every: Mapping[str, Every]
    order: Order
    epoch_of: str | None
    sizes: Mapping[str, int]
    seed: int
    augment: bool

    @property
    def joint_size(self) -> int:
        """Examples in a batch of ``mixed``."""
        return self.sizes[next(iter(self.streams))]

    @property
    def leader(self) -> str:
        """The stream that defines an epoch of ``zip`` and ``interleave``."""
        return self.epoch_of or max(self.streams, key=self.steps_of)

    def steps_of(self, name: str) -> int:
        """Return the batches in one pass over a stream."""
        return self.streams[name].steps(self.sizes[name])

    def steps_per_epoch(self) -> int:
        """Return the optimiser steps of an epoch."""
        if self.order == "sequential":
            return sum(map(self.steps_of, self.own))
        if self.order == "mixed":
            return -(-sum(map(len, self.streams.values())) // self.joint_size)
        return self.steps_of(self.leader) * (len(self.own) if self.order == "interleave" else 1)

    def epoch(self, number: int) -> Iterator[dict[str, Batch]]:
        """Yield the batches of each step of an epoch, by stream."""
        if self.order == "sequential":
            yield from ({name: batch} for name in self.own for batch in self._pass(name, number))
        elif self.order == "mixed":
            yield from self._mixed(number)
        else:
            yield from self._together(number)

    def _pass(self, name: str, number: int) -> Iterator[Batch]:
        return self.streams[name].batches(self.sizes[name], seed=self.seed, epoch=number, shuffle=True, augment=self.augment)

    def _cycle(self, name: str, start: int) -> Iterator[Batch]:
        for number in itertools.count(start):
            yield from self._pass(name, number)

    def _together(self, number: int) -> Iterator[dict[str, Batch]]:
        """Yield a batch of every stream at a time; those that end before the leader start again, and those without a turn are left out."""
        leader = self.leader
        beside = {name: self._beside(name, number) for name in self.streams if name != leader}
        for batch in self._pass(leader, number):
            found = {name: batch if name == leader else next(beside[name]) for name in self.streams}
            step = {name: part for name, part in found.items() if part is not None}
            if self.order == "zip":
                yield step
            else:
                yield from ({name: step[name]} if name in step else {} for name in self.own)

    def _beside(self, name: str, number: int) -> Iterator[Batch | None]:
        """Yield what a stream beside the leader has for each step of an epoch, None where it waits.

        A stream that waits is passed without a break over the epochs, or once in each; others start each epoch with a new pass.
        """
        steps, own, every = self.steps_of(self.leader), self.steps_of(name), self.every.get(name, 1)
        if every == "pass":
            once = self._pass(name, number)
            yield from (next(once) if place * own % steps < own else None for place in range(steps))
        elif every == 1:
            yield from self._cycle(name, number * -(-steps // own))
        else:
            used = -(-number * steps // every)
            cycle = itertools.islice(self._cycle(name, used // own), used % own, None)
            yield from (next(cycle) if turn % every == 0 else None for turn in range(number * steps, (number + 1) * steps))

    def _mixed(self, number: int) -> Iterator[dict[str, Batch]]:
        """Yield shuffled batches over all streams, each split by stream."""
        owner = torch.cat([torch.full((len(stream),), place) for place, stream in enumerate(self.streams.values())])
        index = torch.cat([stream.index for stream in self.streams.values()])
        order = torch.argsort(randomness.bits(self.seed, "mixed/order", number, index), stable=True)
        sizes = even_sizes(len(order), self.joint_size)
        shares: dict[str, list[int]] = {}
        passes = {}
        for place, (name, stream) in enumerate(self.streams.items()):
            own = owner[order] == place
            shares[name] = [int(part.sum()) for part in own.split(sizes)]
            held = [size for size in shares[name] if size]
            passes[name] = stream.subset(index[order[own]]).batches(held, seed=self.seed, epoch=number, augment=self.augment)
        for step in range(len(sizes)):
            yield {name: next(passes[name]) for name in self.streams if shares[name][step]}


def reading(
    context: Context, terms: Sequence[Term], *, order: Order, epoch_of: str | None, batch_size: int | Mapping[str, int], augment: bool
) -> Reading:
    """Return the batches that terms need, keyed by the context's seed and phase.

    Raises:
        BadInput: a stream without examples.
        UndeclaredAccess: a stream that the method does not declare.
        ValueError: two streams of one name, an ``epoch_of`` that is none of them, a batch size below 1, or terms of one stream that
            disagree on whether it is passed once.
    """
    streams: dict[str, Stream] = {}
    for term in terms:
        stream = context.stream(term.stream)
        if streams.setdefault(term.stream_name, stream) is not stream:
            raise ValueError(f"two different streams are called {term.stream_name!r}")
    own = list(streams)
    for name in [name for term in terms for name in term.uses]:
        if name not in streams:
            streams[name] = context.stream(name)
    sizes = {name: batch_size if isinstance(batch_size, int) else batch_size[name] for name in streams}
    _check(streams, sizes, epoch_of)
    seed = randomness.derive(context.seed, "batches", context.phase)
    return Reading(streams, own, _turns(terms), order, epoch_of, sizes, seed, augment)


def _turns(terms: Sequence[Term]) -> dict[str, Every]:
    """Return in which steps each stream is read; one that another's terms use is read in all of them."""
    used = {name for term in terms for name in term.uses}
    found: dict[str, Every] = {}
    for name in {term.stream_name for term in terms} - used:
        said = {term.every for term in terms if term.stream_name == name}
        numbers = [every for every in said if every != "pass"]
        if numbers and "pass" in said:
            raise ValueError(f"the terms on {name!r} disagree: every={sorted(map(str, said))}")
        found[name] = math.gcd(*numbers) if numbers else "pass"
    return found


def _check(streams: Mapping[str, Stream], sizes: Mapping[str, int], epoch_of: str | None) -> None:
    if not streams:
        raise ValueError("a phase needs at least one term on a stream")
    for name, stream in streams.items():
        if not len(stream):
            raise BadInput(name, "the stream holds no example.", "Choose a request that leaves some, or another method.")
        if sizes[name] < 1:
            raise ValueError(f"a batch of {name!r} must hold at least one example, got {sizes[name]}")
    if epoch_of is not None and epoch_of not in streams:
        raise ValueError(f"epoch_of={epoch_of!r} is none of the phase's streams: {sorted(streams)}")
