"""One model on many devices: the ranks that `torchrun` starts, and what they must agree on.

Every rank runs the whole program on whole batches: the same losses, masks, combiners, rules. What is divided is what costs time: a pass
through a model (`expunge.engine.divided`), scores that are sums over examples (`part_of`), and reading from disk (`expunge.engine.stream`).
With one rank nothing here does anything.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from expunge import runs
from expunge.engine.cost import COUNTS, CostMeter
from expunge.errors import BadInput

if TYPE_CHECKING:
    from expunge.engine.stream import Stream

Value = TypeVar("Value")

_ranks, _rank = 1, 0
_alone = 0


def asked() -> bool:
    """Return whether `torchrun` has started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def start() -> None:
    """Meet the other ranks. From here on every model of a `Context` is divided among them, and only rank 0 writes files.

    Each rank takes the GPU of its own number on its machine, if there are GPUs; CPU tensors travel by gloo, CUDA tensors by NCCL.
    """
    global _ranks, _rank
    local = int(os.environ["LOCAL_RANK"])
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    # A rank may wait for hours while rank 0 alone writes or looks; torchrun ends all of them when one dies.
    dist.init_process_group(timeout=timedelta(days=1))
    _ranks, _rank = dist.get_world_size(), dist.get_rank()
    runs.write_files(_rank == 0)


def stop() -> None:
    """Part from the other ranks."""
    global _ranks, _rank
    if dist.is_initialized():
        dist.destroy_process_group()
    _ranks, _rank = 1, 0
    runs.write_files(True)


def ranks() -> int:
    """Return how many ranks work on one model; 1 where this one works alone."""
    return 1 if _alone else _ranks


def rank() -> int:
    """Return the number of this rank, from 0."""
    return _rank


@contextmanager
def alone() -> Iterator[None]:
    """Let this rank work inside as if there were no others: nothing is divided, and nobody is waited for."""
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


def check_device(device: torch.device) -> torch.device:
    """Return the device, on which every rank has a model of its own.

    Raises:
        BadInput: it is one GPU for all, or the machine has fewer GPUs than ranks.
    """
    if ranks() == 1 or device.type == "cpu":
        return device
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    if device.type != "cuda" or device.index is not None:
        raise BadInput("device", f"{device} is one device, and {local} ranks run on this machine.", "Use device=cuda, or device=cpu.")
    if torch.cuda.device_count() < local:
        found = f"{local} ranks run on this machine, which has {torch.cuda.device_count()} GPUs."
        raise BadInput("device", found, "Start as many ranks as there are GPUs with --nproc-per-node.")
    return device


def agreed(value: Value) -> Value:
    """Return rank 0's value, a plain one, so that all ranks go the same way even where their devices round differently."""
    if ranks() == 1:
        return value
    found: list[Any] = [value]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def everywhere(holds: bool) -> bool:
    """Return whether something holds on every rank."""
    if ranks() == 1:
        return holds
    lacking = torch.tensor(int(not holds))
    add_up([lacking])
    return not int(lacking)


def wait() -> None:
    """Go on when every rank has come here: what rank 0 has written before can be read after."""
    if ranks() > 1:
        dist.barrier()


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor, in place, by its sum over all ranks; all tensors of one type travel together."""
    tensors = list(tensors)
    if ranks() == 1:
        return
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
        own = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in own])
        dist.all_reduce(flat)
        for tensor, part in zip(own, flat.split([tensor.numel() for tensor in own]), strict=True):
            tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def take_over(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor, in place, by rank 0's; they are equal already but for what a GPU rounds differently from call to call."""
    if ranks() == 1:
        return
    for tensor in tensors:
        whole = tensor.detach().contiguous()
        dist.broadcast(whole, src=0)
        tensor.copy_(whole)


def put_together(rows: Tensor, count: int) -> Tensor:
    """Return all ``count`` rows of a batch, of which each rank has its `share`."""
    ordered = rows.permute(0, 2, 3, 1) if rows.dim() == 4 else rows  # pictures are channels_last in memory
    whole = ordered.new_empty(count, *ordered.shape[1:])
    whole[share(count)] = ordered
    for number in range(ranks()):
        dist.broadcast(whole[share(count, number)], src=number)
    return whole.permute(0, 3, 1, 2) if rows.dim() == 4 else whole


def share(count: int, of: int | None = None) -> slice:
    """Return which of ``count`` things in a row are a rank's own (this one's by default); shares differ by one at most."""
    number, every = _rank if of is None else of, ranks()
    small, more = divmod(count, every)
    first = number * small + min(number, more)
    return slice(first, first + small + (number < more))


@contextmanager
def apart(stream: "Stream", cost: CostMeter) -> Iterator["Stream"]:
    """Yield a rank's own part of a stream, on which it works alone inside; what that cost is added up at the end.

    For sums over examples that no model call divides, such as those of per-example gradients. `add_up` makes them whole, after this.
    """
    if ranks() == 1:
        yield stream
        return
    own = stream.subset(stream.index[share(len(stream))])
    before = [getattr(cost, count) for count in COUNTS]
    with alone():
        yield own
    spent = torch.tensor([getattr(cost, count) for count in COUNTS]) - torch.tensor(before)
    add_up([spent])
    for count, old, more in zip(COUNTS, before, spent.tolist(), strict=True):
        setattr(cost, count, old + more)


def seed_of(state: Tensor) -> int:
    """Return a seed that follows from a random state and the rank."""
    return int.from_bytes(hashlib.sha256(state.numpy().tobytes() + bytes([_rank % 256, _rank // 256])).digest()[:7], "big")
