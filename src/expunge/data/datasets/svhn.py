"""SVHN from its official files."""

from pathlib import Path

import torch

from expunge.data.augmentation import Augmentation
from expunge.data.dataset import Arrays, Data, OfficialDataset, assemble
from expunge.data.official import check_files, converted, locate


class Svhn(OfficialDataset):
    """Colour pictures of house numbers, 32 x 32 pixels, 73,257 + 26,032, from ``train_32x32.mat`` and ``test_32x32.mat``."""

    source = "Netzer et al., Reading digits in natural images, 2011"
    augmentation = Augmentation(pad=2, flip=False)

    def load(self, device: torch.device | str = "cpu") -> Data:
        """Return the examples; see `expunge.data.dataset.Dataset.load`."""
        from torchvision.datasets import SVHN

        files = [(SVHN.split_list[part][1], SVHN.split_list[part][2]) for part in ("train", "test")]

        def fetch(root: Path) -> None:
            for part in ("train", "test"):
                SVHN(root, split=part, download=True)

        folder = locate(self, [files[0][0]], "250 MB", fetch)

        def read() -> tuple[Arrays, tuple[str, ...]]:
            check_files(folder, files)
            parts = []
            for part in ("train", "test"):
                opened = SVHN(folder, split=part)
                parts += [torch.from_numpy(opened.data), torch.from_numpy(opened.labels)]
            return Arrays(*parts), tuple("0123456789")

        arrays, class_names = converted(self.name, self.cache, folder, [name for name, _ in files], read)
        return assemble(self, arrays, class_names, device, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
