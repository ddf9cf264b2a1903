"""A data set: training and test examples behind one index, with what a model must know about them."""

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from expunge.config import Component, Flag, Fraction, PositiveInt, hyper
from expunge.data.augmentation import Augmentation
from expunge.data.names import Names
from expunge.data.source import LoaderSource, TensorSource
from expunge.errors import BadInput

NO_MODEL = "No model can learn them, and every accuracy on test examples counts them."
"""Why classes in the test part alone are no good."""
SHOWN = 5
"""Classes that an error names before the rest is counted."""
MOST_CLASSES = 100_000
"""Classes without names that may be more than there are examples."""


@dataclass(frozen=True)
class Data:
    """Examples by canonical index: training examples are 0 to N - 1, test examples follow.

    Attributes:
        name: what the data set is called in tables.
        source: the examples, training and test.
        train_size: N.
        class_names: one for each label, in the order of the labels.
        mean: per channel, of pixels in [0, 1]; what the model's first layer subtracts.
        std: per channel, likewise; what it divides by.
        input_shape: (C, H, W) of pictures; the shape of one input otherwise.
        fingerprint: hash of content and labels; changes when any pixel or label does.
        keys: what each example is called by whoever may ask to forget it (file name, key of a shard, column); None without such names.
    """

    name: str
    source: TensorSource | LoaderSource
    train_size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_shape: tuple[int, ...]
    fingerprint: str
    keys: Names | None = field(default=None, compare=False)

    @property
    def num_classes(self) -> int:
        """Number of classes, those without any example included."""
        return len(self.class_names)

    @property
    def labels(self) -> Tensor:
        """Labels of all examples in canonical order, int64 ``[N + T]``, on the CPU."""
        return self.source.labels

    @property
    def train_index(self) -> Tensor:
        """Canonical indices of the training examples, int64 ``[N]``."""
        return torch.arange(self.train_size)

    @property
    def test_index(self) -> Tensor:
        """Canonical indices of the test examples, int64 ``[T]``."""
        return torch.arange(self.train_size, len(self.source))


