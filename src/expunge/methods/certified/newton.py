"""The mathematics of Newton removal for one-vs-rest linear classifiers; everything in float64.

The objective of class k over examples ``x_i`` with targets ``t_ik`` in {-1, 1} is
``sum_i loss(w_k . x_i, t_ik) + penalty * n / 2 ||w_k||^2 + b_k . w_k``, a sum over examples, not a mean.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.errors import BadInput

LossName = Literal["logistic", "ridge"]

CURVATURE_SLOPE = {"logistic": 1 / (6 * math.sqrt(3)), "ridge": 0.0}
"""Lipschitz constant of the second derivative of the loss in the score: the largest ``|s''|`` of the logistic function s."""


def slopes(scores: Tensor, targets: Tensor, loss: LossName) -> Tensor:
    """Return the derivative of the loss by the score: logistic ``-t s(-t z)``, ridge ``z - t``; same shape."""
    return scores - targets if loss == "ridge" else -targets * torch.sigmoid(-targets * scores)


def curvatures(scores: Tensor, loss: LossName) -> Tensor:
    """Return the second derivative of the loss by the score: logistic ``s(z) s(-z)``, ridge 1; same shape."""
    return torch.ones_like(scores) if loss == "ridge" else torch.sigmoid(scores) * torch.sigmoid(-scores)


def gradient(weights: Tensor, x: Tensor, targets: Tensor, *, penalty: float, noise: Tensor, loss: LossName) -> Tensor:
    """Return the gradient ``[K, D]`` of all objectives at ``weights [K, D]`` for ``x [n, D]`` and ``targets [n, K]``."""
    return slopes(x @ weights.T, targets, loss).T @ x + penalty * len(x) * weights + noise


def hessians(weights: Tensor, x: Tensor, *, penalty: float, loss: LossName) -> Tensor:
    """Return the Hessians ``[K, D, D]``."""
    curvature = curvatures(x @ weights.T, loss)
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return torch.stack([x.T @ (column[:, None] * x) for column in curvature.T]) + penalty * len(x) * identity


def objective(weights: Tensor, x: Tensor, targets: Tensor, *, penalty: float, noise: Tensor, loss: LossName) -> Tensor:
    """Return the sum of the objectives."""
    scores = x @ weights.T
    each = 0.5 * (scores - targets) ** 2 if loss == "ridge" else F.softplus(-targets * scores)
    return each.sum() + 0.5 * penalty * len(x) * (weights**2).sum() + (noise * weights).sum()


def minimise(x: Tensor, targets: Tensor, *, penalty: float, noise: Tensor, loss: LossName, iterations: int = 100) -> Tensor:
    """Return the minimiser ``[K, D]``, found by Newton steps with halving.

    Raises:
        BadInput: the gradient does not become small.
    """
    settings: dict[str, Any] = {"penalty": penalty, "noise": noise, "loss": loss}
    weights = torch.zeros_like(noise)
    tolerance = 1e-9 * max(1.0, float(noise.norm()), len(x) ** 0.5)
    for _ in range(iterations):
        slope = gradient(weights, x, targets, **settings)
        if float(slope.norm()) <= tolerance:
            return weights
        step = torch.linalg.solve(hessians(weights, x, penalty=penalty, loss=loss), slope[..., None])[..., 0]
        present, length = objective(weights, x, targets, **settings), 1.0
        while length > 1e-6 and not objective(weights - length * step, x, targets, **settings) <= present:
            length /= 2
        weights = weights - length * step
    raise BadInput("penalty", f"no minimum found in {iterations} steps.", "Use a larger penalty.")


def removal(weights: Tensor, kept: Tensor, gone: Tensor, gone_targets: Tensor, *, penalty: float, loss: LossName) -> tuple[Tensor, float]:
    """Return the weights after one Newton step that removes examples, and a bound on the norm of the gradient that the step adds.

    ``w + H^-1 D`` with H the Hessian over what is kept and ``D = sum over what goes of (loss gradient + penalty w)``. The bound is
    ``slope ||X||_2 ||H^-1 D||_2 ||X H^-1 D||_2`` for every class, joined over classes as the norm of the vector of bounds.

    Args:
        weights: ``[K, D]``.
        kept: examples that stay, ``[n, D]``, of length at most one.
        gone: examples that go, ``[m, D]``, of length at most one.
        gone_targets: their targets, ``[m, K]``.
        penalty: of the objective, per example.
        loss: of the objective.

    Source: Guo et al., Certified Data Removal from Machine Learning Models, ICML 2020, arXiv 1911.03030, equation 3 and corollary 1.
    """
    change = slopes(gone @ weights.T, gone_targets, loss).T @ gone + penalty * len(gone) * weights
    step = torch.linalg.solve(hessians(weights, kept, penalty=penalty, loss=loss), change[..., None])[..., 0]
    length = torch.linalg.matrix_norm(kept, ord=2)
    bounds = CURVATURE_SLOPE[loss] * length * step.norm(dim=1) * (kept @ step.T).norm(dim=0)
    return weights + step, float(bounds.norm())
