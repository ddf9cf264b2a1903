"""Evaluate one unlearned model: forwards and seconds of one pass over unique images, against the passes of published protocols.

    uv run python benchmarks/evaluation_passes.py

The published ones forward every split for the accuracies and then again for the membership attacks: Unlearn-Saliency repeats |T| retain
images, the test set and the forget set; Unlearn-Sparse repeats the retain and test sets for training privacy as well. Both are timed
here on the same resident tensors and with as many pictures at once, so that only the number of passes differs. Our pass is also timed with
other numbers of pictures at once. Ratios are medians of interleaved rounds in one run.
"""

import statistics
import time

import torch

from expunge.data.dataset import from_tensors
from expunge.engine.stream import scoring_size
from expunge.models.resnet20 import ResNet20
from expunge.pools import evidence

PARTS = {"retain": 2_700, "forget": 300, "validation": 333, "test": 667}
"""CIFAR-10's 40,500 + 4,500 + 5,000 + 10,000, divided by fifteen."""
PROTOCOLS = {
    "Unlearn-Saliency": [*PARTS, "retain[:test]", "test", "forget"],
    "Unlearn-Sparse": [*PARTS, "retain[:test]", "test", "forget", "retain", "test"],
}
AT_ONCE = (16, 250, 1000)
"""Pictures in a batch, beside the 64 that are the default on a processor."""


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    data, index = _data()
    model = ResNet20().build(10, (3, 32, 32)).eval()
    forwards = [0]
    model.register_forward_hook(lambda module, inputs, output: forwards.__setitem__(0, forwards[0] + len(inputs[0])))
    work = {"ours": lambda: evidence.collect(model, data)}
    work |= {name: lambda parts=parts: _published(model, data, index, parts) for name, parts in PROTOCOLS.items()}
    work |= {f"ours, {size} at once": lambda size=size: evidence.collect(model, data, size) for size in AT_ONCE}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    passes = {}
    for _ in range(5):
        for name, run in work.items():
            forwards[0], start = 0, time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
            passes[name] = forwards[0]
    unique = len(data.source)
    print(f"{'protocol':20} {'forwards / image':>18} {'CPU s':>8} {'time / ours':>12}")
    for name in work:
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["ours"], strict=True))
        print(f"{name:20} {passes[name] / unique:18.2f} {statistics.median(seconds[name]):8.2f} {ratio:12.2f}")


def _data():
    made = torch.Generator().manual_seed(0)
    sizes = list(PARTS.values())
    train = sum(sizes[:3])
    x = torch.randint(0, 256, (sum(sizes), 3, 32, 32), dtype=torch.uint8, generator=made)
    y = torch.arange(sum(sizes)) % 10
    data = from_tensors(x[:train], y[:train], x[train:], y[train:])
    index = dict(zip(PARTS, torch.arange(sum(sizes)).split(sizes), strict=True))
    index["retain[:test]"] = index["retain"][: PARTS["test"]]
    return data, index


@torch.no_grad()
def _published(model, data, index, parts) -> None:
    for part in parts:
        for x, _ in data.source.batches(index[part], scoring_size(model), augment=False, seed=0, epoch=0):
            model(x)


if __name__ == "__main__":
    main()
