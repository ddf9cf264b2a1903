"""What attacks with a base pool take from a view: forgotten and unseen examples, treated alike.

A base model is trained on half of the forget set and on none of the unseen examples, so that a forget example has half as many models that
never saw it. An attack that took them all would know unseen examples better, and call a retrained model's forget set different. Each unseen
example therefore borrows the plan of a forget example: the same number of its models count as not trained on it.
"""

from typing import NamedTuple

import numpy as np

from expunge.errors import BadInput
from expunge.metrics.view import Reference, View


class Targets(NamedTuple):
    """Forgotten examples, then unseen ones.

    Attributes:
        margins: of the judged model, float64 ``[n]``.
        references: of the base pool's models, float32 ``[K, n]``.
        outside: which of them count as not trained on the example, bool ``[K, n]``.
        forgotten: whether the example is of the forget set, bool ``[n]``.
    """

    margins: np.ndarray
    references: np.ndarray
    outside: np.ndarray
    forgotten: np.ndarray

    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of the forgotten and of the unseen examples."""
        return values[self.forgotten], values[~self.forgotten]


def targets(view: View) -> Targets:
    """Return the forgotten and unseen examples of a view, made once.

    Raises:
        BadInput: a part or its references are missing, or their sizes differ.
    """
    return view.once("attack targets", lambda: _targets(view))


def _targets(view: View) -> Targets:
    margins = [view.margin(part) for part in ("forget", "unseen")]
    found = [checked_reference(view, part) for part in ("forget", "unseen")]
    plans = [reference.inside for reference in found]
    if plans[0].any() and not plans[1].any():
        plans[1] = borrowed(plans[0], found[1].margins)
    return Targets(
        np.concatenate(margins),
        np.concatenate([reference.margins for reference in found], axis=1),
        ~np.concatenate(plans, axis=1),
        np.repeat([True, False], [len(part) for part in margins]),
    )


def checked_reference(view: View, part: str) -> Reference:
    """Return what the base pool says about a part.

    Raises:
        BadInput: it is about another number of examples, or there is none.
    """
    reference, n = view.reference(part), view.size(part)
    if reference.margins.shape != reference.inside.shape or reference.margins.shape[1] != n:
        found = f"{n} examples, and base models' margins {list(reference.margins.shape)} with plan {list(reference.inside.shape)}."
        raise BadInput(f"view.{part}", found, "Take both from one split.")
    return reference


def borrowed(plan: np.ndarray, margins: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return for each example the column of a plan drawn at random, bool ``[K, n]``; it moves with the example when rows are permuted.

    Args:
        plan: which model is trained on which example, bool ``[K, m]``.
        margins: of the models on the examples that borrow, ``[K, n]``; they identify an example.
        seed: of the draw.
    """
    columns = plan[:, np.lexsort(plan)]
    drawn = np.random.default_rng(seed).integers(plan.shape[1], size=margins.shape[1])
    found = np.empty(margins.shape, dtype=bool)
    found[:, np.lexsort(margins)] = columns[:, drawn]
    return found


def halves(margins: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return whether each example is in the first of two random halves, bool ``[n]``; it moves with the example, as in `borrowed`."""
    n = margins.shape[1]
    found = np.empty(n, dtype=bool)
    found[np.lexsort(margins)] = np.random.default_rng(seed).permutation(n) < n // 2
    return found
