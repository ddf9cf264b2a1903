"""Pictures in folders, one folder a class."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.config import NonNegativeFloat, NonNegativeInt, PositiveInt, hyper
from expunge.data.augmentation import Augmentation
from expunge.data.dataset import Arrays, Data, Dataset, from_source, from_tensors
from expunge.data.official import converted
from expunge.data.source import LoaderSource
from expunge.errors import BadInput

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Folder(Dataset):
    """Pictures in ``ROOT/train/CLASS/`` and ``ROOT/test/CLASS/`` (or ``val``), each brought to one size in colour.

    The shorter side is resized and the centre cut out, so that proportions are kept. What fits the memory limit is converted once and
    lies on the device; more than that is read batch by batch. A limit takes equally many pictures of each class, as far as there are.
    """

    augmentation = Augmentation(pad=4, flip=True)
    augmented = True
    prefix_field = "root"

    root: Path | None = hyper(None, "folder with train/ and test/ (or val/)")
    size: PositiveInt = hyper(64, "pixels on a side")
    memory_limit_gb: NonNegativeFloat = hyper(4.0, "largest size of all pictures together that is kept on the device")
    workers: NonNegativeInt = hyper(2, "processes that read pictures when they are not kept on the device")
    cache: Path | None = hyper(None, "folder for the converted pictures; beside train/ if not given")

    def load(self, device: torch.device | str = "cpu") -> Data:
        """Return the examples; see `expunge.data.dataset.Dataset.load`.

        When pictures are not kept on the device, mean and standard deviation are ImageNet's, and the fingerprint covers the names and sizes
        of the files.
        """
        if self.root is None:
            raise BadInput("data.root", "no folder is given.", "Write data.root=FOLDER, one with train/ and test/ in it.")
        train, test = _listed(self.root / "train"), _listed(_test_folder(self.root))
        if train.classes != test.classes:
            odd = sorted(set(train.classes) ^ set(test.classes))
            raise BadInput("data.root", f"train and test differ in their classes, for example {odd[0]!r}.", "Both need the same folders.")
        parts = [_limited(train.samples, self.train_limit, "train_limit"), _limited(test.samples, self.test_limit, "test_limit")]
        needed = sum(map(len, parts)) * 3 * self.size**2
        load = self._resident if needed <= self.memory_limit_gb * 1e9 else self._streamed
        return load(parts, tuple(train.classes), device)

    def _resident(self, parts: list[list[tuple[str, int]]], class_names: tuple[str, ...], device: torch.device | str) -> Data:
        def read() -> tuple[Arrays, tuple[str, ...]]:
            return Arrays(*_read_all(parts[0], self.size), *_read_all(parts[1], self.size)), class_names

        root = Path(str(self.root))
        files = [path for part in parts for path, _ in part]
        arrays, _ = converted(f"{root.name}-{self.size}px", self.cache, root, files, read)
        return from_tensors(*arrays, name=root.name, class_names=class_names, device=device, augmentation=self.chosen_augmentation())

    def _streamed(self, parts: list[list[tuple[str, int]]], class_names: tuple[str, ...], device: torch.device | str) -> Data:
        root, samples = Path(str(self.root)), parts[0] + parts[1]
        pictures = Pictures([path for path, _ in samples], self.size)
        labels = torch.tensor([label for _, label in samples])
        source = LoaderSource(pictures, labels, device, self.chosen_augmentation(), self.workers)
        hashed = hashlib.sha256(f"{self.size}".encode())
        for path, label in samples:
            hashed.update(f"{Path(path).relative_to(root)}\0{Path(path).stat().st_size}\0{label}\n".encode())
        return from_source(
            source,
            len(parts[0]),
            name=root.name,
            class_names=class_names,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            fingerprint=hashed.hexdigest(),
        )


class Pictures:
    """A map-style dataset of picture files: uint8 ``[3, size, size]`` and the label 0, which `LoaderSource` does not use."""

    def __init__(self, paths: list[str], size: int):
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(read_picture(self.paths[position], self.size)).permute(2, 0, 1), 0


def read_picture(path: str, size: int) -> np.ndarray:
    """Return a picture as uint8 ``[size, size, 3]``: shorter side resized, centre cut out.

    Raises:
        BadInput: not a picture, or damaged.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            return np.array(ImageOps.fit(opened.convert("RGB"), (size, size), Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadInput("data.root", f"{path} cannot be read as a picture: {error}.", "Delete or replace it.") from None


def _listed(folder: Path) -> Any:
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise BadInput(
            "data.root", f"{folder} does not exist.", "Pictures are expected in ROOT/train/CLASS/ and ROOT/test/CLASS/ (or val)."
        )
    try:
        return ImageFolder(folder)
    except FileNotFoundError as error:
        raise BadInput("data.root", f"{folder}: {' '.join(str(error).split())}.", "Each class is a folder with pictures in it.") from None


def _test_folder(root: Path) -> Path:
    return root / "val" if not (root / "test").is_dir() and (root / "val").is_dir() else root / "test"


def _limited(samples: list[tuple[str, int]], limit: int | None, field: str) -> list[tuple[str, int]]:
    if limit is None:
        return samples
    if limit > len(samples):
        raise BadInput(
            f"data.{field}", f"there are {len(samples)} examples, got a limit of {limit}.", "Choose a smaller one, or leave it out."
        )
    seen: dict[int, int] = {}
    rounds = []
    for position, (_, label) in enumerate(samples):
        seen[label] = seen.get(label, 0) + 1
        rounds.append((seen[label], label, position))
    return [samples[position] for position in sorted(position for _, _, position in sorted(rounds)[:limit])]


def _read_all(samples: list[tuple[str, int]], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        for position, image in enumerate(pool.map(lambda sample: read_picture(sample[0], size), samples)):
            images[position] = torch.from_numpy(image).permute(2, 0, 1)
    return images, torch.tensor([label for _, label in samples])
