"""Where the classes lie in the feature space of the model: centroids, and Gaussians after a power transform."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.engine.context import Context
from expunge.engine.parameters import modes_kept
from expunge.engine.stream import Stream, scoring_size
from expunge.errors import BadInput

EPSILON = 1e-6
"""Added under the power, whose slope at zero would be infinite."""


@torch.no_grad()
def features_of(ctx: Context, stream: str | Stream, size: int = 0) -> tuple[Tensor, Tensor]:
    """Return the model's features ``[n, D]`` in eval mode and the labels ``[n]`` over a whole stream, on the model's device."""
    features, labels = [], []
    with modes_kept(ctx.model):
        ctx.model.eval()
        for batch in ctx.stream(stream).batches(scoring_size(ctx.device, size)):
            features.append(ctx.architecture.forward_with_features(ctx.model, batch.x)[1].float())
            labels.append(batch.y)
    return torch.cat(features), torch.cat(labels)


def centroids(features: Tensor, labels: Tensor, fewest: int = 1) -> tuple[Tensor, Tensor]:
    """Return the mean feature of each class ``[K, D]`` and the classes ``[K]``.

    Raises:
        BadInput: fewer than two classes have as many examples as are needed.
    """
    classes = torch.tensor([label for label in labels.unique().tolist() if (labels == label).sum() >= fewest], device=labels.device)
    if len(classes) < 2:
        raise BadInput("retain", f"the method needs two classes with at least {fewest} examples, and there are {len(classes)}.")
    return torch.stack([features[labels == label].mean(0) for label in classes]), classes


def nearest_wrong(features: Tensor, labels: Tensor, centres: Tensor, classes: Tensor) -> Tensor:
    """Return for each example the position of the centroid of another class with the smallest cosine distance, int64 ``[n]``."""
    cosine = F.normalize(features, dim=1) @ F.normalize(centres, dim=1).T
    return cosine.masked_fill(labels[:, None] == classes, -torch.inf).argmax(1)


def tukey(features: Tensor, power: float) -> Tensor:
    """Return the power transform ``x^power`` with a finite slope at zero; negative features keep their sign."""
    return features.sign() * ((features.abs() + EPSILON) ** power - EPSILON**power)


def shrunk(covariance: Tensor, diagonal: float, off_diagonal: float) -> Tensor:
    """Return ``S + a V1 I + b V2 (1 - I)`` with V1 and V2 the means of the entries on and off the diagonal."""
    identity = torch.eye(len(covariance), device=covariance.device, dtype=covariance.dtype)
    mean_on = covariance.diagonal().mean()
    mean_off = (covariance.sum() - covariance.diagonal().sum()) / (len(covariance) * (len(covariance) - 1))
    return covariance + diagonal * mean_on * identity + off_diagonal * mean_off * (1 - identity)


def correlation(covariance: Tensor) -> Tensor:
    """Return the matrix divided by the standard deviations of its rows and columns."""
    deviation = covariance.diagonal().sqrt()
    return covariance / (deviation[:, None] * deviation[None])


@dataclass(frozen=True)
class Gaussians:
    """Classes as Gaussians over transformed features.

    Attributes:
        means: means of the transformed features, ``[K, D]``.
        inverses: pseudo-inverses of the normalised covariances, ``[K, D, D]``; 1000 classes of 2048 features take 16 GB.
        classes: int64 ``[K]``.
        power: of the transform.
    """

    means: Tensor
    inverses: Tensor
    classes: Tensor
    power: float

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, *, power: float, shrink: float) -> "Gaussians":
        """Return the Gaussians of the classes with two examples or more; covariances are shrunk twice and normalised."""
        transformed = tukey(features.double(), power)
        means, classes = centroids(transformed, labels, fewest=2)
        covariances = [torch.cov(transformed[labels == label].T) for label in classes]
        inverses = [
            torch.linalg.pinv(correlation(shrunk(shrunk(part, shrink, shrink), shrink, shrink)), hermitian=True) for part in covariances
        ]
        return cls(means.float(), torch.stack(inverses).float(), classes, power)

    def distances(self, features: Tensor) -> Tensor:
        """Return squared Mahalanobis distances between unit transformed features ``[B, D]`` and unit means, ``[B, K]``."""
        difference = F.normalize(tukey(features, self.power), dim=1)[:, None] - F.normalize(self.means, dim=1).to(features.dtype)
        return torch.einsum("bkd,kde,bke->bk", difference, self.inverses.to(features.dtype), difference)
