"""How a batch of features lies relative to a teacher's: kernels over features ``[B, D]``, beside those of `engine.kernels` over logits."""

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-12


def similarity_preserving(target: Tensor, features: Tensor) -> Tensor:
    """Return ``||R(S S^T) - R(T T^T)||_F / B^2`` where R gives every row length one, ``[B]``.

    It is one number for the whole batch and depends on who else is in it; every example gets the same value, so that the mean over the
    batch is that number.

    Source: Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, equation 4, where the norm is squared; not squared in
    the code of arXiv 2503.06991, whose weights belong to this form.
    """
    difference = _similarities(features) - _similarities(target)
    value = torch.linalg.vector_norm(difference) / len(features) ** 2
    return value.expand(len(features))


def _similarities(features: Tensor) -> Tensor:
    return F.normalize(features @ features.T, dim=1)


def relational(target: Tensor, features: Tensor) -> Tensor:
    """Return distance-wise plus angle-wise relational loss of unit features, ``[B]``.

    Needs memory for ``B^2 D + B^3`` numbers.

    Source: Park et al., Relational Knowledge Distillation, CVPR 2019, equations 5 to 9.
    """
    target, features = F.normalize(target, dim=1), F.normalize(features, dim=1)
    return distances_apart(target, features) + angles_apart(target, features)


def distances_apart(target: Tensor, features: Tensor) -> Tensor:
    """Return for each example the mean over the batch of the smooth-L1 difference of relative distances, ``[B]``.

    Distances are Euclidean and divided by the mean of the positive ones, which makes the loss blind to a common scale.
    """
    return F.smooth_l1_loss(_relative_distances(features), _relative_distances(target), reduction="none").mean(1)


def _relative_distances(features: Tensor) -> Tensor:
    distance = torch.linalg.vector_norm(features[:, None] - features[None], dim=2)
    mean = distance.sum() / (distance > 0).sum().clamp_min(1)
    return distance / mean.clamp_min(_TINY)


def angles_apart(target: Tensor, features: Tensor) -> Tensor:
    """Return for each example the mean over pairs of the smooth-L1 difference of the cosines of the angle at that example, ``[B]``."""
    return F.smooth_l1_loss(_cosines(features), _cosines(target), reduction="none").mean((1, 2))


def _cosines(features: Tensor) -> Tensor:
    """Return ``[B, B, B]``: at example i the cosine between the directions to j and to k; 0 where there is no direction."""
    difference = features[None] - features[:, None]
    length = torch.linalg.vector_norm(difference, dim=2, keepdim=True)
    unit = torch.where(length > _TINY, difference / length.clamp_min(_TINY), torch.zeros_like(difference))
    return unit @ unit.transpose(1, 2)


def misaligned(target: Tensor, features: Tensor) -> Tensor:
    """Return one minus the linear CKA of a batch, biased as in the code, the same number for every example, ``[B]``.

    Source: Kornblith et al., ICML 2019, equations 3 and 4; the gradient of a batch whose features do not vary is zero.
    """
    own, wanted = features - features.mean(0), target - target.mean(0)
    cross, first, second = ((a.T @ b).pow(2).sum() for a, b in ((own, wanted), (own, own), (wanted, wanted)))
    return (1 - cross / (first * second).clamp_min(_TINY).sqrt()).expand(len(features))


def misaligned_and_dissimilar(target: Tensor, features: Tensor) -> Tensor:
    """Return `misaligned` plus a tenth of `similarity_preserving`, ``[B]``: weights of 100 and 10 when this is weighted by 100."""
    return misaligned(target, features) + 0.1 * similarity_preserving(target, features)
