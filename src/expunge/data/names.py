"""Many texts in two arrays."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


class Names(Sequence[str]):
    """A read-only sequence of texts, such as the keys of a million examples.

    A list of as many Python strings takes ten times the memory, and every worker process would copy it page by page.

    Args:
        texts: what it holds, in this order.
    """

    def __init__(self, texts: Iterable[str]):
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self.bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.ends = np.cumsum([len(part) for part in encoded], dtype=np.int64)

    @classmethod
    def of_arrays(cls, content: np.ndarray, ends: np.ndarray) -> "Names":
        """Return the sequence whose ``bytes`` and ``ends`` these are."""
        made = cls(())
        made.bytes, made.ends = content, ends
        return made

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> "Names": ...
    def __getitem__(self, position: int | slice) -> "str | Names":
        if isinstance(position, slice):
            return self.take(np.arange(len(self))[position])
        position = range(len(self))[position]
        start = int(self.ends[position - 1]) if position else 0
        return self.bytes[start : int(self.ends[position])].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[position] for position in range(len(self)))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Names) and np.array_equal(self.ends, other.ends)
        return same and np.array_equal(self.bytes, other.bytes)  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]

    def take(self, positions: np.ndarray) -> "Names":
        """Return the texts at some positions, int64 ``[n]``."""
        return Names(self[int(position)] for position in positions)

    def places(self) -> dict[str, int]:
        """Return text -> its first position."""
        found: dict[str, int] = {}
        for position, text in enumerate(self):
            found.setdefault(text, position)
        return found
