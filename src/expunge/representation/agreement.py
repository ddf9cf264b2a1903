"""Agreement with retraining at the outputs, in the features, and both in one number: OUR RECONSTRUCTION of source 004's scores.

The source names logit-level agreement (AGL), representation-level agreement (AGR) and their harmonic mean (H-LR); its formulas were
not available. Numbers from here must not be put beside the published ones.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from expunge.errors import BadInput

PARTS = ("FA", "RA", "TFA", "TRA")
"""Accuracies on forget and retain images of the training set, and on unseen images of the same classes."""


class Agreement(NamedTuple):
    """The three scores, each from 0 to 1, 1 for a model that agrees with the retrained one; our reconstruction."""

    logits: float
    representation: float
    harmonic: float


def agreement(
    accuracies: Mapping[str, float],
    reference: Mapping[str, float],
    alignment: float,
    transfer: Sequence[float],
    reference_transfer: Sequence[float],
) -> Agreement:
    """Return AGL, AGR and H-LR, as we reconstruct them; all arguments are fractions.

    ``AGL = prod over FA, RA, TFA, TRA of (1 - |u - r|)``, ``AGR = CKA(u, r) * mean over downstream sets of (1 - |kNN_u - kNN_r|)``,
    ``H-LR = 2 AGL AGR / (AGL + AGR)``, 0 if both are 0.

    Args:
        accuracies: of the unlearned model, with the four `PARTS`.
        reference: of the retrained model.
        alignment: CKA of the two on the same images; an unbiased estimate below 0 counts as 0.
        transfer: nearest-neighbour accuracy of the unlearned model on each downstream set.
        reference_transfer: of the retrained model, in the same order.

    Raises:
        BadInput: a part is missing, the downstream sets differ in number, or percent were given for fractions.

    Source: our reconstruction of the unified scores of Kim et al., arXiv 2503.06991.
    """
    values = [*(_part(accuracies, name) for name in PARTS), *(_part(reference, name) for name in PARTS), *transfer, *reference_transfer]
    if not all(0 <= value <= 1 for value in values) or alignment > 1 + 1e-9:
        raise BadInput("agreement", f"expected fractions from 0 to 1, found {max([*values, alignment]):g}.", "Divide percent by 100.")
    if len(transfer) != len(reference_transfer) or not len(transfer):
        raise BadInput(
            "agreement.transfer", f"{len(transfer)} and {len(reference_transfer)} downstream sets.", "Give the same ones for both."
        )
    logits = float(np.prod([1 - abs(accuracies[name] - reference[name]) for name in PARTS]))
    near = np.mean([1 - abs(one - two) for one, two in zip(transfer, reference_transfer, strict=True)])
    representation = float(max(0.0, alignment) * near)
    total = logits + representation
    return Agreement(logits, representation, 2 * logits * representation / total if total else 0.0)


def _part(accuracies: Mapping[str, float], name: str) -> float:
    if name not in accuracies:
        raise BadInput(f"agreement.{name}", "this accuracy is missing.", f"Needed: {', '.join(PARTS)}.")
    return float(accuracies[name])
