"""Which parameters may move: score x selection -> mask. Scores and masks are mappings from base name to tensor."""

from collections.abc import Iterable

import torch
from torch import Tensor

from expunge.engine.context import Context
from expunge.engine.parameters import Vector, effective, flat, unflat

Mask = Vector
"""Factors in [0, 1] of the update, by base name; 1 moves freely, 0 never moves."""


def select(score: Vector, *, top: float | None = None, bottom: float | None = None, per_tensor: bool = False) -> Mask:
    """Return the mask of the highest (or lowest) scores: exactly ``floor(share * count)`` ones, ties broken by position.

    Args:
        score: one score per parameter entry.
        top: share to select from above, 0 to 1.
        bottom: share to select from below; give one of the two.
        per_tensor: rank within each tensor instead of over all of them.
    """
    share = top if top is not None else bottom
    if share is None or (top is not None and bottom is not None):
        raise ValueError("give exactly one of top and bottom")
    if per_tensor:
        return {name: select({name: value}, top=top, bottom=bottom)[name] for name, value in score.items()}
    values = flat(score)
    count = int(share * values.numel() + 1e-6)  # 0.29 * 100 is 28.999999999999996
    order = torch.argsort(values, descending=top is not None, stable=True)
    chosen = torch.zeros_like(values)
    chosen[order[:count]] = 1
    return unflat(chosen, score)


def invert(mask: Mask) -> Mask:
    """Return ``1 - mask``."""
    return {name: 1 - value for name, value in mask.items()}


def multiply(first: Mask | None, second: Mask | None) -> Mask | None:
    """Return the product of two masks; a missing mask, or a name that only one has, counts as ones."""
    if first is None or second is None:
        return first if second is None else second
    return {
        name: first[name] * second[name] if name in first and name in second else {**second, **first}[name] for name in {**first, **second}
    }


def only(context: Context, names: Iterable[str]) -> Mask:
    """Return the mask that lets just the named parameters move."""
    chosen = set(names)
    return {name: torch.ones_like(value) if name in chosen else torch.zeros_like(value) for name, value in effective(context.model).items()}


def magnitude(context: Context, dimensions: int = 2) -> Vector:
    """Return ``|w|`` of every weight with at least so many dimensions (2 leaves out biases and norm layers), fixed ones left out."""
    values = effective(context.model)
    return {name: value.detach().abs() for name, value in values.items() if value.dim() >= dimensions and name not in context.fixed}


def random_score(context: Context, like: Vector, purpose: str = "random mask") -> Vector:
    """Return uniform scores with the shapes of ``like``, for control experiments."""
    made = context.generator(purpose)
    return {name: torch.rand(value.shape, generator=made, device=value.device) for name, value in like.items()}


def density(mask: Mask) -> float:
    """Return the mean of a mask over all its entries."""
    return float(sum(value.double().sum() for value in mask.values()) / sum(value.numel() for value in mask.values()))


def frozen_names(mask: Mask) -> set[str]:
    """Return the parameters of which nothing can move."""
    return {name for name, value in mask.items() if not bool((value != 0).any())}


def absolute(vector: Vector) -> Vector:
    """Return entry-wise absolute values."""
    return {name: value.abs() for name, value in vector.items()}


def ones(vector: Vector) -> dict[str, Tensor]:
    """Return the mask that lets everything move."""
    return {name: torch.ones_like(value) for name, value in vector.items()}
