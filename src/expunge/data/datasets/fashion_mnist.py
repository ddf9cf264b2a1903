"""Fashion-MNIST: a part that comes with the package, or all of it from its idx files."""

from typing import Literal

import torch

from expunge.config import hyper
from expunge.data.augmentation import Augmentation
from expunge.data.bundled import read_fashion_mnist
from expunge.data.dataset import Data, OfficialDataset, assemble
from expunge.data.official import load_idx
from expunge.errors import BadInput

CLASS_NAMES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


class FashionMnist(OfficialDataset):
    """Grey pictures of clothes, 28 x 28 pixels: 5,000 + 2,000 that come with the package, or all 60,000 + 10,000."""

    source = "Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv 1708.07747, MIT licence"
    augmentation = Augmentation(pad=4, flip=True)

    variant: Literal["mini", "full"] = hyper("mini", "mini comes with the package; full is read from the official idx files")

    def load(self, device: torch.device | str = "cpu") -> Data:
        """Return the examples; see `expunge.data.dataset.Dataset.load`."""
        if self.variant == "mini":
            self._refuse_official_fields()
            return assemble(self, read_fashion_mnist(), CLASS_NAMES, device, (0.2860,), (0.3530,))
        from torchvision.datasets import FashionMNIST

        return load_idx(self, FashionMNIST, "31 MB", CLASS_NAMES, device, 0.2860, 0.3530)

    def _refuse_official_fields(self) -> None:
        for field in ("root", "download", "cache"):
            if getattr(self, field):
                raise BadInput(
                    f"data.{field}", "the mini variant comes with the package and reads no other files.", "Add data.variant=full."
                )
