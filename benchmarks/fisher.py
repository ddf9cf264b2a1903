"""Diagonal Fisher information of a thin residual network: ours against the published loop, in one run.

The published loop passes a batch of 64 forward once and then calls ``grad(losses[i], retain_graph=True)`` for every example, so that each
backward walks the whole batch. Run ``python benchmarks/fisher.py``; it prints milliseconds per example and the ratio.
"""

import argparse
import time

import torch
import torch.nn.functional as F

from expunge.data.source import TensorSource
from expunge.engine.context import Context
from expunge.engine.derivatives import fisher_diagonal
from expunge.engine.stream import Stream
from expunge.models.residual import ThinResNet


def published_loop(context: Context, size: int = 64) -> dict[str, torch.Tensor]:
    """Return the empirical Fisher diagonal by one backward per example through the graph of its whole batch."""
    context.model.eval()
    parameters = dict(context.model.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for batch in context.stream("retain").batches(size):
        losses = F.cross_entropy(context.model(batch.x), batch.y, reduction="none")
        for position in range(len(batch)):
            found = torch.autograd.grad(losses[position], list(parameters.values()), retain_graph=True)
            for name, part in zip(parameters, found, strict=True):
                total[name] += part.square()
    return {name: value / len(context.stream("retain")) for name, value in total.items()}


def seconds(call, device: torch.device) -> tuple[float, dict[str, torch.Tensor]]:
    """Return wall time and result."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def main() -> None:
    """Measure both, check that they agree, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    source = TensorSource(
        torch.randint(256, (options.examples, 3, options.pixels, options.pixels), dtype=torch.uint8),
        torch.arange(options.examples) % 10,
        device,
    )
    stream = Stream("retain", source, torch.arange(options.examples))
    context = Context(ThinResNet(20, 10).to(device), {"retain": stream}, needs={"retain"}, seed=0, num_classes=10)
    small = stream.subset(torch.arange(8))
    fisher_diagonal(context, small)  # first use compiles
    ours_seconds, ours = seconds(lambda: fisher_diagonal(context, "retain"), device)
    loop_seconds, loop = seconds(lambda: published_loop(context), device)
    difference = max(float((ours[name] - loop[name]).abs().max() / loop[name].abs().max()) for name in loop)
    print(f"ours            {1000 * ours_seconds / options.examples:9.2f} ms per example")
    print(f"published loop  {1000 * loop_seconds / options.examples:9.2f} ms per example")
    print(f"ratio           {loop_seconds / ours_seconds:9.1f}")
    print(f"largest relative difference of an entry {difference:.1e}")


if __name__ == "__main__":
    main()
