"""What a short trial tells about training many models at once: whether it can be done, what time it takes, how many fit into memory."""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from expunge.engine.context import Context
from expunge.engine.edits import Edit
from expunge.engine.loop import run_phase
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.pools.stacked import train_together
from expunge.pools.workplace import Workplace

LARGEST_CHUNK = 256
"""Most models that are trained at once, however small they are."""
_STEPS, _WARM_UP = 6, 2


def phases(work: Workplace, model: nn.Module) -> list[Phase]:
    """Return the phases of the recipe, without running them."""
    stream = Stream("train", work.data.source, work.data.train_index[:2])
    context = Context(model, {"train": stream}, needs={"train"}, seed=0, num_classes=work.data.num_classes)
    return [step for step in work.experiment.train.steps(context) if isinstance(step, Phase)]


def difference(work: Workplace) -> float:
    """Return how far two models trained at once are from the same models trained alone, relative to how far they moved.

    Raises:
        UserWarning: vmap has no rule for an operation of the model.
        RuntimeError: the model cannot be vmapped.
    """
    streams = [Stream("train", work.data.source, work.data.train_index[:count]) for count in (12, 15)]
    sides = [[work.new_model(seed, weights=False).double() for seed in (0, 1)] for _ in range(3)]

    def short(phase: Phase) -> Phase:
        return phase.but(batch_size=8, epochs=1)

    with _slow_paths_refused():
        train_together(sides[0], streams, work.experiment.train, seeds=(0, 1), num_classes=work.data.num_classes, adjust=short)
    for model, stream, seed in zip(sides[1], streams, (0, 1), strict=True):
        _alone(work, model, stream, seed, short)
    together, alone, before = ([_flat(model) for model in side] for side in sides)
    return max(float((a - b).norm() / (b - start).norm().clamp_min(1e-12)) for a, b, start in zip(together, alone, before, strict=True))


@contextmanager
def _slow_paths_refused() -> Iterator[None]:
    """Raise where vmap has no rule for an operation and would take the models one by one; torch itself says so once in a process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="There is a performance drop")
            yield
    finally:
        torch.set_warn_always(before)


def _flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten().double() for value in model.state_dict().values()])


def _alone(work: Workplace, model: nn.Module, stream: Stream, seed: int, adjust: Callable[[Phase], Phase]) -> None:
    context = Context(model, {"train": stream}, needs={"train"}, seed=seed, num_classes=work.data.num_classes)
    for step in work.experiment.train.steps(context):
        if isinstance(step, Edit):
            with torch.no_grad():
                step.apply(context)
        else:
            run_phase(context, adjust(step))
            context.phase += 1


def seconds_together(work: Workplace, models: int, steps: int = _STEPS) -> float:
    """Return the seconds that ``models`` models trained at once take for some steps of the recipe, after a warm-up."""

    def timed(count: int) -> float:
        made, streams = _fresh(work, models), [_sample(work, count)] * models
        start = _now(work.device)
        train_together(made, streams, work.experiment.train, seeds=range(models), num_classes=work.data.num_classes, adjust=_cut(count))
        return _now(work.device) - start

    timed(_WARM_UP)
    return timed(steps)


def seconds_alone(work: Workplace, steps: int = _STEPS) -> float:
    """Return the seconds that one model takes for some steps of the recipe in this process, after a warm-up."""

    def timed(count: int) -> float:
        model, stream = _fresh(work, 1)[0], _sample(work, count)
        start = _now(work.device)
        _alone(work, model, stream, 0, _cut(count))
        return _now(work.device) - start

    timed(_WARM_UP)
    return timed(steps)


def _fresh(work: Workplace, count: int) -> list[nn.Module]:
    return [work.new_model(seed, weights=False) for seed in range(count)]


def _sample(work: Workplace, steps: int) -> Stream:
    """Return as many examples as so many steps read."""
    size = max(batch_sizes(work))
    return Stream("train", work.data.source, work.data.train_index[: steps * size])


def _cut(steps: int) -> Callable[[Phase], Phase]:
    return lambda phase: phase.but(steps=steps)


def _now(device: torch.device) -> float:
    """Return wall time on a GPU, and on a CPU processor time, which other load leaves alone."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def batch_sizes(work: Workplace) -> tuple[int, ...]:
    """Return the examples in a batch of each phase of the recipe."""
    found = [phase.batch_size for phase in phases(work, work.new_model(0, weights=False))]
    return tuple(size if isinstance(size, int) else next(iter(size.values())) for size in found)


def chunk_size(work: Workplace) -> int:
    """Return how many models fit into the device's memory at once: weights, gradients, momentum, and what a backward pass keeps."""
    model = work.new_model(0, weights=False)
    own = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    kept: dict[int, int] = {}

    def note(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return value

    size = min(max(batch_sizes(work)), len(work.data.train_index))
    x = next(Stream("train", work.data.source, work.data.train_index[:size]).batches(size)).x
    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        model.train()(x)
    each = 8 * own + 3 * (sum(kept.values()) + x.numel() * x.element_size())
    return max(1, min(LARGEST_CHUNK, int(_memory_bytes(work.device) // each)))


def _memory_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return 0.7 * torch.cuda.mem_get_info(device)[0]
    try:
        return 0.5 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return float(1 << 30)  # systems that do not tell
