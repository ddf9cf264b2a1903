"""What CIFAR-10 and CIFAR-100 have in common: both are read by torchvision, after their MD5 sums have been checked."""

from typing import Any

import torch

from expunge.data.dataset import Arrays, Data, OfficialDataset, assemble
from expunge.data.official import check_files, converted, locate


def load_cifar(
    config: OfficialDataset, reader: type[Any], size: str, device: torch.device | str, mean: tuple[float, ...], std: tuple[float, ...]
) -> Data:
    """Return the data of a torchvision CIFAR class.

    The official files are pickles, so their MD5 sums are compared with the published ones before any is opened.

    Raises:
        BadInput: files are missing or are not the official ones.
    """
    files = [tuple(entry) for entry in (*reader.train_list, *reader.test_list)] + [(reader.meta["filename"], reader.meta["md5"])]
    folder = locate(config, [f"{reader.base_folder}/{reader.meta['filename']}"], size, lambda root: reader(root, download=True))

    def read() -> tuple[Arrays, list[str]]:
        check_files(folder, files)
        train, test = reader(folder.parent, train=True), reader(folder.parent, train=False)
        return Arrays(*_tensors(train), *_tensors(test)), train.classes

    arrays, class_names = converted(config.name, config.cache, folder, [name for name, _ in files], read)
    return assemble(config, arrays, class_names, device, mean, std)


def _tensors(part: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets)
