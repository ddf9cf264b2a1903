"""Transfer: how well features of a frozen model serve other data, by nearest neighbours."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from expunge.engine import randomness
from expunge.engine.architecture import Architecture
from expunge.representation import features
from expunge.representation.features import Batches
from expunge.statistics import NotEnoughEvidence

Level = Literal["features", "logits"]


@dataclass(frozen=True)
class Downstream:
    """Labelled pictures that the model was not made for, as plain arrays.

    Attributes:
        name: what the set is called.
        x: inputs as the model takes them, float ``[n, ...]`` (pictures in [0, 1], of the model's size); what gives them in batches.
        labels: int ``[n]``.
    """

    name: str
    x: Batches
    labels: np.ndarray

    @classmethod
    def of_pictures(cls, name: str, pictures: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> "Downstream":
        """Return the set of uint8 pictures ``[n, H, W, C]`` resized to ``size`` (height, width) with area averaging."""
        return cls(name, resized(pictures, size), np.asarray(labels, dtype=np.int64))


def resized(pictures: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Return uint8 pictures ``[n, H, W, C]`` as float ``[n, C, height, width]`` in [0, 1], with area averaging."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().div(255)
    if tuple(x.shape[2:]) != tuple(size):
        x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    return x.contiguous()


def fixed_split(labels: np.ndarray, seed: int = 2, test_fraction: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Return positions to remember and to ask about, both ascending: the same on every machine, a share of each class.

    Args:
        labels: int ``[n]``.
        seed: 2 as in the published code, which splits by another generator and not by class.
        test_fraction: share of each class that is asked about, rounded; at least one example of a class is remembered.
    """
    asked = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = randomness.shuffle(seed, "downstream", 0, torch.from_numpy(np.flatnonzero(labels == label))).numpy()
        asked[members[: min(len(members) - 1, round(test_fraction * len(members)))]] = True
    return np.flatnonzero(~asked), np.flatnonzero(asked)


def predict(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, k: int = 20) -> np.ndarray:
    """Return the commonest label among the k nearest known features by cosine, int64 ``[asked]``.

    Equally near ones are taken in the order of ``known``; of equally common labels the one with the larger sum of cosines wins, then the
    smaller label. A feature of length zero has cosine 0 with all.

    Args:
        known: ``[n, D]``.
        labels: int ``[n]``.
        asked: ``[m, D]``.
        k: neighbours.

    Raises:
        NotEnoughEvidence: fewer than k known features.
    """
    if not 1 <= k <= len(known):
        raise NotEnoughEvidence(f"{k} nearest neighbours need {k} known examples, there are {len(known)}")
    classes, numbered = np.unique(labels, return_inverse=True)
    one, two = _unit(known), _unit(asked)
    answers = np.empty(len(asked), dtype=np.int64)
    for start in range(0, len(asked), 1024):
        cosine = np.round(two[start : start + 1024] @ one.T, 12)  # equal features stay equal whatever the order of summation
        near = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        votes = np.zeros((len(near), len(classes)))
        rows = np.repeat(np.arange(len(near)), k)
        np.add.at(votes, (rows, numbered[near].ravel()), 1 + np.take_along_axis(cosine, near, axis=1).ravel() / (4 * k))
        answers[start : start + 1024] = classes[votes.argmax(axis=1)]
    return answers


def accuracy(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, asked_labels: np.ndarray, k: int = 20) -> float:
    """Return the share of ``asked`` that `predict` names right."""
    return float(np.mean(predict(known, labels, asked, k) == asked_labels))


def transfer(
    architecture: Architecture, model: nn.Module, downstream: Downstream, k: int = 20, level: Level = "features", seed: int = 2
) -> float:
    """Return the nearest-neighbour accuracy of a model's features on a downstream set, a fraction.

    Compare |u - r| with |o - r| and with the difference of two retrained models. The published protocol has k = 5.

    Args:
        architecture: of the model.
        model: frozen.
        downstream: split by `fixed_split`.
        k: neighbours; 5 to 200 is usual.
        level: ``features``, or ``logits`` as the published code does against its own paper.
        seed: of the split.

    Source: Kim et al., Are We Truly Forgetting?, arXiv 2503.06991.
    """
    reading = features.read_arrays(architecture, model, downstream.x, downstream.labels)
    values = reading.features if level == "features" else reading.logits
    known, asked = fixed_split(downstream.labels, seed)
    return accuracy(values[known], downstream.labels[known], values[asked], downstream.labels[asked], k)


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)
