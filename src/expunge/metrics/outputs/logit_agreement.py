"""Agreement with a retrained model at the outputs, in one number."""

from typing import ClassVar

from expunge.metrics.outputs.agreements import Reconstructed, logits_agreement
from expunge.metrics.view import View


class LogitAgreement(Reconstructed):
    """Product of 1 - |accuracy gap| to the retrained model over forget and retain images, of the training set and unseen; 0 to 1.

    OUR RECONSTRUCTION of source 004's AGL: the source names the score and its formula was not available. Do not put it beside published
    numbers. Accuracies only: it is passed by editing the head alone.
    """

    label: ClassVar[str] = "AGL (ours)"
    inspection: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "our reconstruction of Kim et al., arXiv 2503.06991 (AGL)"
    deviations: ClassVar[tuple[str, ...]] = ("the formula is a reconstruction",)
    below: ClassVar[str] = "accuracies differ more from a retrained model's than two retrained models' do"

    def score(self, view: View, reference: View) -> float:
        """Return the score."""
        return logits_agreement(view, reference)
