"""Which example belongs to which shard and slice."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.engine import randomness
from expunge.errors import BadInput


@dataclass(frozen=True)
class Plan:
    """Shards and slices, assigned by a hash of seed and example, so that removing an example moves no other.

    Attributes:
        shards: constituents, each of which sees its own examples only.
        slices: stages of a constituent's training; stage r trains on slices 0 to r.
        seed: of the assignment, of initial weights, and of order and augmentation.
    """

    shards: int
    slices: int = 1
    seed: int = 0

    def __post_init__(self):
        """Refuse numbers below one.

        Raises:
            BadInput: shards or slices are not positive.
        """
        for key in ("shards", "slices"):
            if getattr(self, key) < 1:
                raise BadInput(key, f"expected a positive integer, got {getattr(self, key)}.")

    @property
    def expected_share(self) -> float:
        """Share of the whole training, in examples, that deleting one random example repeats: ``(2 R + 1) / (3 R S)``."""
        return (2 * self.slices + 1) / (3 * self.slices * self.shards)

    def shard_of(self, index: Tensor) -> Tensor:
        """Return the shard of each example, int64, from 0."""
        return randomness.integers(self.seed, "sisa/shard", 0, index, self.shards)

    def slice_of(self, index: Tensor) -> Tensor:
        """Return the slice of each example within its shard, int64, from 0."""
        return randomness.integers(self.seed, "sisa/slice", 0, index, self.slices)

    def slices_of(self, shard: int, index: Tensor) -> list[Tensor]:
        """Return the examples of each slice of a shard, in ascending order."""
        own = index[self.shard_of(index) == shard].sort().values
        number = self.slice_of(own)
        return [own[number == place] for place in range(self.slices)]

    def stages_of(self, shard: int, index: Tensor) -> list[Tensor]:
        """Return the examples of each stage of a shard's training: those of its slice and of all slices before."""
        parts = self.slices_of(shard, index)
        return [torch.cat(parts[: place + 1]) for place in range(self.slices)]
