"""CIFAR-100 from its official files."""

import torch

from expunge.data.augmentation import Augmentation
from expunge.data.cifar import load_cifar
from expunge.data.dataset import Data, OfficialDataset


class Cifar100(OfficialDataset):
    """60,000 colour pictures of 100 classes, 32 x 32 pixels, from the official ``cifar-100-python``."""

    source = "Krizhevsky, Learning multiple layers of features from tiny images, 2009"
    augmentation = Augmentation(pad=4, flip=True)
    augmented = True

    def load(self, device: torch.device | str = "cpu") -> Data:
        """Return the examples; see `expunge.data.dataset.Dataset.load`."""
        from torchvision.datasets import CIFAR100

        return load_cifar(self, CIFAR100, "170 MB", device, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
