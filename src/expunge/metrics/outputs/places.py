"""How often the true class is among the first few."""

from expunge.metrics import accuracy
from expunge.metrics.metric import Estimate, share
from expunge.metrics.view import View
from expunge.statistics import NotEnoughEvidence


def top_k_share(view: View, part: str, k: int) -> Estimate:
    """Return the percentage of a part whose true class is among the k largest logits; of equal ones the lower class comes first.

    Raises:
        NotEnoughEvidence: no more than k classes.
    """
    logits, labels = view.of(part)
    if logits.shape[1] <= k:
        raise NotEnoughEvidence(f"not measurable with {logits.shape[1]} classes: every class is among the first {k}")
    return share(accuracy.top_k_hits(logits, labels, k))