class Arrays(NamedTuple):
    """The examples of a data set in memory: pictures uint8 ``[n, C, H, W]`` or float inputs ``[n, ...]``, labels int64 ``[n]``."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor


class Dataset(Component):
    """A data set that can be chosen by name. Concrete ones say how their examples are read.

    Class attributes: ``augmentation`` (what ``augment=true`` does; None if nothing suits) and ``augmented`` (whether it is on when
    nobody chooses).
    """

    augmentation: ClassVar[Augmentation | None] = None
    augmented: ClassVar[bool] = False

    train_limit: PositiveInt | None = hyper(None, "use only the first training examples, this many")
    test_limit: PositiveInt | None = hyper(None, "use only the first test examples, this many")
    validation_fraction: Fraction | None = hyper(
        None,
        "share of each class that no model is trained on; 0.1 if not given, and 0 for weights from a file, whose training is past",
        lt=1,
    )
    augment: Flag | None = hyper(None, "random crops and flips while training; the data set's own habit if not given")

    @abstractmethod
    def load(self, device: torch.device | str = "cpu") -> Data:
        """Return the examples.

        Raises:
            BadInput: a file is missing, damaged or of another kind.
        """

    def chosen_augmentation(self) -> Augmentation | None:
        """Return what is done to training pictures; None for nothing.

        Raises:
            BadInput: augmentation is asked for and the data set has none.
        """
        if not (self.augmented if self.augment is None else self.augment):
            return None
        if self.augmentation is None:
            raise BadInput("data.augment", f"{self.name} has no augmentation.", "Use data.augment=false.")
        return self.augmentation


class OfficialDataset(Dataset):
    """A data set that is read from its official files."""

    root: Path | None = hyper(None, "folder with the official files; the cache folder if not given")
    download: Flag = hyper(False, "fetch the official files when they are missing")
    cache: Path | None = hyper(None, "folder for the converted pictures; beside the official files if not given")


def limited(arrays: Arrays, train_limit: int | None, test_limit: int | None) -> Arrays:
    """Return the first examples of each part.

    Raises:
        BadInput: a limit above the number of examples, or test examples of classes without any training example, whatever the limits.
    """
    _check_trained(arrays.y_train, arrays.y_test)
    x_train, y_train = _first("train_limit", train_limit, arrays.x_train, arrays.y_train)
    x_test, y_test = _first("test_limit", test_limit, arrays.x_test, arrays.y_test)
    return Arrays(x_train, y_train, x_test, y_test)


def _check_trained(trained: Tensor, tested: Tensor) -> None:
    """Refuse test labels ``[T]`` that no training label ``[N]`` equals; labels that are none are refused where they are read."""
    if trained.dim() != 1 or tested.dim() != 1 or not len(trained) or trained.is_floating_point() or tested.is_floating_point():
        return
    if alone := _tested_alone(trained, tested):
        found = f"the test part holds labels that no training example has: {_shown(alone)}. {NO_MODEL}"
        raise BadInput("data", found, "Leave these test examples out, or add training examples.")


def _first(field: str, limit: int | None, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if limit is not None and limit > len(y):
        raise BadInput(f"data.{field}", f"there are {len(y)} examples, got a limit of {limit}.", "Choose a smaller one, or leave it out.")
    return x[:limit], y[:limit]


def assemble(
    config: Dataset,
    arrays: Arrays,
    class_names: tuple[str, ...],
    device: torch.device | str,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Data:
    """Return the data of a configuration, with its limits and augmentation; moments are measured if not given."""
    arrays = limited(arrays, config.train_limit, config.test_limit)
    return from_tensors(
        *arrays,
        name=config.name,
        class_names=class_names,
        device=device,
        augmentation=config.chosen_augmentation(),
        mean=mean,
        std=std,
    )


def from_tensors(
    x_train: Tensor | np.ndarray,
    y_train: Tensor | np.ndarray,
    x_test: Tensor | np.ndarray,
    y_test: Tensor | np.ndarray,
    *,
    name: str = "tensors",
    class_names: tuple[str, ...] | None = None,
    device: torch.device | str = "cpu",
    augmentation: Augmentation | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Data:
    """Return data that lies in memory.

    Args:
        x_train: uint8 pictures ``[N, C, H, W]``, ``[N, H, W, C]`` with 1 or 3 channels, or ``[N, H, W]``; or floating point ``[N, ...]``.
        y_train: whole numbers from 0, ``[N]``.
        x_test: as ``x_train``, ``[T, ...]``.
        y_test: as ``y_train``, ``[T]``.
        name: what tables call it.
        class_names: names of the classes; their numbers if None.
        device: where it is kept.
        augmentation: how training pictures are augmented; None for not at all.
        mean: per channel, pixels in [0, 1]; measured on the training examples if None.
        std: likewise.

    Raises:
        BadInput: empty parts, shapes or types that do not fit together, or labels beyond the class names.
    """
    parts = [torch.as_tensor(x) for x in (x_train, x_test)]
    if min(len(parts[0]), len(parts[1])) == 0:
        raise BadInput("data", f"found {len(parts[0])} training and {len(parts[1])} test examples; both are needed.")
    x_train, x_test = (_channels_first(x) for x in parts)
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype != x_test.dtype:
        found = f"{list(x_train.shape)} {x_train.dtype} and {list(x_test.shape)} {x_test.dtype}"
        raise BadInput("data", f"training and test inputs must have one shape and type, got {found}.")
    for where, x in (("data.x_train", x_train), ("data.x_test", x_test)):
        check_finite(where, x)
    labels = [_matching("data.y_train", y_train, x_train), _matching("data.y_test", y_test, x_test)]
    source = TensorSource(torch.cat([x_train, x_test]), torch.cat(labels), device, augmentation)
    return from_source(source, len(x_train), name=name, class_names=class_names, mean=mean, std=std)


def _channels_first(x: Tensor) -> Tensor:
    if x.dtype != torch.uint8:
        return x
    if x.dim() == 3:
        return x[:, None]
    return x.permute(0, 3, 1, 2) if x.dim() == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3) else x


def check_finite(where: str, x: Tensor) -> None:
    """Refuse inputs ``[n, ...]`` that hold values that are not finite.

    Raises:
        BadInput: how many examples do.
    """
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        rows = int((~torch.isfinite(x.flatten(1)).all(1)).sum())
        raise BadInput(where, f"{rows} of {len(x)} inputs hold values that are not finite.", "Remove or repair them.")


def _matching(where: str, labels: Any, inputs: Tensor) -> Tensor:
    labels = torch.as_tensor(labels)
    if labels.shape != (len(inputs),):
        raise BadInput(where, f"expected one label for each of {len(inputs)} examples, got the shape {list(labels.shape)}.")
    return labels


def from_source(
    source: TensorSource | LoaderSource,
    train_size: int,
    *,
    name: str,
    class_names: tuple[str, ...] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    fingerprint: str | None = None,
) -> Data:
    """Return data whose first ``train_size`` examples are for training; moments and fingerprint are measured where they can be.

    Raises:
        BadInput: a label beyond the class names, one class only, or moments of another length than there are channels.
    """
    needed = int(source.labels.max()) + 1
    class_names = class_names or numbered(needed - 1, len(source.labels), "data.y")
    if needed > len(class_names):
        raise BadInput("data", f"found the label {needed - 1}, but there are {len(class_names)} class names.")
    _check_several(source.labels[:train_size], class_names)
    if alone := _tested_alone(source.labels[:train_size], source.labels[train_size:]):
        names = _shown([class_names[label] for label in alone])
        warnings.warn(f"data: no training example is of classes in the test part: {names}. {NO_MODEL}", stacklevel=2)
    if mean is None or std is None:
        if not isinstance(source, TensorSource):
            raise BadInput("data.mean", "streamed data needs the mean and standard deviation of its channels.")
        mean, std = source.moments(torch.arange(train_size))
    if not len(mean) == len(std) == source.input_shape[0]:
        raise BadInput("data.mean", f"expected {source.input_shape[0]} values, one for each channel, got {len(mean)} and {len(std)}.")
    if fingerprint is None:
        fingerprint = source.fingerprint() if isinstance(source, TensorSource) else _label_fingerprint(source)
    return Data(name, source, train_size, tuple(class_names), tuple(mean), tuple(std), source.input_shape, fingerprint)


def _check_several(labels: Tensor, class_names: tuple[str, ...]) -> None:
    """Refuse training labels ``[N]`` with nothing to tell apart: every model would be right, before and after."""
    found = labels.unique().tolist()
    if len(found) < 2:
        only = (
            f"the training part holds one class only ({class_names[found[0]]}); at least two are needed." if found else "holds no labels."
        )
        raise BadInput("data", only, "Add training examples of another class; where data.train_limit is given, raise it.")


def _tested_alone(trained: Tensor, tested: Tensor) -> list[int]:
    """Return the labels of test examples that no training example has, ascending."""
    found = tested.unique()
    return found[~torch.isin(found, trained)].tolist()


def _shown(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def numbered(largest: int, examples: int, where: str) -> tuple[str, ...]:
    """Return names of classes that have none: their numbers from 0.

    Args:
        largest: number of a class that there is.
        examples: how many there are.
        where: the field, for the error.

    Raises:
        BadInput: many more classes than examples: the numbers are something else, such as identifiers.
    """
    if largest >= max(MOST_CLASSES, examples):
        found = f"found the label {largest}, which would make {largest + 1} classes for {examples} examples."
        raise BadInput(where, found, "Number the classes from 0 without large gaps, or give their names.")
    return tuple(map(str, range(largest + 1)))


def _label_fingerprint(source: LoaderSource) -> str:
    """Streamed pictures are not read for a hash: it covers their shape and their labels."""
    hashed = hashlib.sha256(f"streamed {source.input_shape}".encode())
    hashed.update(source.labels.numpy().data)
    return hashed.hexdigest()
