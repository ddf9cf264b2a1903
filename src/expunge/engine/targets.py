"""What the student should say about a batch: functions of (context, batch) that return labels ``[B]`` or logits ``[B, C]``."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.engine import randomness
from expunge.engine.context import Context, TeacherKind
from expunge.engine.stream import Batch

Target = Callable[[Context, Batch], Tensor]


def true_label(context: Context, batch: Batch) -> Tensor:
    """Return the labels as they are."""
    return batch.y


def uniform(context: Context, batch: Batch) -> Tensor:
    """Return the uniform distribution."""
    return torch.zeros(len(batch), context.num_classes, device=batch.x.device)


def random_label(redraw: Literal["epoch", "once"] = "epoch", exclude_true: bool = True) -> Target:
    """Return a target of uniformly random labels, keyed by (seed, example, phase and epoch).

    Args:
        redraw: new labels every epoch, or the same all the time.
        exclude_true: never the true label (the papers); False allows it (several reference codes).
    """

    def random_labels(context: Context, batch: Batch) -> Tensor:
        # Methods that repeat a phase of one epoch redraw too, and so the phase is part of the key.
        purpose, epoch = (f"random_label/{context.phase}", batch.epoch) if redraw == "epoch" else ("random_label", 0)
        classes = context.num_classes
        if not exclude_true:
            return randomness.integers(context.seed, purpose, epoch, batch.index, classes)
        shift = 1 + randomness.integers(context.seed, purpose, epoch, batch.index, classes - 1)
        return (batch.y + shift) % classes

    return random_labels


def teacher(kind: TeacherKind = "original", number: int = 0) -> Target:
    """Return the logits of the original, of a randomly initialised net ("bad teacher") or of a retrained one (diagnostic)."""

    def teacher_logits(context: Context, batch: Batch) -> Tensor:
        return context.logits_of(kind, batch.x, number)

    teacher_logits.__name__ = f"{kind} teacher"
    return teacher_logits


def masked_teacher(context: Context, batch: Batch) -> Tensor:
    """Return the original's logits with the true class removed, so that its probability is renormalised over the others."""
    return context.logits_of("original", batch.x).scatter(1, batch.y[:, None], float("-inf"))


def second_best(context: Context, batch: Batch) -> Tensor:
    """Return the original's most likely class other than the true one."""
    return masked_teacher(context, batch).argmax(dim=1)


def retained_best(context: Context, batch: Batch) -> Tensor:
    """Return the original's most likely class among those that are not forgotten as a whole."""
    logits = context.logits_of("original", batch.x)
    logits[:, list(context.forget_classes)] = float("-inf")
    return logits.argmax(dim=1)


def adversarial_label(epsilon: float = 0.1, exclude_true: bool = True) -> Target:
    """Return the class that the original gives to the example after one FGSM step in pixel space.

    Args:
        epsilon: step, in units of the [0, 1] pixel range.
        exclude_true: where the attack fails, take the best wrong class; False keeps the true one (the reference code).
    """

    def nearest_wrong_label(context: Context, batch: Batch) -> Tensor:
        model = context.teacher("original")
        x = batch.x.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            loss = F.cross_entropy(model(x).float(), batch.y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        moved = (batch.x + epsilon * gradient.sign()).clamp(0, 1)
        logits = context.logits_of("original", moved)
        if exclude_true:
            logits = logits.scatter(1, batch.y[:, None], float("-inf"))
        return logits.argmax(dim=1)

    return nearest_wrong_label


def constant_class(number: int) -> Target:
    """Return the same class for every example."""
    return partial(_constant, number=number)


def _constant(context: Context, batch: Batch, number: int) -> Tensor:
    return torch.full_like(batch.y, number)
