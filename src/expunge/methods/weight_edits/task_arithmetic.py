"""Differences of weights, which task vectors are made of."""

from collections.abc import Sequence

import torch

from expunge.engine.context import Context
from expunge.engine.parameters import Vector, leaves
from expunge.engine.phase import Phase
from expunge.engine.terms import Term, cross_entropy
from expunge.engine.update import sgd


def weights(ctx: Context) -> Vector:
    """Return a copy of the model's weights by base name, those that its author has frozen left out."""
    return {name: value.detach().clone() for name, value in leaves(ctx.model).items() if name not in ctx.fixed}


def difference(after: Vector, before: Vector) -> Vector:
    """Return ``after - before``."""
    return {name: value - before[name] for name, value in after.items()}


def plus(start: Vector, vector: Vector, scale: float) -> Vector:
    """Return ``start + scale * vector``."""
    return {name: torch.add(value, vector[name], alpha=scale) for name, value in start.items()}


def agreed_mean(vectors: Sequence[Vector]) -> Vector:
    """Return the mean of several vectors where all of them have the same sign, and zero elsewhere.

    Source: Kim et al., NegMerge, ICML 2025, arXiv 2410.05583.
    """
    merged = {}
    for name in vectors[0]:
        stacked = torch.stack([vector[name] for vector in vectors])
        agreed = stacked.sign().sum(0).abs() == len(vectors)
        merged[name] = torch.where(agreed, stacked.mean(0), torch.zeros_like(stacked[0]))
    return merged


def fine_tune_on_forget(*, lr: float, epochs: int, batch_size: int, name: str = "fine-tune on the forget set") -> Phase:
    """Return the phase that fits the forget set with SGD 0.9 without weight decay and with frozen statistics."""
    return Phase(
        [Term("forget", cross_entropy)],
        epochs=epochs,
        optimizer=sgd(lr, weight_decay=0.0),
        batch_size=batch_size,
        norm="frozen",
        name=name,
    )
