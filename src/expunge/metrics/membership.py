"""Membership attacks on one model: who was in the training set, judged by one feature.

Conventions. Label 1 is a member. An attack takes the feature of members and of non-members to fit on and of targets to judge, and
returns for each target whether it is called a member. *Forget efficacy* is the share of the forget set called NON-member;
other papers print the share called member, which is 1 minus that. Neither has 0, 0.5 or 1 as its good value: the good value is the
retrained model's. These are population attacks: one rule for all examples, and weak where examples differ in difficulty.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from expunge.metrics import roc

if TYPE_CHECKING:
    from expunge.metrics.view import View

Attack = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(members, nonmembers, targets) -> bool ``[targets]``: called a member."""


def loss_area(view: "View", members: str = "forget", nonmembers: str = "unseen") -> roc.Area:
    """Return the AUC of -loss for two parts; above 0.5 the first part looks more like training data than the second."""
    return roc.area(-view.loss(members), -view.loss(nonmembers))


def loss_auc(member_losses: np.ndarray, nonmember_losses: np.ndarray) -> float:
    """Return the AUC of -loss; above 0.5 the first group looks like members."""
    return roc.auc(-member_losses, -nonmember_losses)


def entropy_auc(member_entropies: np.ndarray, nonmember_entropies: np.ndarray) -> float:
    """Return the AUC of -entropy (or -modified entropy); above 0.5 the first group looks like members."""
    return roc.auc(-member_entropies, -nonmember_entropies)


def svc_membership(members: np.ndarray, nonmembers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the calls of the published attack, bool ``[targets]``, fitted on every point.

    Quadratic in the points: minutes above 20,000. Takes a feature ``[n]`` or the vector of probabilities ``[n, C]``.

    Source: Jia et al., Unlearn-Sparse, NeurIPS 2023 (SVC_MIA): SVC(C=3, gamma="auto", kernel="rbf").
    """
    points = np.concatenate([members, nonmembers]).reshape(len(members) + len(nonmembers), -1)
    labels = np.repeat([1, 0], [len(members), len(nonmembers)])
    return _support_vectors(points, labels, None, targets.reshape(len(targets), -1))


def svc_membership_binned(members: np.ndarray, nonmembers: np.ndarray, targets: np.ndarray, bins: int = 1024) -> np.ndarray:
    """Return the calls of the published attack on one feature, bool ``[targets]``, fitted on weighted bins.

    The fit points of each class are replaced by the bins' means with their counts as weights, over equal bins of the joint range;
    exact where the feature has no more distinct values than bins. Agrees with the full fit on about 999 of 1000 targets
    at 20,000 points, tens of times faster.

    Source: as `svc_membership`.
    """
    low, high = min(members.min(), nonmembers.min()), max(members.max(), nonmembers.max())
    distinct = np.unique(np.concatenate([members, nonmembers]))
    edges = distinct if len(distinct) <= bins else np.linspace(low, high, bins + 1)[:-1]
    groups = [_binned(values, edges) for values in (members, nonmembers)]
    points, weights = (np.concatenate(parts) for parts in zip(*groups, strict=True))
    labels = np.repeat([1, 0], [len(means) for means, _ in groups])
    return _support_vectors(points[:, None], labels, weights, targets[:, None])


def _binned(values: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    which = np.searchsorted(edges, values, side="right") - 1
    counts = np.bincount(which, minlength=len(edges))
    sums = np.bincount(which, weights=values, minlength=len(edges))
    held = counts > 0
    return sums[held] / counts[held], counts[held].astype(np.float64)


def _support_vectors(points: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, targets: np.ndarray) -> np.ndarray:
    from sklearn.svm import SVC

    classifier = SVC(C=3, gamma="auto", kernel="rbf").fit(points, labels, sample_weight=weights)
    distinct, inverse = np.unique(targets, axis=0, return_inverse=True)
    return classifier.predict(distinct)[inverse.reshape(-1)] == 1


def threshold_membership(members: np.ndarray, nonmembers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the calls of the best threshold, bool ``[targets]``: member where the feature is at or above it.

    The threshold maximises balanced accuracy on the fit points over all cuts between their values, exactly, in O(n log n); the lowest of
    equally good ones. It is a stronger attack than the SVC on the points it is fitted on, and gives another number.
    """
    return targets >= best_threshold(members, nonmembers)


def best_threshold(members: np.ndarray, nonmembers: np.ndarray) -> float:
    """Return the cut with the largest balanced accuracy of "member at or above"; midway between values, or -inf for "all members"."""
    values = np.unique(np.concatenate([members, nonmembers]))
    cuts = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    recall = 1 - np.searchsorted(np.sort(members), cuts) / len(members)
    rejected = np.searchsorted(np.sort(nonmembers), cuts) / len(nonmembers)
    return float(cuts[np.argmax(recall + rejected)])


def draw(values: np.ndarray, size: int, seed: int = 0) -> np.ndarray:
    """Return ``size`` entries drawn without replacement, or all when there are no more.

    The published code takes the first ``size`` instead, which are no sample: data sets are sorted by class or edited in place.
    """
    if size >= len(values):
        return values
    return values[np.sort(np.random.default_rng(seed).choice(len(values), size, replace=False))]


def forget_efficacy(attack: Attack, members: np.ndarray, nonmembers: np.ndarray, forget: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return whether each forget example is called a non-member, bool ``[forget]``; the mean is the published number.

    Args:
        attack: see `Attack`.
        members: feature of the retain set; a sample as large as the smaller group is drawn from each group.
        nonmembers: feature of the test set, without the test images of wholly forgotten classes.
        forget: feature of the forget set.
        seed: of the draw; the same for all models that are compared.
    """
    size = min(len(members), len(nonmembers))
    return ~attack(draw(members, size, seed), draw(nonmembers, size, seed), forget)


def training_privacy(attack: Attack, members: np.ndarray, nonmembers: np.ndarray, seed: int = 0) -> float:
    """Return how well the attack tells retain from test examples that it was not fitted on: mean of the two recalls.

    0.5 means that it cannot. Fitted on half of the smaller group's size from each group; judged on all the rest.
    """
    half = min(len(members), len(nonmembers)) // 2
    mixed = [values[np.random.default_rng(seed).permutation(len(values))] for values in (members, nonmembers)]
    rest = [values[half:] for values in mixed]
    called = attack(mixed[0][:half], mixed[1][:half], np.concatenate(rest))
    return float((called[: len(rest[0])].mean() + (~called[len(rest[0]) :]).mean()) / 2)


def balanced_median(first: np.ndarray, second: np.ndarray) -> float:
    """Return the smallest value that at least half of both groups, each with weight one half, does not exceed."""
    values = np.concatenate([first, second])
    weights = np.repeat([0.5 / len(first), 0.5 / len(second)], [len(first), len(second)])
    order = np.argsort(values, kind="stable")
    return float(values[order][np.searchsorted(np.cumsum(weights[order]), 0.5 - 1e-12)])
