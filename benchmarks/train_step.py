"""One training step of ResNet-20: bfloat16 autocast against float32, and pictures in channels_last order against planes.

    python benchmarks/train_step.py [ROUNDS] [BATCH]

One thread, CPU time, variants in turn within each round; the ratios are medians of the rounds' own ratios, so that a change of the
machine's load meets all variants. Marks to hold: bfloat16 with channels_last at least 1.7 times as fast as float32 with planes where
the processor has instructions for it, and channels_last at least 1.1 times as fast as planes in float32.
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F

from expunge.models.residual import ThinResNet
from expunge.training.precision import has_fast_bfloat16

VARIANTS = {
    "float32, planes": (torch.float32, torch.contiguous_format),
    "float32, channels_last": (torch.float32, torch.channels_last),
    "bfloat16, planes": (torch.bfloat16, torch.contiguous_format),
    "bfloat16, channels_last": (torch.bfloat16, torch.channels_last),
}


class Step:
    """A net, its optimiser and one batch of a variant. Only the order of the batch is chosen, as in expunge: the layers follow it."""

    def __init__(self, precision: torch.dtype, order: torch.memory_format, batch: int):
        torch.manual_seed(0)
        self.net, self.precision = ThinResNet(20, 10), precision
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.x = torch.rand(batch, 3, 32, 32).contiguous(memory_format=order)
        self.y = torch.randint(10, (batch,))

    def seconds(self, steps: int = 2) -> float:
        """Return the CPU time of a step."""
        started = time.process_time()
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == torch.bfloat16):
                logits = self.net(self.x)
            self.optimizer.zero_grad()
            F.cross_entropy(logits.float(), self.y).backward()
            self.optimizer.step()
        return (time.process_time() - started) / steps


def main(rounds: int = 9, batch: int = 128) -> None:
    torch.set_num_threads(1)
    steps = {name: Step(*variant, batch) for name, variant in VARIANTS.items()}
    for step in steps.values():
        step.seconds()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(step.seconds())
    for name, found in times.items():
        print(f"{name:25} {statistics.median(found) * 1e3:8.1f} ms a step {batch / statistics.median(found):8.0f} pictures per CPU second")
    if has_fast_bfloat16(torch.device("cpu")):
        report("bfloat16, channels_last", "float32, planes", times, 1.7)
    else:
        print("bfloat16: this processor has no instructions for it; expunge trains in float32 here")
    report("float32, channels_last", "float32, planes", times, 1.1)


def report(fast: str, slow: str, times: dict[str, list[float]], mark: float) -> None:
    ratio = statistics.median(b / a for a, b in zip(times[fast], times[slow], strict=True))
    print(f"{fast} over {slow}: {ratio:.2f} times, demanded {mark} {'(held)' if ratio >= mark else '(MISSED)'}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
