"""Directions of classes: those along which the head reads them, and those that are peculiar to some."""

import torch
from torch import Tensor

from expunge.engine.context import Context
from expunge.engine.detection import weight_of
from expunge.errors import BadInput

_SMALLEST = 1e-6
"""Directions shorter than this part of the longest are not told from rounding."""


def orthonormal(vectors: Tensor) -> Tensor:
    """Return an orthonormal basis ``[D, r]`` of the span of the columns of ``[D, k]``, float64, r the numerical rank."""
    left, lengths, _ = torch.linalg.svd(vectors.double(), full_matrices=False)
    return left[:, lengths > _SMALLEST * lengths.amax()] if lengths.numel() and bool(lengths.amax() > 0) else left[:, :0]


def without_forgotten_rows(ctx: Context) -> Tensor:
    """Return the projection ``[D, D]`` of features off the head's rows of the forgotten classes, in the head's precision.

    For one class u it is ``I - w_u w_u^T / |w_u|^2``.
    """
    weight = weight_of(ctx.architecture.head).detach().flatten(1)
    basis = orthonormal(weight[list(ctx.forget_classes)].T)
    return (torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device) - basis @ basis.T).to(weight.dtype)


def peculiar_directions(own: Tensor, own_labels: Tensor, kept: Tensor, kept_labels: Tensor) -> Tensor:
    """Return an orthonormal basis ``[D, r]`` of the forgotten classes' means freed of the span of the retained classes' means.

    What is left of a mean and is shorter than a millionth of it is rounding, and left out.
    """
    means, span = class_means(own, own_labels), orthonormal(class_means(kept, kept_labels))
    rest = means - span @ (span.T @ means)
    return orthonormal(rest[:, rest.norm(dim=0) > _SMALLEST * means.norm(dim=0)])


def class_means(values: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of each class that occurs as a column, ``[D, K]``, float64."""
    labels = labels.to(values.device)
    return torch.stack([values[labels == label].double().mean(0) for label in labels.unique()], dim=1)


def probe_accuracy(first: Tensor, second: Tensor) -> float:
    """Return how well a linear probe tells two sets apart, 0 to 1; both sets weigh the same.

    It is ridge regression, fitted to every other example and asked about the rest.

    Raises:
        BadInput: a set has fewer than two examples.
    """
    if min(len(first), len(second)) < 2:
        found = f"the probe needs two examples of each side, and there are {len(first)} forgotten and {len(second)} retained."
        raise BadInput("forget", found, "Choose another method.")
    halves = [part[::2].double() for part in (first, second)]
    centre = (halves[0].mean(0) + halves[1].mean(0)) / 2
    weights = torch.cat([torch.full((len(part), 1), len(part) ** -0.5).to(part) for part in halves])
    target = torch.cat([torch.full((len(part),), sign).to(part) for part, sign in zip(halves, (1.0, -1.0), strict=True)])
    direction = ridge(weights * (torch.cat(halves) - centre), weights[:, 0] * target)
    hits = [(sign * ((part[1::2].double() - centre) @ direction) > 0).double().mean() for part, sign in ((first, 1), (second, -1))]
    return float(sum(hits) / 2)


def ridge(x: Tensor, y: Tensor, penalty: float = 1e-3) -> Tensor:
    """Return ``argmin_w |x w - y|^2 + p |w|^2``, ``[D]``, with p a share of the mean square length of x's rows or columns, the fewer."""
    wide = x.shape[0] < x.shape[1]
    gram = x @ x.T if wide else x.T @ x
    ridged = gram + (penalty * gram.diagonal().mean() + 1e-12) * torch.eye(len(gram), dtype=x.dtype, device=x.device)
    return x.T @ torch.linalg.solve(ridged, y) if wide else torch.linalg.solve(ridged, x.T @ y)
