"""Passes over a stream that end before its end, with other examples each time."""

import itertools
from collections.abc import Iterator
from typing import Any

from expunge.engine.stream import Batch, Size, Stream


class Shortened(Stream):
    """The same examples as a stream, of which an epoch reads only the first batches of its shuffled order.

    Args:
        whole: the stream.
        most: batches in an epoch.
    """

    def __init__(self, whole: Stream, most: int):
        super().__init__(whole.name, whole.source, whole.index, whole.labels)
        self.most = most

    def steps(self, size: int) -> int:
        """Return the number of batches in an epoch."""
        return min(super().steps(size), self.most)

    def batches(self, size: Size, **how: Any) -> Iterator[Batch]:
        """Yield the first batches of an epoch; ``how`` as for a whole stream."""
        return itertools.islice(super().batches(size, **how), self.most)
