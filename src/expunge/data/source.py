"""Where examples lie: uint8 or float tensors on the device, or a torch Dataset that is read in batches."""

import hashlib
import itertools
import operator
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from expunge.data.augmentation import Augmentation, Draws, Noise, Trigger, crop_and_flip, draw
from expunge.engine.stream import Size
from expunge.errors import BadInput


@dataclass(frozen=True)
class _Alterations:
    """What is done to raw pictures on their way into a batch: trigger, augmentation, scaling to [0, 1]."""

    augmentation: Augmentation | None
    trigger: Trigger | Noise | None = None
    triggered: Tensor | None = None

    @property
    def smallest_cut(self) -> float:
        """Smallest share of a picture that is cut out before it is augmented; 1 for none."""
        return 1.0 if self.augmentation is None else self.augmentation.cut

    def draws(self, order: Tensor, size: Size, augmented: bool, seed: int, epoch: int) -> Iterator[Draws | None]:
        """Yield what happens to each chunk of an epoch; drawn at once, which costs a twentieth of drawing batch by batch."""
        if augmented and self.augmentation is not None:
            return draw(self.augmentation, seed, epoch, order).split(size)
        return itertools.repeat(None, len(order.split(size)))

    def finish(self, images: Tensor, chunk: Tensor, draws: Draws | None) -> Tensor:
        """Return float32 ``[B, C, H, W]`` in channels_last memory order from uint8 ``[B, H, W, C]``."""
        if self.trigger is not None and self.triggered is not None:
            images = self.trigger.stamp(images, self.triggered[chunk].to(images.device), chunk)
        if draws is not None and self.augmentation is not None:
            images = crop_and_flip(images, self.augmentation, draws)
        return images.to(torch.float32).div_(255).permute(0, 3, 1, 2)


