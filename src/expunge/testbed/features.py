"""Frozen features of real data: what the heads of the testbed see, fixed before any head is trained."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.data.dataset import Data
from expunge.data.datasets.fashion_mnist import FashionMnist
from expunge.engine import randomness
from expunge.errors import BadInput

Encoder = Literal["pixels", "conv"]
_FITTED_ON = 2000


class Task(NamedTuple):
    """What a head is trained on: features ``[n, d]`` in float64, labels int64 ``[n]``, number of classes."""

    x: np.ndarray
    labels: np.ndarray
    classes: int


@dataclass(frozen=True, eq=False)
class Features:
    """Features in canonical order: training examples first.

    Attributes:
        x: float64 ``[N + T, d]``, a column for the bias included; rows have length one on average.
        labels: int64 ``[N + T]``.
        train_size: N.
        classes: number of classes.
    """

    x: np.ndarray
    labels: np.ndarray
    train_size: int
    classes: int

    @property
    def task(self) -> Task:
        """What heads are trained on."""
        return Task(self.x[: self.train_size], self.labels[: self.train_size], self.classes)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any feature or label."""
        hashed = hashlib.sha256(f"{self.x.shape} {self.train_size} {self.classes}".encode())
        hashed.update(np.ascontiguousarray(self.x).data)
        hashed.update(np.ascontiguousarray(self.labels).data)
        return hashed.hexdigest()[:16]

    def of_parity(self) -> "Features":
        """Return the same features with two classes, even and odd labels: then a ridge head's log odds are normal, not only its logits."""
        return replace(self, labels=self.labels % 2, classes=2)


def from_arrays(x: np.ndarray, labels: np.ndarray, train_size: int) -> Features:
    """Return given features, for example those of a pretrained network, with a bias column and scaled as one.

    Exactness needs an encoder that never saw the examples that are forgotten.

    Args:
        x: ``[n, d]``.
        labels: whole numbers from 0, ``[n]``.
        train_size: so many of the first examples are for training; the others are never seen.

    Raises:
        BadInput: shapes that do not fit, values that are not finite, labels below 0, or no example on a side.
    """
    x, labels = np.asarray(x, dtype=np.float64), np.asarray(labels)
    if x.ndim != 2 or labels.shape != x.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise BadInput("features", f"expected [n, d] and n whole labels, got {list(x.shape)} and {labels.dtype} {list(labels.shape)}.")
    if not np.isfinite(x).all():
        raise BadInput("features", f"{int((~np.isfinite(x).all(axis=1)).sum())} of {len(x)} rows hold values that are not finite.")
    if not 0 < train_size < len(x):
        raise BadInput("train_size", f"expected 1 to {len(x) - 1} of {len(x)} examples, got {train_size}.")
    if labels.min() < 0 or labels.max() < 1:
        raise BadInput("labels", f"expected at least two classes from 0, got {labels.min()} to {labels.max()}.")
    with_bias = np.concatenate([x, np.full((len(x), 1), np.sqrt((x**2).sum(axis=1).mean() / x.shape[1]))], axis=1)
    scale = np.sqrt((with_bias**2).sum(axis=1).mean())
    if scale == 0:
        raise BadInput("features", "all features are 0.")
    return Features(with_bias / scale, labels.astype(np.int64), train_size, int(labels.max()) + 1)


def frozen(
    data: Data | None = None, train: int = 500, unseen: int = 1500, dimension: int = 64, encoder: Encoder = "pixels", seed: int = 0
) -> Features:
    """Return whitened principal components of examples of a data set.

    The encoder is fitted on up to 2,000 training examples that are in neither part, so that no head's data has any influence on it.

    Args:
        data: the examples; the part of Fashion-MNIST that comes with the package if None.
        train: training examples of the heads.
        unseen: examples that no head is trained on, from the data set's test part.
        dimension: number of components.
        encoder: ``pixels`` themselves, or ``conv``: random filters, a rectifier and pooling before the components.
        seed: of the choice of examples and of the filters.

    Raises:
        BadInput: the data set has too few examples, or they are no pictures and the encoder needs them.
    """
    from threadpoolctl import threadpool_limits

    data = FashionMnist().load() if data is None else data
    pool = randomness.shuffle(seed, "testbed", 0, data.train_index)
    held = randomness.shuffle(seed, "testbed", 0, data.test_index)
    if len(pool) - train <= dimension or unseen > len(held) or min(train, unseen, dimension) < 1:
        found = f"{len(pool)} training examples for {train} and an encoder of {dimension}, {len(held)} test examples for {unseen}."
        raise BadInput("features", found, "Take fewer examples or a smaller dimension.")
    order = torch.cat([pool[:train], held[:unseen], pool[train : train + max(_FITTED_ON, dimension + 1)]])
    encode = _encoder(encoder, data, seed)
    raw = torch.cat([encode(x).flatten(1).double() for x, _ in data.source.batches(order, 500, augment=False, seed=0, epoch=0)])
    with threadpool_limits(1, user_api="blas"):  # another number of threads rounds otherwise
        whitened = _whiten(raw.cpu().numpy(), slice(train + unseen, None), dimension)[: train + unseen]
    return from_arrays(whitened, data.labels[order[: train + unseen]].numpy(), train)


def _encoder(name: Encoder, data: Data, seed: int) -> Callable[[Tensor], Tensor]:
    if name == "pixels":
        return lambda x: x
    if name != "conv":
        raise BadInput("encoder", f"expected pixels or conv, got {name!r}.")
    if len(data.input_shape) != 3:
        raise BadInput("encoder", f"conv needs pictures, the examples have the shape {list(data.input_shape)}.", "Use pixels.")
    filters = torch.randn(48, data.input_shape[0], 5, 5, generator=randomness.generator("cpu", seed, "testbed", "filters"))
    filters -= filters.mean(dim=(1, 2, 3), keepdim=True)
    return lambda x: F.adaptive_avg_pool2d(F.relu(F.conv2d(x.cpu(), filters, stride=2, padding=2)), 4)


def _whiten(raw: np.ndarray, fitted_on: slice, dimension: int) -> np.ndarray:
    """Return the first principal components ``[n, dimension]``, each of variance one on the examples that they are fitted on."""
    centred = raw - raw[fitted_on].mean(axis=0)
    covariance = np.cov(centred[fitted_on], rowvar=False)
    values, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    largest = np.argsort(values)[::-1][:dimension]
    if len(largest) < dimension or values[largest[-1]] <= 1e-10 * values[largest[0]]:
        rank = int((values > 1e-10 * values.max()).sum())
        raise BadInput("dimension", f"the examples have {rank} components that vary, got {dimension}.", "Take fewer.")
    # A component's sign is arbitrary in the decomposition; the entry of largest size settles it.
    axes = vectors[:, largest]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dimension)])
    return centred @ axes / np.sqrt(values[largest])
