"""Several sources under one numbering, so that examples of any of them can come in one batch."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from expunge.engine.stream import Size, Source, Stream


class JoinedSource:
    """Sources one after the other: index 0 of the second follows the last index of the first.

    Args:
        sources: of inputs of one shape, on one device.
    """

    def __init__(self, sources: Sequence[Source]):
        self.sources = list(sources)
        self.labels = torch.cat([source.labels for source in self.sources])
        self.resident = all(getattr(source, "resident", False) for source in self.sources)
        self.starts = torch.tensor([0, *(len(source) for source in self.sources)]).cumsum(0)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Tensor, size: Size, *, augment: bool, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(x, y)`` on the device for consecutive chunks of ``order``; see `expunge.engine.stream.Source`."""
        chunks = order.split(size)
        held = [[torch.nonzero(self._owner(chunk) == number).flatten() for chunk in chunks] for number in range(len(self.sources))]
        readers = [
            source.batches(own, [len(places) for places in mine if len(places)], augment=augment, seed=seed, epoch=epoch)
            if len(own := torch.cat([chunk[places] for chunk, places in zip(chunks, mine, strict=True)]) - self.starts[number])
            else iter(())
            for number, (source, mine) in enumerate(zip(self.sources, held, strict=True))
        ]
        for chunk_places in zip(*held, strict=True):
            parts = [next(reader) for reader, places in zip(readers, chunk_places, strict=True) if len(places)]
            if len(parts) == 1:
                yield parts[0]
                continue
            back = torch.argsort(torch.cat([places for places in chunk_places if len(places)]))
            x, y = (torch.cat(values)[back.to(values[0].device)] for values in zip(*parts, strict=True))
            yield (x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x), y

    def _owner(self, index: Tensor) -> Tensor:
        return torch.bucketize(index, self.starts, right=True) - 1


def joined(streams: Mapping[str, Stream]) -> dict[str, Stream]:
    """Return the same streams over one source, where each index means one example: methods may put examples of several in one."""
    source = JoinedSource([stream.source for stream in streams.values()])
    starts = source.starts.tolist()
    return {name: Stream(name, source, start + stream.index) for start, (name, stream) in zip(starts, streams.items(), strict=False)}