class TensorSource:
    """Examples that lie on the device as one tensor.

    Args:
        inputs: uint8 pictures ``[N, C, H, W]``, or floating point inputs of any shape ``[N, ...]``, which are not augmented.
        labels: int64 ``[N]``.
        device: where the inputs are kept and the batches appear.
        augmentation: how pictures are augmented when a batch asks for it; None leaves them as they are.

    Raises:
        BadInput: another type or shape, or numbers of inputs and labels that differ.
    """

    resident = True

    def __init__(
        self, inputs: Tensor, labels: Tensor, device: torch.device | str = "cpu", augmentation: Augmentation | None = None
    ) -> None:
        self.labels = _checked_labels(labels, len(inputs))
        self.is_picture = inputs.dtype == torch.uint8
        if self.is_picture and inputs.dim() != 4:
            raise BadInput("data.x", f"uint8 pictures have the shape [N, C, H, W], got {list(inputs.shape)}.")
        if not self.is_picture and not inputs.is_floating_point():
            raise BadInput("data.x", f"expected uint8 pictures or floating point inputs, got {inputs.dtype}.")
        if not self.is_picture and augmentation is not None:
            raise BadInput("data.augment", "only uint8 pictures are augmented; these inputs are floating point.", "Use data.augment=false.")
        if augmentation is not None and augmentation.cut < 1:
            raise BadInput("data.crop", "random parts are cut out of pictures that are read anew each time; these lie in memory.")
        self.input_shape = tuple(inputs.shape[1:])
        # Height, width, channels: a row of a crop is then one block of memory, and the float batch is channels_last for free.
        stored = inputs.permute(0, 2, 3, 1) if self.is_picture else inputs.to(torch.float32)
        self._stored = stored.contiguous().to(device)
        self._device_labels = self.labels.to(device)
        self._alterations = _Alterations(augmentation)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where batches appear."""
        return self._stored.device

    def batches(self, order: Tensor, size: Size, *, augment: bool, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(x, y)`` on the device for consecutive chunks of ``order``; see `expunge.engine.stream.Source`."""
        drawn = self._alterations.draws(order, size, augment, seed, epoch)
        for chunk, place, draws in zip(order.split(size), order.to(self.device).split(size), drawn, strict=True):
            x = self._stored.index_select(0, place)
            if self.is_picture:
                x = self._alterations.finish(x, chunk, draws)
            elif x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            yield x, self._device_labels.index_select(0, place)

    def altered(self, labels: Tensor, trigger: Trigger | Noise | None = None, triggered: Tensor | None = None) -> Self:
        """Return the source with other labels and a trigger on some pictures; the pictures are shared, not copied.

        Args:
            labels: int64 ``[N]``.
            trigger: the square to stamp, or the noise to put in place of a picture, before any augmentation.
            triggered: bool ``[N]``, which pictures carry it.
        """
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.labels = _checked_labels(labels, len(self))
        made._device_labels = made.labels.to(self.device)
        made._alterations = _stamping(self, trigger, triggered)
        return made

    def digests(self) -> np.ndarray:
        """Return a 128-bit hash of each example's raw content, ``[N]`` of dtype V16; equal content gives equal hashes."""
        raw = self._stored.cpu().numpy().reshape(len(self), -1)
        found = [hashlib.blake2b(row.data, digest_size=16).digest() for row in raw]
        return np.frombuffer(b"".join(found), dtype="V16")

    def fingerprint(self) -> str:
        """Return the SHA-256 of shape, content and labels, as 64 hexadecimal digits."""
        hashed = hashlib.sha256(f"{list(self._stored.shape)} {self._stored.dtype}".encode())
        hashed.update(self._stored.cpu().numpy().data)
        hashed.update(self.labels.numpy().data)
        return hashed.hexdigest()

    def moments(self, index: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation per channel (the first axis of an input) over some examples, pixels in [0, 1]."""
        total = squares = torch.zeros(self.input_shape[0], dtype=torch.float64, device=self.device)
        count = 0
        for x, _ in self.batches(index, 4096, augment=False, seed=0, epoch=0):
            values = x.to(torch.float64).transpose(0, 1).flatten(1)
            total, squares, count = total + values.sum(1), squares + values.square().sum(1), count + values.shape[1]
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        std = torch.where(std > 1e-6, std, torch.ones_like(std))  # a constant channel is centred, not divided by zero
        return tuple(mean.tolist()), tuple(std.tolist())


class LoaderSource:
    """Examples of a map-style torch Dataset, read by worker processes a few batches ahead.

    The dataset returns ``(x, y)`` with ``x`` a uint8 tensor ``[C, H, W]``, a picture of PIL, or a floating point tensor, all of one
    shape. It must be deterministic: augmentation happens here, keyed by index. For an augmentation that cuts out parts, it must have a
    method ``cut(seed, epoch, smallest)`` that returns the dataset of these parts, as `expunge.data.pictures.Pictures` has.

    Args:
        dataset: anything with ``__len__`` and ``__getitem__``.
        labels: int64 ``[N]``; read from the dataset once, example by example, if None.
        device: where batches appear.
        augmentation: as for `TensorSource`.
        workers: processes that read; 0 reads in this one.

    Raises:
        BadInput: empty dataset, or examples of a kind that cannot be used.
    """

    def __init__(
        self,
        dataset: Any,
        labels: Sequence[int] | Tensor | None = None,
        device: torch.device | str = "cpu",
        augmentation: Augmentation | None = None,
        workers: int = 0,
    ) -> None:
        if len(dataset) == 0:
            raise BadInput("data", "the dataset is empty.")
        if labels is None:
            labels = [_label(dataset[position][1], position) for position in range(len(dataset))]
        self.labels = _checked_labels(torch.as_tensor(labels, dtype=torch.int64), len(dataset))
        self.dataset, self.device, self.workers = dataset, torch.device(device), workers
        example = _as_tensor(dataset[0][0])
        self.is_picture, self.input_shape = example.dtype == torch.uint8, tuple(example.shape)
        if not self.is_picture and augmentation is not None:
            raise BadInput("data.augment", "only uint8 pictures are augmented; these inputs are floating point.", "Use data.augment=false.")
        self._alterations = _Alterations(augmentation)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Tensor, size: Size, *, augment: bool, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(x, y)`` on the device for consecutive chunks of ``order``; see `expunge.engine.stream.Source`."""
        chunks = order.split(size)
        drawn = self._alterations.draws(order, size, augment, seed, epoch)
        smallest = self._alterations.smallest_cut if augment else 1.0
        dataset = self.dataset.cut(seed, epoch, smallest) if smallest < 1 else self.dataset
        for chunk, x, draws in zip(chunks, self._read(dataset, chunks), drawn, strict=True):
            if isinstance(x, _Refusal):
                raise BadInput(*x)
            x = x.to(self.device, non_blocking=True)
            if self.is_picture:
                x = self._alterations.finish(x.permute(0, 2, 3, 1).contiguous(), chunk, draws)
            elif x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            yield x, self.labels[chunk].to(self.device)

    def _read(self, dataset: Any, chunks: Sequence[Tensor]) -> Iterator["Tensor | _Refusal"]:
        try:
            yield from self._loaded(dataset, chunks)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            remedy = "Use fewer data.workers (0 reads in one process), or give more memory: in a container, shared memory (--shm-size) too."
            raise BadInput("data.workers", "a process that reads examples was killed, most likely for want of memory.", remedy) from None

    def _loaded(self, dataset: Any, chunks: Sequence[Tensor]) -> Iterator["Tensor | _Refusal"]:
        # A loader per pass: two streams of one source are read in turns, which workers kept between passes cannot do. Its own
        # generator keeps the loader from advancing the global one.
        with warnings.catch_warnings():
            # How many processes read is a field with a default for machines of all sizes; a warning at each pass helps nobody.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            return iter(
                DataLoader(
                    _Guarded(dataset),
                    batch_sampler=[chunk.tolist() for chunk in chunks],
                    num_workers=self.workers,
                    collate_fn=_stack,
                    pin_memory=self.device.type == "cuda",
                    generator=torch.Generator(),
                )
            )

    def altered(self, labels: Tensor, trigger: Trigger | Noise | None = None, triggered: Tensor | None = None) -> Self:
        """Return the source with other labels and a trigger on some pictures; see `TensorSource.altered`."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.labels = _checked_labels(labels, len(self))
        made._alterations = _stamping(self, trigger, triggered)
        return made


def _stamping(source: TensorSource | LoaderSource, trigger: Trigger | Noise | None, triggered: Tensor | None) -> _Alterations:
    old = source._alterations
    if trigger is None:
        return old
    if not source.is_picture:
        raise BadInput("forget", "a trigger or noise can be put on uint8 pictures only; these inputs are floating point.")
    if min(source.input_shape[1:]) < trigger.smallest_side:
        found = f"the trigger needs pictures of {trigger.smallest_side} pixels, these have {source.input_shape[1:]}."
        raise BadInput("forget.size", found, "Choose a smaller one.")
    return _Alterations(old.augmentation, trigger, triggered)


def _checked_labels(labels: Tensor, count: int) -> Tensor:
    if labels.dim() != 1 or len(labels) != count:
        raise BadInput("data.y", f"expected one label for each of {count} examples, got {list(labels.shape)}.")
    if labels.is_floating_point():
        raise BadInput("data.y", f"labels are whole numbers, got {labels.dtype}.")
    labels = labels.to("cpu", torch.int64).contiguous()
    if count and int(labels.min()) < 0:
        raise BadInput("data.y", f"labels count from 0, found {int(labels.min())}.")
    return labels


def _label(y: Any, position: int) -> int:
    try:
        return operator.index(y)
    except (TypeError, RuntimeError):
        found = list(y.shape) if isinstance(y, Tensor) and y.dim() else repr(y)
        raise BadInput("data.y", f"labels are whole numbers, example {position} has {found}.") from None


def _as_tensor(x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        x = np.array(x)  # a copy: arrays that PIL lends are read-only
        x = torch.from_numpy(x)
        if x.dtype == torch.uint8:
            x = x[None] if x.dim() == 2 else x.permute(2, 0, 1)
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise BadInput("data", f"expected uint8 pictures or floating point inputs, got {x.dtype}.")
    return x if x.dtype == torch.uint8 else x.to(torch.float32)


class _Refusal(NamedTuple):
    """A `BadInput` on its way out of a worker process, which would lose its type otherwise."""

    where: str
    problem: str
    remedy: str


class _Guarded(Dataset):
    """A dataset whose `BadInput` comes out as a value."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> "Tensor | _Refusal":
        try:
            x = _as_tensor(self.dataset[position][0])
        except BadInput as error:
            return _Refusal(error.where, error.problem, error.remedy)
        if x.is_floating_point() and not bool(x.isfinite().all()):
            return _Refusal("data", f"example {position} holds values that are not finite.", "Remove or repair it.")
        return x


def _stack(examples: "list[Tensor | _Refusal]") -> "Tensor | _Refusal":
    refused = next((example for example in examples if isinstance(example, _Refusal)), None)
    if refused is not None:
        return refused
    tensors = [example for example in examples if isinstance(example, Tensor)]
    shapes = {tuple(x.shape) for x in tensors}
    if len(shapes) > 1:
        return _Refusal("data", f"examples differ in shape: {sorted(shapes)[:3]}.", "Resize them to one shape.")
    return torch.stack(tensors)
