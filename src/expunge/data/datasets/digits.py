"""Handwritten digits of scikit-learn."""

import numpy as np
import torch

from expunge.data.augmentation import Augmentation
from expunge.data.dataset import Arrays, Data, Dataset, assemble
from expunge.engine import randomness


class Digits(Dataset):
    """1,797 handwritten digits of 8 x 8 pixels, from scikit-learn; a fixed fifth of each class is for testing."""

    source = "UCI optical recognition of handwritten digits, test part (Alpaydin and Kaynak, 1998), CC BY 4.0"
    augmentation = Augmentation(pad=1, flip=False)

    def load(self, device: torch.device | str = "cpu") -> Data:
        """Return the examples; they need no file and no network."""
        from sklearn.datasets import load_digits

        found = load_digits()
        images = torch.from_numpy(np.rint(found.images * (255 / 16)).astype(np.uint8))[:, None]
        labels = torch.from_numpy(found.target).long()
        train, test = _fixed_split(labels)
        arrays = Arrays(images[train], labels[train], images[test], labels[test])
        return assemble(self, arrays, tuple("0123456789"), device)


def _fixed_split(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same 80 and 20 % of each class for everybody: it is the data set, not a choice of a run."""
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        members = randomness.shuffle(0, "digits", 0, (labels == label).nonzero().squeeze(1))
        is_test[members[: round(0.2 * len(members))]] = True
    return (~is_test).nonzero().squeeze(1), is_test.nonzero().squeeze(1)
