"""How far the student's logits are from a target: per-example functions of (target, logits).

A target is either labels, int64 ``[B]``, or logits ``[B, C]`` of the wanted distribution (minus infinity is probability zero).
All logarithms are natural; divergences sum over classes and never average over them.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]


def _probabilities(target: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    if target.dtype == torch.int64:
        return F.one_hot(target, logits.shape[1]).to(logits.dtype)
    return torch.softmax(target / temperature, dim=1)


def _refuse_labels(target: Tensor) -> None:
    if target.dtype == torch.int64:
        raise TypeError("this kernel compares logits, and the target is labels")


def soft_cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """Return ``-sum_c q_c log p_c``, ``[B]``."""
    if target.dtype == torch.int64:
        return F.cross_entropy(logits, target, reduction="none")
    return -(_probabilities(target, logits) * torch.log_softmax(logits, dim=1)).sum(dim=1)


def kl(temperature: float = 1.0, scale: bool = False) -> Kernel:
    """Return ``KL(target || student)`` at a temperature, times the temperature squared if ``scale``."""

    def kl_to_target(target: Tensor, logits: Tensor) -> Tensor:
        q = _probabilities(target, logits, temperature)
        value = (torch.xlogy(q, q) - q * torch.log_softmax(logits / temperature, dim=1)).sum(dim=1)
        return value * temperature**2 if scale else value

    return kl_to_target


def reverse_kl(target: Tensor, logits: Tensor) -> Tensor:
    """Return ``KL(student || target)``; infinite where the target has probability zero.

    Raises:
        TypeError: the target is labels.
    """
    _refuse_labels(target)
    log_p = torch.log_softmax(logits, dim=1)
    return (log_p.exp() * (log_p - torch.log_softmax(target, dim=1))).sum(dim=1)


def mean_squared_logits(target: Tensor, logits: Tensor) -> Tensor:
    """Return the mean over classes of the squared difference of logits.

    Raises:
        TypeError: the target is labels, which would broadcast.
    """
    _refuse_labels(target)
    return ((logits - target) ** 2).mean(dim=1)


def jensen_shannon(target: Tensor, logits: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence in nats, at most ``log 2``."""
    log_p, q = torch.log_softmax(logits, dim=1), _probabilities(target, logits)
    # In logarithms: the gradient of p log p is NaN where a confident student's p has become zero.
    log_middle = torch.logaddexp(log_p, q.log()) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - log_middle) + torch.xlogy(q, q) - q * log_middle).sum(dim=1)


def squared_entropy_gap(target: Tensor, logits: Tensor) -> Tensor:
    """Return the squared difference of the entropies of target and student, in nats squared.

    Raises:
        TypeError: the target is labels, whose entropy is zero.
    """
    _refuse_labels(target)
    return (_entropy(logits) - _entropy(target)) ** 2


def _entropy(logits: Tensor) -> Tensor:
    log_p = torch.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)
