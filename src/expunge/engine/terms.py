"""What is minimised: per-example losses on streams, and penalties on the parameters."""

from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.engine.context import Context
from expunge.engine.kernels import Kernel, soft_cross_entropy
from expunge.engine.parameters import Snapshot, Vector, at_least_single
from expunge.engine.stream import Batch, Stream
from expunge.engine.targets import Target


@dataclass(frozen=True)
class Progress:
    """Where a phase is. ``epoch`` and ``step`` count from 0.

    Attributes:
        step: optimiser steps taken.
        total_steps: steps that the phase will take if nothing stops it.
        epoch: epochs finished.
        epochs: epochs of the phase.
    """

    step: int
    total_steps: int
    epoch: int
    epochs: int

    @property
    def fraction(self) -> float:
        """Share of the phase that is done, from 0 towards 1."""
        return self.step / max(1, self.total_steps)


Weight = float | Callable[[Progress], float]
Every = int | Literal["pass"]


class Forward:
    """What the student says about one batch; computed once, however many terms ask."""

    def __init__(
        self,
        context: Context,
        batch: Batch,
        precision: str = "float32",
        others: "Mapping[str, Forward] | None" = None,
        with_features: bool = False,
    ):
        self.context, self.batch, self.precision, self.with_features = context, batch, precision, with_features
        self.others = others if others is not None else {}
        self._logits: Tensor | None = None
        self._features: Tensor | None = None

    def _run(self) -> None:
        """Pass the batch through the student now."""
        model, x, cost = self.context.model, self.batch.x, self.context.cost
        architecture = self.context.architecture if self.with_features else None
        with _autocast(self.precision, x.device):
            if architecture is None:
                self._logits = model(x)
            else:
                with cost.counted_together() as outputs:
                    self._logits, self._features = architecture.forward_with_features(model, x)
                    outputs.append(self._features)
                self._features = at_least_single(self._features)
        self._logits = at_least_single(self._logits)

    @property
    def logits(self) -> Tensor:
        """Float32 ``[B, C]``; float64 of a model in float64."""
        if self._logits is None:
            self._run()
        assert self._logits is not None
        return self._logits

    @property
    def known_logits(self) -> Tensor | None:
        """The logits if a term has asked for them, else None."""
        return self._logits

    @property
    def features(self) -> Tensor:
        """Input of the head, float32 ``[B, D]``; the term must be declared with ``features=True``."""
        if self._logits is None and self.with_features:
            self._run()
        if self._features is None:
            raise RuntimeError("a term reads features without being declared with features=True")
        return self._features

    def other(self, stream: str) -> "Forward":
        """Return the forward of another stream's batch in the same step; the term must name it in ``uses``."""
        if stream not in self.others:
            raise RuntimeError(f"a term reads the batch of {stream!r} without naming it in uses")
        return self.others[stream]

    def take(self, rows: slice, batch: Batch) -> "Forward":
        """Return the part of a joint forward that belongs to one stream's batch."""
        part = Forward(self.context, batch, self.precision, self.others)
        part._logits = self.logits[rows]
        part._features = self.features[rows] if self.with_features else None
        return part


@contextmanager
def _autocast(precision: str, device: torch.device):
    with torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext():
        yield


class Loss(Protocol):
    """Maps a batch and the student's forward to one loss per example, ``[B]``."""

    def __call__(self, context: Context, batch: Batch, student: Forward) -> Tensor:
        """Return float ``[B]``."""
        ...


@dataclass(frozen=True)
class Term:
    """A loss on a stream.

    Attributes:
        stream: name of a declared stream, or a stream that the method has built.
        loss: per-example loss.
        weight: factor of the mean over the batch; negative to ascend; may depend on progress.
        group: whose gradient it belongs to when a combiner treats groups apart; the stream's name if empty.
        uses: other streams whose batch and forward the loss reads in the same step.
        every: contribute only every so many steps (with ``interleave``: every so many of its stream's turns); ``pass``: in as many steps
            as make one pass over its stream in an epoch that another stream defines, spread evenly. A stream waits where none of its terms
            contributes, so that its batches are used one after the other.
        features: whether the loss reads the features.
        reduction: ``mean`` or ``sum`` over the batch.
        name: what it is called in errors and logs.
    """

    stream: str | Stream
    loss: Loss
    weight: Weight = 1.0
    group: str = ""
    uses: tuple[str, ...] = ()
    every: Every = 1
    features: bool = False
    reduction: str = "mean"
    name: str = ""

    @property
    def stream_name(self) -> str:
        """The name of the stream, however it was given."""
        return self.stream if isinstance(self.stream, str) else self.stream.name

    @property
    def group_name(self) -> str:
        """The gradient group."""
        return self.group or self.stream_name

    @property
    def label(self) -> str:
        """A name for people."""
        return self.name or f"{getattr(self.loss, '__name__', 'loss')} on {self.stream_name}"


@dataclass(frozen=True)
class Penalty:
    """A scalar function of the effective parameters, added in every step."""

    loss: Callable[[Context, Vector], Tensor]
    weight: Weight = 1.0
    group: str = "retain"
    name: str = "penalty"

    @property
    def group_name(self) -> str:
        """The gradient group."""
        return self.group

    @property
    def label(self) -> str:
        """A name for people."""
        return self.name


def cross_entropy(context: Context, batch: Batch, student: Forward) -> Tensor:
    """Return the cross entropy with the true label, natural logarithm, ``[B]``."""
    return F.cross_entropy(student.logits, batch.y, reduction="none")


def smoothed_cross_entropy(smoothing: float) -> Loss:
    """Return the cross entropy with label smoothing: target ``(1 - s) onehot + s / C``."""

    def smoothed_cross_entropy_loss(context: Context, batch: Batch, student: Forward) -> Tensor:
        return F.cross_entropy(student.logits, batch.y, reduction="none", label_smoothing=smoothing)

    return smoothed_cross_entropy_loss


def match(target: Target, kernel: Kernel = soft_cross_entropy) -> Loss:
    """Return the loss that draws the student's distribution to a target's.

    Args:
        target: what the student should say about a batch.
        kernel: how the difference is measured.
    """

    def loss(context: Context, batch: Batch, student: Forward) -> Tensor:
        return kernel(target(context, batch), student.logits)

    loss.__name__ = f"match({_name(target)})"
    return loss


def _name(function: object) -> str:
    if isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def l1(context: Context, parameters: Vector) -> Tensor:
    """Return the sum of the absolute values of all parameters, biases and norm layers included."""
    return torch.stack([value.abs().sum() for value in parameters.values()]).sum()


def distance_to(anchor: Snapshot, importance: Vector | None = None) -> Callable[[Context, Vector], Tensor]:
    """Return the penalty ``1/2 sum_i w_i (theta_i - anchor_i)^2``, with ``w = 1`` or an importance such as the Fisher diagonal."""

    def distance(context: Context, parameters: Vector) -> Tensor:
        total = []
        for name, value in parameters.items():
            square = (value - anchor[name]) ** 2
            total.append((square if importance is None else square * importance[name]).sum())
        return 0.5 * torch.stack(total).sum()

    return distance
