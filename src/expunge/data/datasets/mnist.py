"""MNIST from its idx files."""

import torch

from expunge.data.augmentation import Augmentation
from expunge.data.dataset import Data, OfficialDataset
from expunge.data.official import load_idx


class Mnist(OfficialDataset):
    """70,000 handwritten digits of 28 x 28 pixels, from the four idx files, gzipped or not."""

    source = "LeCun, Cortes and Burges, The MNIST database, 1998"
    augmentation = Augmentation(pad=2, flip=False)

    def load(self, device: torch.device | str = "cpu") -> Data:
        """Return the examples; see `expunge.data.dataset.Dataset.load`."""
        from torchvision.datasets import MNIST

        return load_idx(self, MNIST, "12 MB", tuple("0123456789"), device, 0.1307, 0.3081)
