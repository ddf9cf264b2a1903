"""The user's own arrays, from one file."""

from pathlib import Path

import numpy as np
import torch

from expunge.config import Flag, PositiveInt, Text, hyper
from expunge.data.augmentation import Augmentation
from expunge.data.dataset import Arrays, Data, Dataset, from_tensors, limited
from expunge.errors import BadInput


class Tensors(Dataset):
    """Arrays ``x_train, y_train, x_test, y_test`` from a ``.safetensors`` or ``.npz`` file: uint8 pictures, or floating point inputs.

    Pictures are ``[N, C, H, W]``, ``[N, H, W, C]`` with 1 or 3 channels, or ``[N, H, W]``. In Python, use
    `expunge.data.dataset.from_tensors`.
    """

    prefix_field = "file"

    file: Path | None = hyper(None, "a .safetensors or .npz file with x_train, y_train, x_test, y_test")
    class_names: tuple[Text, ...] | None = hyper(None, "names of the classes in the order of their numbers")
    pad: PositiveInt = hyper(4, "pixels added around a picture before the random crop, with augment=true")
    flip: Flag = hyper(True, "whether half of the pictures are flipped, with augment=true")

    def load(self, device: torch.device | str = "cpu") -> Data:
        """Return the examples; see `expunge.data.dataset.Dataset.load`."""
        if self.file is None:
            raise BadInput("data.file", "no file is given.", "Write data.file=FILE, a .safetensors or .npz file.")
        arrays = limited(_read(self.file), self.train_limit, self.test_limit)
        augmentation = self.chosen_augmentation()
        return from_tensors(*arrays, name=self.file.stem, class_names=self.class_names, device=device, augmentation=augmentation)

    def chosen_augmentation(self) -> Augmentation | None:
        """Return what ``pad`` and ``flip`` say where it is asked for; see `expunge.data.dataset.Dataset.chosen_augmentation`."""
        return Augmentation(self.pad, self.flip) if self.augment else None


def _read(path: Path) -> Arrays:
    if not path.is_file():
        raise BadInput("data.file", f"{path} does not exist.", "Give a .safetensors or .npz file.")
    found = {".safetensors": _read_safetensors, ".npz": _read_npz}.get(path.suffix)
    if found is None:
        raise BadInput(
            "data.file", f"{path} ends in {path.suffix!r}; .safetensors and .npz can be read.", "Save the arrays as one of these."
        )
    arrays = found(path)
    missing = [name for name in Arrays._fields if name not in arrays]
    if missing:
        raise BadInput("data.file", f"{path} holds no {', '.join(missing)}; found {', '.join(sorted(arrays)) or 'nothing'}.")
    return Arrays(*(arrays[name] for name in Arrays._fields))


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise BadInput("data.file", f"{path} is not a safetensors file or is damaged: {error}.") from None


def _read_npz(path: Path) -> dict[str, torch.Tensor]:
    import zipfile
    import zlib

    try:
        with np.load(path, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in Arrays._fields if name in opened.files}
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        detail = "it holds Python objects" if "pickle" in str(error) else str(error)
        raise BadInput("data.file", f"{path} cannot be read: {detail}.", "Save plain arrays of numbers with numpy.savez.") from None
    for name, array in arrays.items():
        if array.dtype.kind in "USM":
            remedy = "Save numbers from 0, and give the names with data.class_names=[...]." if name.startswith("y") else "Save numbers."
            raise BadInput("data.file", f"{path} holds text or dates in {name}.", remedy)
    try:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    except TypeError as error:
        raise BadInput("data.file", f"{path} cannot be read: {error}.", "Save plain arrays of numbers with numpy.savez.") from None
