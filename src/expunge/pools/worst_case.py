"""The search for the forget set that is hardest to forget: weights above, unlearning below.

Source: Fan et al., Challenging forgets, ECCV 2024, arXiv 2403.07362, equations 4 to 7.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.engine.context import Context
from expunge.engine.loop import run_phase
from expunge.engine.phase import Phase
from expunge.engine.stream import Batch, Stream
from expunge.engine.terms import Forward, Term
from expunge.engine.update import Optimizer
from expunge.errors import BadInput
from expunge.pools import evidence


class Search(NamedTuple):
    """The end of a search.

    Attributes:
        weight: of each example, float64 ``[n]``, from 0 to 1; they add up to the size of the set.
        loss: of each example after the last unlearning, float64 ``[n]``, in nats.
        values: mean loss of the weighted set in each round, before its step.
    """

    weight: np.ndarray
    loss: np.ndarray
    values: list[float]


def project(values: np.ndarray, total: float, tolerance: float = 1e-12) -> np.ndarray:
    """Return the nearest point ``w`` with ``0 <= w <= 1`` and ``sum(w) == total``, float64 ``[n]``.

    It is ``clip(values - shift, 0, 1)``, where bisection finds the shift.

    Args:
        values: any numbers, ``[n]``.
        total: from 0 to n.
        tolerance: of the shift.

    Raises:
        BadInput: the total is out of reach.
    """
    values = np.asarray(values, dtype=np.float64)
    if not 0 <= total <= len(values):
        raise BadInput("total", f"weights from 0 to 1 of {len(values)} examples cannot add up to {total}.")
    low, high = values.min() - 1, values.max()
    while high - low > tolerance * max(1.0, abs(low), abs(high)):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if np.clip(values - middle, 0, 1).sum() > total:
            low = middle
        else:
            high = middle
    return np.clip(values - (low + high) / 2, 0, 1)


def search(losses_after: Callable[[np.ndarray], np.ndarray], examples: int, size: int, rounds: int, step: float, penalty: float) -> Search:
    """Return weights after projected steps ``w - step * (loss + 2 * penalty * w)``, from equal ones.

    Args:
        losses_after: losses ``[n]`` of all examples after unlearning with weights ``[n]``.
        examples: n.
        size: of the forget set.
        rounds: steps.
        step: size of a step.
        penalty: factor of the sum of squared weights.
    """
    weight, values, loss = np.full(examples, size / examples), [], np.zeros(examples)
    for _ in range(rounds):
        loss = np.asarray(losses_after(weight), dtype=np.float64)
        values.append(float((weight * loss).sum() / size))
        weight = project(weight - step * (loss + 2 * penalty * weight), size)
    return Search(weight, loss, values)


class Unlearner:
    """Fine-tunes a model on all examples, each weighted by one minus its weight, from the same start every time.

    Args:
        model: the original; it is left with the last weights.
        stream: all candidates.
        num_classes: number of logits.
        epochs: epochs.
        lr: size of the steps along the sign of the gradient.
        batch_size: examples a batch.
        seed: of order and augmentation.
    """

    def __init__(self, model: nn.Module, stream: Stream, num_classes: int, epochs: int, lr: float, batch_size: int, seed: int):
        self.model, self.stream, self.num_classes, self.seed = model, stream, num_classes, seed
        self.epochs, self.lr, self.batch_size = epochs, lr, batch_size
        self.start = {name: value.clone() for name, value in model.state_dict().items()}

    def __call__(self, weight: np.ndarray) -> np.ndarray:
        """Return the losses of all candidates after unlearning with weights ``[n]``, float64 ``[n]`` in nats."""
        self.model.load_state_dict(self.start)
        keep = torch.zeros(len(self.stream.source))
        keep[self.stream.index] = torch.from_numpy(1 - weight).float()

        def weighted(context: Context, batch: Batch, student: Forward) -> Tensor:
            return keep[batch.index.cpu()].to(batch.y.device) * F.cross_entropy(student.logits, batch.y, reduction="none")

        context = Context(self.model, {"train": self.stream}, needs={"train"}, seed=self.seed, num_classes=self.num_classes)
        sign = Optimizer("adam", self.lr, {"betas": (0.0, 0.0)})  # without memory Adam divides the gradient by its own size
        run_phase(context, Phase([Term("train", weighted)], epochs=self.epochs, optimizer=sign, batch_size=self.batch_size))
        logits = torch.from_numpy(evidence.outputs(self.model, self.stream)).double()
        return F.cross_entropy(logits, self.stream.labels, reduction="none").numpy()
