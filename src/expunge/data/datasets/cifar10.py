"""CIFAR-10 from its official files."""

import torch

from expunge.data.augmentation import Augmentation
from expunge.data.cifar import load_cifar
from expunge.data.dataset import Data, OfficialDataset


class Cifar10(OfficialDataset):
    """60,000 colour pictures of 10 classes, 32 x 32 pixels, from the official ``cifar-10-batches-py``."""

    source = "Krizhevsky, Learning multiple layers of features from tiny images, 2009"
    augmentation = Augmentation(pad=4, flip=True)
    augmented = True

    def load(self, device: torch.device | str = "cpu") -> Data:
        """Return the examples; see `expunge.data.dataset.Dataset.load`."""
        from torchvision.datasets import CIFAR10

        return load_cifar(self, CIFAR10, "170 MB", device, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
