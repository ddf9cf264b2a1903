"""Several gradients -> one update.

A combiner takes ``{group: gradients}`` (lists in the same order of parameters) and a mutable state of its own, and returns one list.
No combiner means the sum, which needs a single backward pass. A step in which only one group has a term (``every``) gives one group.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from expunge.engine.parameters import dot, norm

Gradients = list[Tensor]
Combiner = Callable[[Mapping[str, Gradients], dict[str, Any]], Gradients]

_TINY = 1e-30


def _axpy(a: float | Tensor, x: Gradients, y: Gradients) -> Gradients:
    return [(v + a * u).to(v.dtype) for u, v in zip(x, y, strict=True)]


def _scale(a: float | Tensor, x: Gradients) -> Gradients:
    return [(a * u).to(u.dtype) for u in x]


def total(gradients: Mapping[str, Gradients], state: dict[str, Any] | None = None) -> Gradients:
    """Return the plain sum."""
    return [torch.stack(parts).sum(0) for parts in zip(*gradients.values(), strict=True)]


def weighted(**weights: float) -> Combiner:
    """Return the combiner ``sum_g weight_g * gradient_g``."""

    def combine(gradients: Mapping[str, Gradients], state: dict[str, Any]) -> Gradients:
        return total({name: _scale(weights[name], parts) for name, parts in gradients.items()})

    return combine


def pcgrad(only: str | None = None) -> Combiner:
    """Remove from each group's gradient the component that conflicts with another's (negative inner product), then add.

    Args:
        only: change only this group's gradient; every group's if None.

    Source: Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, algorithm 1. With two groups the random order of the
    paper changes nothing.
    """

    def combine(gradients: Mapping[str, Gradients], state: dict[str, Any]) -> Gradients:
        projected = {}
        for name, own in gradients.items():
            result = own
            for other_name, other in gradients.items():
                if other_name == name or (only is not None and name != only):
                    continue
                conflict = dot(result, other)
                result = _axpy(-torch.clamp(conflict, max=0) / dot(other, other).clamp_min(_TINY), other, result)
            projected[name] = result
        return total(projected)

    return combine


def minimum_norm(gradients: Mapping[str, Gradients], state: dict[str, Any]) -> Gradients:
    """Return the shortest vector on the segment between two groups' gradients; a single group's as it is.

    Source: Desideri, MGDA, 2012; closed form for two tasks as in Sener and Koltun, NeurIPS 2018, equation 4.
    """
    if len(gradients) == 1:
        return next(iter(gradients.values()))
    first, second = gradients.values()
    difference = _axpy(-1.0, first, second)
    share = (dot(difference, second) / dot(difference, difference).clamp_min(_TINY)).clamp(0, 1)
    return _axpy(1 - share, second, _scale(share, first))


def nash(gradients: Mapping[str, Gradients], state: dict[str, Any]) -> Gradients:
    """Return the Nash bargaining direction of two groups: ``(u + v) / sqrt(1 + cos)`` of their unit gradients ``u, v``.

    Source: Wu and Harandi, MUNBa, ICCV 2025, arXiv 2411.15537; the exact two-player solution rather than the released approximation.
    Opposite gradients have no solution; the direction is then zero. A single group's gradient is returned as it is.
    """
    if len(gradients) == 1:
        return next(iter(gradients.values()))
    u, v = (_scale(1 / norm(parts).clamp_min(_TINY), parts) for parts in gradients.values())
    cosine = dot(u, v)
    factor = torch.where(cosine > -1 + 1e-9, (1 + cosine).clamp_min(1e-9).rsqrt(), torch.zeros_like(cosine))
    return _scale(factor, _axpy(1.0, u, v))


def of_unit_length(combiner: Combiner) -> Combiner:
    """Return the combiner that first scales every group's gradient to length one; a zero gradient stays zero."""

    def combine(gradients: Mapping[str, Gradients], state: dict[str, Any]) -> Gradients:
        return combiner({name: _scale(1 / norm(parts).clamp_min(_TINY), parts) for name, parts in gradients.items()}, state)

    return combine


def orthogonal(group: str, to: str) -> Combiner:
    """Return one group's gradient without its component along another's, whatever the sign; the other's own step is left out.

    Args:
        group: whose gradient is projected.
        to: whose gradient the result is orthogonal to, over all parameters together.
    """

    def combine(gradients: Mapping[str, Gradients], state: dict[str, Any]) -> Gradients:
        own, other = gradients[group], gradients[to]
        return _axpy(-dot(own, other) / dot(other, other).clamp_min(_TINY), other, own)

    return combine
