"""What a phase costs beside a bare torch loop that takes the same steps on the same batches.

Run: python benchmarks/loop_overhead.py [ROUNDS]. Demand: a ratio of at most 1.05 in processor time, median over interleaved rounds.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from expunge.data.source import TensorSource
from expunge.engine.context import Context
from expunge.engine.loop import run_phase
from expunge.engine.phase import Phase
from expunge.engine.randomness import derive
from expunge.engine.stream import Stream
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd
from expunge.models.model import Normalized
from expunge.models.small_cnn import SmallCnn

EXAMPLES, BATCH, EPOCHS, DEMAND = 2048, 64, 2, 1.05
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Normalized(SmallCnn().build(10, (1, 28, 28)), (0.5,), (0.25,))


def make_stream() -> Stream:
    made = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (EXAMPLES, 1, 28, 28), generator=made, dtype=torch.uint8)
    return Stream("retain", TensorSource(pictures, torch.arange(EXAMPLES) % 10), torch.arange(EXAMPLES))


def phase(model: nn.Module, stream: Stream) -> None:
    context = Context(model, {"retain": stream}, needs={"retain"}, seed=0, num_classes=10)
    context.cost.watch(model)
    optimizer = sgd(LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    run_phase(context, Phase([Term("retain", cross_entropy)], epochs=EPOCHS, batch_size=BATCH, optimizer=optimizer))


def bare(model: nn.Module, stream: Stream) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    for epoch in range(EPOCHS):
        for batch in stream.batches(BATCH, seed=derive(0, "batches", 0), epoch=epoch, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(batch.x), batch.y).backward()
            optimizer.step()


def seconds(run: Callable[[nn.Module, Stream], None], model: nn.Module, stream: Stream) -> float:
    start = time.process_time()
    run(model, stream)
    return time.process_time() - start


def main(rounds: int) -> int:
    torch.set_num_threads(1)
    stream, model = make_stream(), make_model()
    phase(model, stream), bare(model, stream)
    one, other = make_model(), make_model()
    phase(one, stream), bare(other, stream)
    same = all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    times: dict[str, list[float]] = {"phase": [], "bare": []}
    for number in range(rounds):
        pairs = [("phase", phase), ("bare", bare)]
        for name, run in pairs if number % 2 else reversed(pairs):
            times[name].append(seconds(run, make_model(), stream))
    middle = {name: statistics.median(found) for name, found in times.items()}
    ratio, steps = middle["phase"] / middle["bare"], EPOCHS * -(-EXAMPLES // BATCH)
    extra = 1e6 * (middle["phase"] - middle["bare"]) / steps
    print(f"bare {1e3 * middle['bare'] / steps:.2f} ms a step, phase {1e3 * middle['phase'] / steps:.2f} ms, {extra:+.0f} us")
    print(f"ratio {ratio:.3f} (demand: at most {DEMAND}), the same weights: {same}")
    return 0 if ratio <= DEMAND and same else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
