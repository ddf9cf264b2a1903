"""Augmented and plain batches: expunge against torchvision transforms over PIL in a DataLoader without workers.

    python benchmarks/data_path.py [ROUNDS]

Both sides give float32 batches of the same 10,000 pictures of 32 x 32 x 3. Rounds take turns, so that a change of the machine's load meets
both; the ratio is of the medians. Marks to hold: augmented at least 8 times as fast, plain at least 30 times as fast as the augmented peer.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from expunge.data.augmentation import Augmentation
from expunge.data.source import TensorSource
from expunge.engine import randomness

COUNT, BATCH = 10_000, 256


class Pictures(Dataset):
    """As torchvision's CIFAR10: an array, a PIL picture per access, a transform."""

    def __init__(self, images: np.ndarray, transform: Callable):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[position])), 0


def seconds(batches: Callable) -> float:
    started, seen = time.perf_counter(), 0
    for x, _ in batches():
        seen += len(x)
    assert seen == COUNT
    return time.perf_counter() - started


def main(rounds: int = 7) -> None:
    torch.set_num_threads(1)
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    source = TensorSource(torch.from_numpy(images).permute(0, 3, 1, 2), torch.zeros(COUNT, dtype=torch.int64), "cpu", Augmentation())
    crop = transforms.Compose([transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    index = torch.arange(COUNT)
    epochs = iter(range(10**6))

    def ours(augment: bool, shuffled: bool) -> Callable:
        def batches():
            epoch = next(epochs)
            order = randomness.shuffle(0, "benchmark", epoch, index) if shuffled else index
            return source.batches(order, BATCH, augment=augment, seed=0, epoch=epoch)

        return batches

    sides = {
        "peer, augmented": lambda: DataLoader(Pictures(images, crop), BATCH, shuffle=True),
        "peer, plain": lambda: DataLoader(Pictures(images, transforms.ToTensor()), BATCH),
        "ours, augmented": ours(True, True),
        "ours, plain": ours(False, False),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        seconds(side)
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(seconds(side))
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"{COUNT} pictures of 32x32x3, batches of {BATCH}, median of {rounds} interleaved rounds, 1 thread, torch {torch.__version__}")
    print(f"{'path':<18}{'pictures/s':>12}{'x peer, augmented':>20}{'x peer, plain':>16}")
    for name, value in median.items():
        print(f"{name:<18}{COUNT / value:>12,.0f}{median['peer, augmented'] / value:>20.1f}{median['peer, plain'] / value:>16.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
