"""What trackers cost a phase: processor time with and without, on the same steps of the same batches; with gradients apart as well.

Run: python benchmarks/tracking_overhead.py [ROUNDS]. The demand: at most 1.05 with values every ten steps, the best of interleaved rounds.
Without trackers a phase takes no step more than `loop_overhead.py` shows. Writing is left out: it happens in threads of the command.
"""

import sys

import torch
from loop_overhead import BATCH, make_model, make_stream, seconds
from torch import nn

from expunge.engine.context import Context
from expunge.engine.gauges import Detail
from expunge.engine.loop import run_phase
from expunge.engine.phase import Phase
from expunge.engine.stream import Stream
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd

DEMAND = 1.05
WAYS = {
    "off": None,
    "again": None,
    "every 10 steps": Detail(every=10),
    "every step": Detail(every=1),
    "every 10 steps, apart": Detail(every=10, apart=True),
    "every 10 steps, histograms": Detail(every=10, histograms=True),
}


def phase(detail: Detail | None, model: nn.Module, stream: Stream) -> None:
    forget = Stream("forget", stream.source, stream.index[: len(stream.index) // 10])
    context = Context(model, {"retain": stream, "forget": forget}, needs={"retain", "forget"}, seed=0, num_classes=10, detail=detail)
    context.cost.watch(model)
    terms = [Term("retain", cross_entropy), Term("forget", cross_entropy, weight=-0.1)]
    run_phase(context, Phase(terms, epochs=2, batch_size=BATCH, optimizer=sgd(0.01)))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    torch.set_num_threads(1)
    stream, taken = make_stream(), {name: [] for name in WAYS}
    seconds(lambda model, data: phase(None, model, data), make_model(), stream)
    for _ in range(rounds):
        for name, detail in WAYS.items():
            taken[name].append(seconds(lambda model, data, detail=detail: phase(detail, model, data), make_model(), stream))
    ratios = {name: min(times) / min(taken["off"]) for name, times in taken.items()}
    for name, ratio in ratios.items():
        print(f"{name:28s} {min(taken[name]):.3f} s  {ratio:.3f}")
    if ratios["every 10 steps"] > DEMAND:
        sys.exit(f"more than {DEMAND}")


if __name__ == "__main__":
    main()
